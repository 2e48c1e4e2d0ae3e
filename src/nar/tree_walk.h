/* Walking a tree that others made, by directory fds alone: internal to libtree.
 *
 * Iterative, with an explicit stack of at most NAR_MAX_DEPTH directories, entries in byte order.
 * It never follows a symlink and never uses a path of more than one component. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/fd.h"
#include "nar/nar.h"

struct tree_level {
	int fd;
	char *name;   /* of the directory itself, for messages; heap */
	char *blob;   /* for each entry: a d_type byte, the name, a NUL */
	char **names; /* into blob, sorted */
	size_t n, next;
};

struct tree_walk {
	struct tree_level v[NAR_MAX_DEPTH];
	size_t depth;  /* open directories */
	char *listing; /* for getdents64 */
};

void tree_walk_done(struct tree_walk *w);
/* Goes into an open directory, which the walk then owns even on failure, and lists it.
 * 0, -errno (the directory is on the stack all the same), or TREE_BAD when that is too deep. */
int tree_walk_push(struct tree_walk *w, int fd, const char *name, struct err *e);
void tree_walk_pop(struct tree_walk *w);
/* The next entry of the innermost directory, or NULL. `ret_type` is a DT_ value, DT_UNKNOWN too. */
const char *tree_walk_next(struct tree_walk *w, unsigned char *ret_type);
static inline int tree_walk_fd(const struct tree_walk *w)
{
	return w->v[w->depth - 1].fd;
}

/* "top/sub/name" for a message; heap, NULL on ENOMEM. */
char *tree_walk_path(const struct tree_walk *w, const char *name);
/* err_set / err_errno with the path of an entry: `fmt` has one %s for it. */
int tree_bad(const struct tree_walk *w, const char *name, struct err *e, const char *fmt)
	__attribute__((format(printf, 4, 0)));
int tree_errno(const struct tree_walk *w, const char *name, struct err *e, int code,
	       const char *what);

/* Reads a link's target into `ret` of NAR_TARGET_MAX + 1 bytes. 0 or -errno. */
int tree_readlink(int dirfd, const char *name, char *ret);
/* Opens an entry for reading without following it, waiting for it, or making it a terminal. */
int tree_open(int dirfd, const char *name, int extra_flags);
/* 1970-01-01 00:00:01 for access and modification. */
extern const struct timespec tree_times[2];
