/* The checked reader of the worker protocol, over bytes that arrive in pieces.
 *
 *   u64    = 8 bytes little endian             (integers, bools, enums)
 *   string = u64 length, bytes, zero bytes up to a multiple of 8
 *   list   = u64 count, item*
 *   framed = *( u64 length > 0, bytes ) u64 0  (no padding)
 *   pulled = answers to READ frames, each a string
 *
 * Never: an allocation that follows a length before the bytes are there, I/O of its own. Linked by
 * the session. Every function: 0, or WIRE_BAD / WIRE_EOF, or a negative errno (ours). */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/strv.h"

enum {
	WIRE_BAD = 1, /* what the peer sent breaks the protocol: `e` says how */
	WIRE_EOF = 2, /* the peer is gone */
};

struct wire_in {
	const uint8_t *p, *end; /* bytes at hand */
	/* Gets at least one more byte: p < end afterwards. WIRE_EOF at the end of the stream. May
	 * only be called with p == end. */
	int (*more)(struct wire_in *in);
	void *ctx;
	struct err *e; /* where sentences go; may be NULL */
};

static inline size_t wire_avail(const struct wire_in *in)
{
	return (size_t)(in->end - in->p);
}

int wire_bytes(struct wire_in *in, void *ret, size_t len);
int wire_skip(struct wire_in *in, uint64_t len);
int wire_u64(struct wire_in *in, uint64_t *ret);
/* As wire_u64, with the value in 0..max. */
int wire_number(struct wire_in *in, uint64_t max, uint64_t *ret);
int wire_bool(struct wire_in *in, bool *ret);
/* Zero bytes behind `len` bytes of content. */
int wire_padding(struct wire_in *in, uint64_t len);
/* A string of at most `max` bytes in the arena, NUL-terminated, no NUL inside. */
int wire_str(struct wire_in *in, struct arena *a, size_t max, char **ret);
/* A string of any bytes. */
int wire_blob(struct wire_in *in, struct arena *a, size_t max, uint8_t **ret, size_t *ret_len);
int wire_skip_str(struct wire_in *in);
/* A list of at most `max_items` strings of at most `max` bytes each. */
int wire_strv(struct wire_in *in, struct arena *a, size_t max_items, size_t max, struct strv *ret);

/* The chunks of a framed stream, as a reader of its own: zero-copy, the bytes stay in the parent's
 * buffer. The parent must not be used before wire_framed_end. */
struct wire_framed {
	struct wire_in in;
	struct wire_in *parent;
	uint64_t left; /* of the chunk */
	bool ended, pulled, open;
	int (*ask)(struct wire_framed *f, size_t len); /* sends READ; `pulled` only */
	void *ask_ctx;
	uint64_t chunk; /* length of the chunk, for its padding */
};
void wire_framed_init(struct wire_framed *f, struct wire_in *parent);
/* Like a framed stream, out of answers to READ frames that `ask` sends. */
void wire_pulled_init(struct wire_framed *f, struct wire_in *parent,
		      int (*ask)(struct wire_framed *f, size_t len), void *ask_ctx);
/* Gets the next bytes into f->in, or tells that the stream has ended (framed streams only). */
int wire_framed_next(struct wire_framed *f, bool *ret_end);
/* Reads up to and with the end mark, throwing away at most `max` bytes: beyond that WIRE_BAD. */
int wire_framed_end(struct wire_framed *f, uint64_t max);
