/* Starting another program: vfork-like, with exactly the fds that are named. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

struct spawn {
	const char *path;  /* absolute */
	char *const *argv; /* NULL-terminated */
	char *const *envp; /* NULL-terminated */
	const int *fds; /* fds[i] of ours becomes targets[i] of the child; the caller keeps his */
	const int *targets; /* each below 32 */
	size_t n_fds;	    /* at most 8 */
};

/* Runs the program with an empty signal mask and default SIGPIPE; fds 0 to 2 are inherited unless
 * mapped, every other fd must be close-on-exec. The child dies unreported: the caller waits for it
 * with the pidfd (waitid P_PIDFD). 0, or the errno of clone(2) or of execve(2) in the child.
 * Not reentrant: single-threaded callers only. */
int spawn_child(const struct spawn *s, int *ret_pidfd, pid_t *ret_pid);
