/* What a failed build leaves behind when the client asked to keep it (feature row E11). Linked by
 * the core. */
#pragma once

#include "base/err.h"

/* Moves <scratch>/build, which the supervisor has given to us, to a fresh name in `dir`, readable
 * for all. `ret_path` (heap) is where it lies now. -ENOENT when there is nothing to keep. */
int build_keep(int scratch_fd, const char *dir, const char *drv_name, char **ret_path,
	       struct err *e);
