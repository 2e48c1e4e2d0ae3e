/* What a failed build leaves behind when the client asked to keep it (feature row E11). Linked by
 * the core. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/* Before the build: makes <scratch>/keep, in which the supervisor copies what `uid` may read then,
 * and nobody else but the daemon. 0; KEEP_PRIVATE: the file system cannot grant that, so that the
 * copy is the daemon's alone; or -errno. */
enum { KEEP_PRIVATE = 1 };
int build_keep_prepare(int scratch_fd, uid_t uid);
/* Before a build without a sandbox: an empty directory in `dir`, under whose name the builder sees
 * its own, so that scripts that it leaves there still work when it is kept. KEEP_ELSEWHERE: the
 * builder could not get there (`own_uid`: it is the daemon's user); it has its directory in the
 * scratch then. 0 with its path (heap), or -errno. */
enum { KEEP_ELSEWHERE = 1 };
int build_keep_reserve(const char *dir, const char *drv_name, const char *scratch, bool own_uid,
		       char **ret_path, struct err *e);
/* Moves <scratch>/keep to `reserved`, or (NULL) to a fresh name in `dir`. `ret_path` (heap) is
 * where it lies now. -ENOENT when there is nothing to keep. */
int build_keep(int scratch_fd, const char *reserved, const char *dir, const char *drv_name,
	       char **ret_path, struct err *e);
