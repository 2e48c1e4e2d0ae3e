/* See spawn.h. The child shares our memory until it executes (CLONE_VM | CLONE_VFORK): a core
 * with a large heap starts a build as fast as a small one, and an error of execve needs no pipe.
 * In the child only system calls that touch its own fd table and signal state are made. */
#include "core/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/macro.h"

enum { MAX_FDS = 8, FIRST_FREE_FD = 32, STACK_BYTES = 64 * 1024 };

struct child {
	const struct spawn *s;
	const sigset_t *mask;
	int error; /* written by the child, read by the parent */
};

/* Frames of a child that never returns would leave their marks on the stack it leaves behind. */
#define _on_borrowed_stack_ __attribute__((no_sanitize("address")))

_on_borrowed_stack_ static int place_fds(const struct spawn *s)
{
	int high[MAX_FDS];

	/* Twice, so that a source that is another's target is not overwritten. */
	for (size_t i = 0; i < s->n_fds; i++) {
		high[i] = fcntl(s->fds[i], F_DUPFD_CLOEXEC, FIRST_FREE_FD);
		if (high[i] < 0)
			return -errno;
	}
	for (size_t i = 0; i < s->n_fds; i++)
		if (dup2(high[i], s->targets[i]) < 0)
			return -errno;
	return 0;
}

_on_borrowed_stack_ static int child_main(void *arg)
{
	struct child *c = arg;
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	int r;

	/* No handler of ours may run in memory that we share. */
	for (int sig = 1; sig < NSIG; sig++)
		(void)sigaction(sig, &dfl, NULL); /* KILL and STOP refuse, which is fine */
	r = place_fds(c->s);
	if (r == 0) {
		(void)sigprocmask(SIG_SETMASK, c->mask, NULL); /* cannot fail: valid pointer */
		execve(c->s->path, c->s->argv, c->s->envp);
		r = -errno;
	}
	c->error = r;
	_exit(127);
}

int spawn_child(const struct spawn *s, int *ret_pidfd, pid_t *ret_pid)
{
	static _Alignas(64) char stack[STACK_BYTES];
	sigset_t all, old, none;
	struct child c = { .s = s, .mask = &none };
	int pidfd = -1, saved;
	pid_t pid;

	if (s->n_fds > MAX_FDS)
		return -EINVAL;
	sigfillset(&all);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &all, &old);
	pid = clone(child_main, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD,
		    &c, &pidfd);
	saved = errno;
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return -saved;
	if (c.error) {
		siginfo_t si;

		(void)waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED); /* it has ended already */
		close(pidfd);
		return c.error;
	}
	*ret_pidfd = pidfd; /* CLONE_PIDFD sets close-on-exec */
	*ret_pid = pid;
	return 0;
}
