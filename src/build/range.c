/* A build that gets a whole range of ids and is root of it (the feature uid-range): its user
 * namespace I owns all its other namespaces, so that it can mount, make networks and run
 * containers.
 *
 * I cannot reach what belongs to the daemon, so its file system is made before: by a process with
 * the slot's id and O's capabilities, in the supervisor's own mount namespace. The builder gets a
 * copy of that, in which the kernel locks every mount as it is: what is read-only stays so. Linked
 * by airplant-build alone. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "build/supervisor.h"

enum { SENTENCE_MAX = 8192 };

static _noreturn_ void make_root(struct build *b, int fd)
{
	struct err e = { 0 };
	int r = child_become_slot(b, &e);

	umask(022);
	if (r == 0)
		r = child_reopen_scratch(b, &e);
	if (r == 0)
		r = root_scratch(b, &e);
	if (r == 0)
		r = root_make(b, &e);
	if (r < 0)
		(void)write_full(fd, err_msg(&e), strlen(err_msg(&e))); /* or nobody listens */
	_exit(r < 0 ? 1 : 0);
}

static int see_out(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

int range_root(struct build *b, struct err *e)
{
	char text[SENTENCE_MAX], root[4096];
	int fds[2], r;
	ssize_t n;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(e, -errno, "creating a pipe");
	pid = fork();
	if (pid == 0)
		make_root(b, fds[1]);
	close(fds[1]);
	do
		n = pid < 0 ? 0 : read(fds[0], text, sizeof(text) - 1);
	while (n < 0 && errno == EINTR);
	close(fds[0]);
	r = pid < 0 ? -errno : see_out(pid);
	if (n > 0) {
		text[n] = 0;
		return err_set(e, -EIO, "while setting up the build environment: %s", text);
	}
	if (r < 0)
		return err_errno(e, r, "making the builder's root directory");
	/* The builder finds it as its working directory: on the way to it lies what it may not
	 * pass. */
	root_path(b, root, sizeof(root));
	return chdir(root) < 0 ? err_errno(e, -errno, "changing into '%s'", root) : 0;
}

static int write_map(pid_t pid, const char *name, uint64_t count)
{
	_cleanup_close_ int fd = -1;
	char path[64], text[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	snprintf(text, sizeof(text), "0 0 %llu", (unsigned long long)count);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -errno : write_full(fd, text, strlen(text));
}

int range_map(struct build *b, struct err *e)
{
	int r = write_map(b->pid, "uid_map", b->ids.count);

	if (r == 0)
		r = write_map(b->pid, "gid_map", b->ids.count);
	if (r == 0)
		r = write_full(b->status_fd, "M", 1);
	return r < 0 ? err_errno(e, r, "mapping the builder's ids") : 0;
}

int range_leave(struct build *b, struct err *e)
{
	if (chdir("/") < 0 || umount2(b->s.scratch, MNT_DETACH) < 0)
		return err_errno(e, -errno, "leaving the builder's root directory");
	return 0;
}
