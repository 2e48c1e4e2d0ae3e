/* Equal files of the store share one inode: each has a second name in <store>/.links, after the
 * hash of its NAR (feature row A20; upstream's optimise-store.cc is the source of the format).
 *
 * By directory fds alone, never through a symlink. Killed at any point it leaves every file whole,
 * at worst a directory that its owner may write. Linked by the core's child. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct optimise {
	int store, links, temp; /* directories on one mount; `temp` is private, for one name */
	/* Inodes that have a name in .links, sorted: what is among them is not read again. */
	ino_t *known;
	size_t n_known;
	/* Something was repaired: what .links has is measured before it is put in its place. */
	bool distrust;
	uint64_t files, bytes; /* replaced so far, and what that freed */
	void (*note)(void *ctx, unsigned level, const char *text);
	void *ctx;
};

/* Fills `known` (heap). 0 or -errno. */
int optimise_learn(struct optimise *o);
/* One store path. What has gone meanwhile, or cannot be linked, is left as it is. 0, -errno, or
 * TREE_BAD, with a sentence. */
int optimise_path(struct optimise *o, const char *name, struct err *e);
