/* What is to be deleted and belongs to the daemon: a directory that a child process empties in the
 * background, holding no lock and no other fd than that directory. What is in it when the daemon
 * dies is deleted by the next one. It lies in the spool, on the store's own mount.
 *
 * Files of build ids never come here: lost.h. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct core;
struct trash;
struct trash_wait;

/* `spool_fd` stays the caller's; `spool_dir` is its path. What lies there already is deleted soon.
 */
int trash_open(struct core *core, int spool_fd, const char *spool_dir, struct trash **ret,
	       struct err *e);
/* Stops the child; its work is done by the next one. Waits for a trash_wait are forgotten. */
void trash_close(struct trash *t);

/* Renames `name` beneath `dirfd` (same mount; a whole tree, or anything else) into core->trash:
 * it is gone for everybody at once and deleted later. 0 also when nothing is there, or -errno:
 * then it is where it was. Never waits, whatever the size. */
int trash_put(struct core *core, int dirfd, const char *name);
/* The same. TRASH_SMALL: if it is a file, then a small one; that is deleted at once, since it takes no
 * longer, and not counted. */
enum trash_hint { TRASH_ANY, TRASH_SMALL };
int trash_put_known(struct core *core, int dirfd, const char *name, enum trash_hint hint);
/* The same for what is no store object: trash_freed() does not count it. */
int trash_put_uncounted(struct core *core, int dirfd, const char *name);

/* Bytes of store objects deleted since trash_open (sizes of files, as upstream counts: a file with
 * three or more names frees nothing). It grows while the child works. */
uint64_t trash_freed(const struct core *core);
/* Calls `done` once, from the loop, when everything put in so far is deleted (`complete`), or some
 * of it could not be (it is in the log, and tried again later). 0 or -ENOMEM. */
int trash_when_empty(struct core *core, void (*done)(void *ctx, bool complete), void *ctx,
		     struct trash_wait **ret);
void trash_forget(struct trash_wait *w); /* before `done` was called; NULL is fine */
