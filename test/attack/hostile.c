/* A process of ours that somebody else has taken over: started in the place of airplant-session or
 * airplant-build, inside whatever the core makes for it, it does what a test tells it, one system
 * call at a time. It puts on none of its walls unless it is told to, so that a test can try each.
 *
 *   'B'                -> address of its scratch memory
 *   'W' addr len data  -> nothing         'R' addr len -> data
 *   'S' nr arg[6]      -> the result of the system call, -errno on failure
 *   'C' nr arg[6]      -> the same, by a child that then ends
 *   'P' profile        -> confine_seal()  'L' profile  -> Landlock alone
 *
 * Numbers are 64 bits. A session is told over its client's connection (the first message of the
 * core stays in the scratch memory), a supervisor over a socket beside its executable. */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine/confine.h"
#include "confine/profiles.h"

static _Alignas(4096) uint8_t scratch[8 << 20];
static int from;

static void whole(void *data, size_t len, int writes)
{
	uint8_t *p = data;

	while (len > 0) {
		struct pollfd pfd = { .fd = from, .events = writes ? POLLOUT : POLLIN };
		ssize_t n = writes ? write(from, p, len) : read(from, p, len);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
		} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
			_exit(0);
		} else {
			(void)poll(&pfd, 1, -1);
		}
	}
}

static uint64_t number(void)
{
	uint64_t n;

	whole(&n, sizeof(n), 0);
	return n;
}

static long make_call(const uint64_t a[7])
{
	long r = syscall((long)a[0], a[1], a[2], a[3], a[4], a[5], a[6]);

	return r < 0 ? -errno : r;
}

static long in_child(const uint64_t a[7])
{
	int pipes[2], status;
	long r = -ECHILD;
	pid_t pid;

	if (pipe(pipes) < 0 || (pid = fork()) < 0)
		return -errno;
	if (pid == 0) {
		r = make_call(a);
		_exit(write(pipes[1], &r, sizeof(r)) != sizeof(r));
	}
	close(pipes[1]);
	if (read(pipes[0], &r, sizeof(r)) != sizeof(r))
		r = -ECHILD;
	close(pipes[0]);
	waitpid(pid, &status, 0);
	return r;
}

static void serve(void)
{
	for (;;) {
		uint64_t what = number(), a[7];
		struct err e = {};
		long r = 0;

		switch (what) {
		case 'B':
			r = (long)(uintptr_t)scratch;
			break;
		case 'W':
			a[0] = number();
			a[1] = number();
			whole((void *)(uintptr_t)a[0], a[1], 0);
			continue;
		case 'R':
			a[0] = number();
			a[1] = number();
			whole((void *)(uintptr_t)a[0], a[1], 1);
			continue;
		case 'S':
		case 'C':
			whole(a, sizeof(a), 0);
			r = what == 'S' ? make_call(a) : in_child(a);
			break;
		case 'P':
			r = confine_seal((enum confine_profile)number(), &e);
			break;
		case 'L':
			a[0] = number();
			r = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
			if (r == 0)
				r = confine_wall(&confine_seals[a[0]], &e);
			break;
		default:
			_exit(2);
		}
		whole(&r, sizeof(r), 1);
	}
}

static int client_of_session(void)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 8)];
	} control;
	struct iovec iov = { scratch, sizeof(scratch) };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control.bytes,
			    .msg_controllen = sizeof(control.bytes) };
	int fd = -1;

	if (recvmsg(3, &m, 0) <= 0 || !CMSG_FIRSTHDR(&m))
		_exit(0); /* a spare that was never needed */
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

static int listener_of_supervisor(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char exe[64];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (n <= 0 || fd < 0)
		_exit(2);
	exe[n] = 0;
	snprintf(a.sun_path, sizeof(a.sun_path), "%.64s.commands", exe);
	/* Nobody there: a spare, or a test that is over. */
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		_exit(0);
	return fd;
}

int main(int argc, char **argv)
{
	if (argc > 2)
		return 0; /* a cleaner: of no use to anybody here */
	from = strstr(argv[0], "session") ? client_of_session() : listener_of_supervisor();
	serve();
}
