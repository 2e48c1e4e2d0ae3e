/* A daemon out of a real session and the tests' core: `serve DIR SOCKET [STORE_DIR] [untrusted]`.
 * Real clients can talk to it where there is no room for a jail. Never installed. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <signal.h>

#include "fake_core.h"

int main(int argc, char **argv)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct fake_core f = { .trusted = true };

	if (argc < 3)
		return 2;
	if (argc > 3)
		f.store_dir = argv[3];
	f.trusted = argc < 5;
	fake_core_init(&f, argv[1]);
	(void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", argv[2]);
	(void)unlink(argv[2]);
	(void)signal(SIGCHLD, SIG_IGN);
	(void)signal(SIGPIPE, SIG_IGN);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 16) < 0) {
		perror(argv[2]);
		return 1;
	}
	for (;;) {
		int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		if (client < 0)
			continue;
		if (fork() == 0) {
			(void)signal(SIGCHLD, SIG_DFL);
			fake_core_serve(&f, client);
			_exit(0);
		}
		close(client);
	}
}
