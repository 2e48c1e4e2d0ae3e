/* What the two privileged helpers have in common: how they get their sockets, find the user whom
 * they serve, and tell him from others. Reads no foreign byte. libc and src/base alone; linked by
 * airplant-ids and airplant-roots. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* A decimal number that fits. 0 or -EINVAL. */
int helper_number(const char *text, uint32_t *ret);
/* Listening sockets of this type from the service manager, as fds 3 and on; every other fd but 0
 * to 2 is closed. How many (`max` at most; others do not count), or -errno. */
int helper_inherit(int type, int max);
/* A listening socket at a path. The fd, or an error. */
int helper_listen(const char *path, int type, struct err *e);
/* A user by name or number; a number needs no entry unless its group is wanted (`gid`: or NULL). */
int helper_user(const char *name, uid_t *ret, gid_t *gid, struct err *e);
/* The next connection, if that user made it; else -1. */
int helper_accept(int listener, uid_t peer, int flags);
