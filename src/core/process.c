/* Short-lived children of the core. See process.h. Linked by airplantd. */
#include "core/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

struct child {
	int pidfd;
	struct loop_fd *watch;
	void (*done)(void *ctx, int status);
	void *ctx;
};

int fork_pidfd(pid_t *ret_pid, int *ret_pidfd)
{
	pid_t pid = fork();
	int fd;

	if (pid < 0)
		return -errno;
	if (pid == 0)
		return 0;
	/* The child is not reaped by anybody else: the number cannot be another's yet. */
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0) {
		int r = -errno;

		(void)kill(pid, SIGKILL); /* our own child, not yet reaped */
		(void)waitpid(pid, NULL, 0);
		return r;
	}
	*ret_pid = pid;
	*ret_pidfd = fd;
	return 1;
}

void child_basics(pid_t parent)
{
	sigset_t none;

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
}

static void ended(void *ctx, uint32_t events)
{
	struct child *c = ctx;
	siginfo_t si = {};
	int status = -1;

	(void)events;
	if (waitid(P_PIDFD, (id_t)c->pidfd, &si, WEXITED) == 0 && si.si_code == CLD_EXITED)
		status = si.si_status;
	loop_remove(c->watch);
	close(c->pidfd);
	if (c->done)
		c->done(c->ctx, status);
	free(c);
}

/* Everything but standard error and the one fd is closed: above all the listening socket and the
 * channels, whose other ends must see the core's death at once. */
static void close_others(int *keep_fd)
{
	if (keep_fd && *keep_fd >= 0) {
		if (*keep_fd != 3 && dup2(*keep_fd, 3) < 0)
			_exit(1);
		*keep_fd = 3;
		(void)close_range(4, ~0U, 0);
	} else {
		(void)close_range(3, ~0U, 0);
	}
}

int child_run(struct loop *l, int (*fn)(void *ctx), void *fn_ctx, int *keep_fd,
	      void (*done)(void *ctx, int status), void *done_ctx, struct child **ret)
{
	struct child *c = calloc(1, sizeof(*c));
	pid_t self = getpid(), pid;
	int r;

	if (!c)
		return -ENOMEM;
	r = fork_pidfd(&pid, &c->pidfd);
	if (r == 0) {
		child_basics(self);
		close_others(keep_fd);
		_exit(fn(fn_ctx));
	}
	if (r < 0) {
		free(c);
		return r;
	}
	c->done = done;
	c->ctx = done_ctx;
	r = loop_add(l, c->pidfd, EPOLLIN, ended, c, &c->watch);
	if (r < 0) {
		siginfo_t si;

		/* It works on; nobody can wait for it without the loop, so wait here. */
		(void)waitid(P_PIDFD, (id_t)c->pidfd, &si, WEXITED);
		close(c->pidfd);
		free(c);
		return r;
	}
	if (ret)
		*ret = c;
	return 0;
}

void child_forget(struct child *c)
{
	if (c)
		c->done = NULL;
}

void child_stop(struct child *c)
{
	if (!c)
		return;
	c->done = NULL;
	(void)syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0); /* or it has ended */
}
