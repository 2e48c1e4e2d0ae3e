/* NAR to and from a directory tree, by directory fds alone. Linked by session and supervisor.
 *
 * A restored tree has canonical metadata: files 0444 or 0555, mtime 1 (1970-01-01 00:00:01),
 * directories 0755 with mtime 1 except that the caller may seal them (tree_seal), everything
 * created with O_EXCL beneath the given directory fd. */
#pragma once

#include <sys/types.h>

#include "base/err.h"
#include "hash/hash.h"
#include "nar/nar.h"
#include "nar/refscan.h"

/* A sink takes the next bytes. 0 goes on; anything else stops and is returned. */
typedef int (*byte_sink)(void *ctx, const uint8_t *data, size_t len);

struct tree_writer; /* restores a NAR that arrives in pieces */
/* `name` must not exist beneath dirfd. dirfd stays the caller's. */
struct tree_writer *tree_writer_new(int dirfd, const char *name);
void tree_writer_free(struct tree_writer *w);
/* Feeds bytes. 0: more; 1 (TREE_END): complete, `ret_used` bytes of this input belong to the NAR;
 * negative errno from the file system, or TREE_BAD (e->code is NAR_BAD) for bad input. On any error
 * the caller deletes what is there (rm_tree_at). */
enum { TREE_MORE = 0, TREE_END = 1, TREE_BAD = 2 };
int tree_writer_feed(struct tree_writer *w, const uint8_t *data, size_t len, size_t *ret_used,
		     struct err *e);

/* Dumps what `name` beneath dirfd is. Never follows symlinks. -errno, the sink's value, or
 * TREE_BAD with a sentence (a socket, a device …). */
int tree_dump(int dirfd, const char *name, byte_sink sink, void *ctx, struct err *e);

struct tree_facts {
	uint8_t nar_hash[32];
	uint64_t nar_size;
};
/* Asked every now and then while a tree is read that takes long (a file may be a terabyte of nothing);
 * when it says true the work ends with -ECANCELED. */
struct tree_stop {
	bool (*asked)(void *ctx);
	void *ctx;
};
/* Hash, size and (when `scan` is not NULL) references of a tree, in one pass. */
int tree_measure(int dirfd, const char *name, struct refscan *scan, struct tree_facts *ret,
		 struct err *e);

int tree_measure_until(int dirfd, const char *name, struct refscan *scan,
		       const struct tree_stop *stop, struct tree_facts *ret, struct err *e);

struct tree_owner {
	uid_t uid;     /* what every inode must belong to when found (the builder's id) */
	uid_t new_uid; /* what it is given to; (uid_t)-1: no chown */
	gid_t new_gid;
	uid_t n_uids; /* how many ids from `uid` on are the builder's; 0 means one */
	/* NULL, or set to true when somebody may still have a file of the tree open for writing: it
	 * was handed out while the builder ran. What cannot be told counts as that. */
	bool *ret_held;
};
/* Canonical metadata for a tree that a builder left behind: rejects anything but files,
 * directories and symlinks, foreign owners, and hard links that lead out of the tree; clears
 * setuid bits and write bits; mtime 1. Directories keep 0755 on the top (for the move), 0555
 * below. TREE_BAD with a sentence naming the path below the top. */
int tree_canonicalise(int dirfd, const char *name, const struct tree_owner *owner, struct err *e);
/* Copies a tree to fresh inodes (a fixed output must not share one with its builder). */
int tree_copy(int from_dirfd, const char *from, int to_dirfd, const char *to,
	      const struct tree_stop *stop, struct err *e);
/* The tree's hash as git makes it: SHA-1 or SHA-256. Returns as tree_dump. */
int tree_git_hash(int dirfd, const char *name, enum hash_algo algo, struct hash *ret,
		  struct err *e);

/* Digests (32 characters each) that are replaced in a stream, one pair after the other. */
struct tree_pair {
	const char *from, *to;
};
struct tree_rewriter; /* what it writes goes to a sink */
struct tree_rewriter *tree_rewriter_new(const struct tree_pair *pairs, size_t n, byte_sink sink,
					void *ctx);
void tree_rewriter_free(struct tree_rewriter *r);
int tree_rewriter_feed(void *rewriter, const uint8_t *data, size_t len); /* a byte_sink */
int tree_rewriter_end(struct tree_rewriter *r);
/* Where the last pair's digest began, in order. */
const uint64_t *tree_rewriter_matches(const struct tree_rewriter *r, size_t *ret_n);
/* Makes `to` out of `from`, both beneath dirfd, with the pairs replaced; canonical metadata.
 * Returns as tree_dump; TREE_BAD, too, when names do not stay in order. */
int tree_rewrite(int dirfd, const char *from, const char *to, const struct tree_pair *pairs,
		 size_t n, struct err *e);
/* After a rename into the store: mode 0555 (directory) and mtime 1 on the top. 0 or -errno. */
int tree_seal(int dirfd, const char *name);
