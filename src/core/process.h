/* Short-lived children of the core that do one slow thing in a copy of its image: deleting,
 * flushing, preparing the jail. They never read what a client or a builder sent. */
#pragma once

#include <sys/types.h>

#include "core/loop.h"

struct child;

/* Forks. The child keeps standard error and `keep_fd` (updated to its number there; NULL: none),
 * dies with the core, runs `fn` and exits with its value. `done` is told the exit status, or -1
 * when a signal ended it. 0 or -errno. */
int child_run(struct loop *l, int (*fn)(void *ctx), void *fn_ctx, int *keep_fd,
	      void (*done)(void *ctx, int status), void *done_ctx, struct child **ret);
/* Nobody wants to know any more; the child goes on. NULL is fine. */
void child_forget(struct child *c);
/* The same, and it is ended now. */
void child_stop(struct child *c);

/* fork() that also gives a pidfd. 0 in the child, 1 in the parent, or -errno. */
int fork_pidfd(pid_t *ret_pid, int *ret_pidfd);
/* In a fresh child: no inherited signal mask, dies with the parent `parent`. */
void child_basics(pid_t parent);
