/* Objects on their way into the store: written into the session's own spool directory.
 *
 * What is there has canonical metadata (files 0444 or 0555, mtime 1, directories 0755) and is
 * complete and hashed when the core hears of it. Never: a path outside the spool. */
#pragma once

#include "session/session.h"

enum { SPOOL_SMALL = 256 * 1024 }; /* contents up to here are kept in memory first */

struct spooled {
	char name[24]; /* in the spool; "" when nothing is there */
	uint8_t nar_hash[32];
	uint64_t nar_size;
};

void spool_name(struct session *s, char ret[static 24]);
/* Deletes what is there. */
void spool_discard(struct session *s, struct spooled *o);
/* A non-executable file out of memory. */
int spool_file(struct session *s, const void *data, size_t len, struct spooled *ret, struct err *e);
/* The NAR's hash and size of such a file. */
int flat_nar_facts(const void *data, size_t len, uint8_t ret_hash[32], uint64_t *ret_size);

/* A NAR from `in` (framed, or raw in the request stream), unpacked while it arrives. `also`, when
 * not NULL, hashes the same bytes. Bad input: OP_FAILED with a sentence, `in` stands anywhere. */
int spool_nar(struct session *s, struct wire_in *in, struct hasher *also, struct spooled *ret,
	      struct err *e);
/* Raw bytes of a framed stream up to its end, as one file, hashed with `algo`. Small ones stay in
 * `ret_small` (then ret->name is ""): spool_file writes them when they are needed. */
int spool_flat(struct session *s, struct wire_framed *f, enum hash_algo algo, struct buf *ret_small,
	       struct hash *ret_hash, struct spooled *ret, struct err *e);
/* That a spooled object is what `ca` says (feature row A18, B6). `digest` names the path whose
 * own digest counts as zeros. */
int spool_verify_ca(struct session *s, const struct spooled *o, const struct ca *ca,
		    const struct store_path *path, struct err *e);
/* The hash of a spooled object as method `m` sees it: a file's bytes or the NAR. */
int spool_hash(struct session *s, const char *name, enum ca_method m, enum hash_algo algo,
	       const char *digest32, bool positions, struct hash *ret, struct err *e);
