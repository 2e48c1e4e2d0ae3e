/* Giving trees of files to another owner, as root. Linked by airplant, for `airplant switch`.
 *
 * It changes nothing but owners, looks at names alone, follows no link and enters no mount. What is
 * changed is pinned by a descriptor first and looked at through that, so nobody can put something
 * else in its place. Only what belongs to one of the former owners is given away. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct own_count {
	uint64_t seen, changed;
	uint64_t shared; /* left alone: files with names elsewhere */
	uint64_t failed;
};

struct own {
	const uid_t *from; /* the former owners */
	size_t n_from;
	uid_t uid; /* the new ones */
	gid_t gid;
	/* A file with several names may have one outside of what is walked: whoever could make a
	 * link to root's files in the store would be given them. Such files change in `links`
	 * alone, which root only could write to. */
	bool keep_shared;
	bool dry_run;
	unsigned int n_workers;
	struct own_count *count; /* shared by all workers; own_init */
};

/* 0 or -ENOMEM. */
int own_init(struct own *o);
/* The thing that an O_PATH or other descriptor stands for, whatever names it has. */
int own_fd(struct own *o, int fd, const char *path);
/* All that lies below the directory `fd`, not itself, with `n_workers` at once. `links`: it is the
 * store's .links, whose files have several names. `path` is for people. Failures are told on
 * stderr and counted; negative when it could not be done at all. */
int own_below(struct own *o, int fd, const char *path, bool links, struct err *e);
