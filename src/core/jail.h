/* The jail of sessions: namespaces with a small tree, made once. A process of the core's own, the
 * porter, stays inside and starts the programs of sessions there; they are the core's children.
 *
 *   /view/store   the store, read-only         /view/db   the database, read-only
 *   /spool        the spool, for the porter alone: a session gets a view of its own directory
 *                 in it, and /view for its root
 *
 * No network, nothing of the machine's file system but these. A session starts without any
 * capability. The porter never hears of clients and reads nothing but the core's requests. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

struct core;
struct jail;

/* Prepares the jail for the store that is open. Needs core->spool. 0, or an error that names what
 * the machine refuses. */
int jail_new(struct core *core, struct jail **ret, struct err *e);
void jail_free(struct jail *j);
/* Starts airplant-session with `chan_fd` as its fd 3 and a view of the spool directory `spool_path`
 * (as spool_make gave it; its name becomes argv[1]) as its fd 4. The child dies with the core. 0 or
 * -errno with a sentence; -EPIPE when the porter is gone: the jail has to be made anew. */
int jail_spawn(struct jail *j, const char *spool_path, int chan_fd, pid_t *ret_pid, int *ret_pidfd,
	       struct err *e);
