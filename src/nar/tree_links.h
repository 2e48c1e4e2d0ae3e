/* Accounting for hard links inside one tree: internal to libtree. Pure. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "base/macro.h"

struct tree_link {
	dev_t dev;
	ino_t ino;
	nlink_t nlink, seen; /* links the inode has, and how many of them were found */
	bool done;	     /* a mark for the caller */
	char *path;	     /* the first one found; NULL: a free slot */
};

struct tree_links {
	struct tree_link *slots;
	size_t n_slots, n;
};

void tree_links_done(struct tree_links *t);
struct tree_link *tree_links_get(const struct tree_links *t, const struct stat *st);
/* Counts one more link to the inode. `path` (heap) becomes the table's, or is freed. 0 or -ENOMEM.
 */
int tree_links_count(struct tree_links *t, const struct stat *st, char *path);
/* An inode that has a link outside of what was counted, or NULL. */
const struct tree_link *tree_links_leaking(const struct tree_links *t);
