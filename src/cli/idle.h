/* Does anybody use the store? Linked by airplant, for `airplant switch`. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

/* Locks that everybody who has the store open holds too; they stay taken until the process ends.
 * Outcomes: 0, or negative and a sentence that says who is in the way. `state_fd`: the state
 * directory. */
int idle_lock(int state_fd, const char *state, struct err *e);
/* Nobody listens on the daemon's socket. It is not connected to: that would start a daemon. */
int idle_check_socket(const char *socket, struct err *e);
/* No process of any of these users. */
int idle_check_users(const uid_t *uids, size_t n, struct err *e);
