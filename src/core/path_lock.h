/* The lock files of paths that are being built: `PATH.lock` beside the path in the store, with
 * flock(2) on it. The daemon needs none for itself; other programs that open the same store (root's
 * own nix, another daemon that is not told to keep away) take them as well, and then one of the two
 * waits instead of building the same.
 *
 * As upstream has them (every version since 0.8): whoever gives a lock up because the path is there
 * removes the file and writes into it, so that one who had opened it meanwhile sees that it is not
 * the lock any more. Linked by airplantd. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/strv.h"

struct core;

struct path_locks {
	struct strv names; /* in the store directory */
	int *fds;
	uint64_t generation; /* of the store they are in */
};

/* Somebody else has one of them: none is held. */
enum { PATH_LOCK_BUSY = 1 };

/* Takes them all (`names` with ".lock" behind each), without waiting. 0, PATH_LOCK_BUSY with the
 * name in `ret_busy` (in `names`), or -errno with a sentence. */
int path_locks_take(const struct core *core, const struct strv *names, struct path_locks *ret,
		    const char **ret_busy, struct err *e);
/* None is fine. */
void path_locks_drop(const struct core *core, struct path_locks *l);

/* Does anybody have the lock file, or directory, of this name? */
bool path_lock_is_held(int dirfd, const char *name);
