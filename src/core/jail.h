/* The jail of sessions: namespaces prepared once, entered by every session before its program
 * starts.
 *
 *   /view/store   the store, read-only         /view/db   the database, read-only
 *   /spool        the spool; a session keeps a view of its own directory in it, and goes
 *                 behind /view for good before it hears of a client
 *
 * No network, nothing of the machine's file system but these. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

struct core;
struct jail;

/* Prepares the jail for the store that is open. Needs core->spool. 0, or an error that names what
 * the machine refuses. */
int jail_new(struct core *core, struct jail **ret, struct err *e);
void jail_free(struct jail *j);
/* Starts airplant-session with `chan_fd` as its fd 3 and the spool directory `spool_path` (as
 * spool_make gave it; its name becomes argv[1]). The child dies with the core. 0 or -errno with a
 * sentence. */
int jail_spawn(struct jail *j, const char *spool_path, int chan_fd, pid_t *ret_pid, int *ret_pidfd,
	       struct err *e);
