/* Typed records over a byte message: one layout table per message, one encoder, one decoder.
 *
 *   record  = field*                     in the order of the layout
 *   U64     = 8 bytes, host order        (also bools and enums)
 *   STR     = u32 length, bytes, NUL     (no NUL inside)
 *   BYTES   = u32 length, bytes
 *   HASH    = 32 bytes
 *   STRV    = u32 count, STR*
 *   LIST    = u32 count, record*
 *
 * The decoder is the checked reader for everything our own processes tell each other: a peer may
 * have been taken over. It allocates from an arena with a limit and never recurses deeper than
 * the layouts nest (two levels). Pure; linked by every process but the id broker. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/strv.h"

enum field_kind { FIELD_U64, FIELD_STR, FIELD_BYTES, FIELD_HASH, FIELD_STRV, FIELD_LIST };

/* In memory: U64 is uint64_t; STR is char * (never NULL after decoding; NULL encodes as "");
 * BYTES is struct bytes; HASH is uint8_t[32]; STRV is struct strv; LIST is { T *v; size_t n; }. */
struct bytes {
	uint8_t *v;
	size_t n;
};

struct layout;

struct field {
	enum field_kind kind;
	size_t offset;
	const struct layout *sub; /* LIST only */
};

struct layout {
	const char *name;
	size_t size; /* of the struct in memory */
	const struct field *fields;
	size_t n_fields;
};

/* LAYOUT defines one that the header declares, LOCAL_LAYOUT the elements of its lists. */
#define LAYOUT_WITH(storage, ident, type, ...)                                                     \
	static const struct field ident##_fields[] = { __VA_ARGS__ };                              \
	storage const struct layout ident = { #type, sizeof(type), ident##_fields,                 \
					      sizeof(ident##_fields) / sizeof(struct field) }
#define LAYOUT(ident, type, ...)       LAYOUT_WITH(, ident, type, __VA_ARGS__)
#define LOCAL_LAYOUT(ident, type, ...) LAYOUT_WITH(static, ident, type, __VA_ARGS__)

/* Appends the encoding. 0, -E2BIG, -ENOMEM. */
int record_encode(const struct layout *l, const void *record, struct buf *b);

enum { RECORD_BAD = 1 };
/* Fills `ret` (l->size bytes) from exactly `len` bytes. 0; RECORD_BAD when the bytes are not a
 * record of this layout (short, trailing bytes, NUL in a string, over the arena's limit). */
int record_decode(const struct layout *l, const uint8_t *data, size_t len, struct arena *a,
		  void *ret);
