/* Deleting a tree that somebody else filled. rm_tree_at() of fd.h is the short form.
 *
 * Never follows a symlink, never enters a mount, never uses a path of more than one component;
 * needs constant stack and five fds at any depth, also where paths are longer than PATH_MAX.
 * Links libc alone. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* What the last look at the tree found. */
struct rm_report {
	uint64_t bytes;	   /* sizes of the files that are gone and had at most two names */
	uint64_t failed;   /* entries that are still there and should not be */
	uint64_t foreign;  /* entries that are still there and belong to `foreign_uid` */
	uid_t foreign_uid; /* set by the caller: whose entries are not our business; or -1 */
	/* Set by the caller, or NULL: asked now and then whether it takes too long by now. Whoever
	 * makes names as fast as they go away could keep us for ever. */
	bool (*give_up)(void *ctx);
	void *ctx;
	int error;	   /* of the first that failed, negative */
	uid_t uid;	   /* its owner */
	char name[256];	   /* its name, the last component */
};

/* Deletes `name` beneath `dirfd`, and goes on with the rest where something cannot be deleted.
 * 0 when it is gone or nothing was there; else the first error; -ECANCELED: given up. `bytes` is added to, the other
 * fields are set. */
int rm_tree(int dirfd, const char *name, struct rm_report *r);
/* The same for all that is in the directory `dirfd`, which stays. */
int rm_contents(int dirfd, struct rm_report *r);
