/* Which of a set of store path digests occur in a byte stream (feature row E2). Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct refscan;
struct refscan *refscan_new(void);
void refscan_free(struct refscan *s);
/* Adds a candidate: the first 32 characters of a store path's base name. 0 or -ENOMEM. */
int refscan_add(struct refscan *s, const char *digest32);
/* Bytes in any pieces: a digest split between two calls is found. */
void refscan_feed(struct refscan *s, const uint8_t *data, size_t len);
bool refscan_found(const struct refscan *s, const char *digest32);
/* Hashing modulo a self reference: feeds `sink` with the stream in which the digest is replaced
 * by zeros; see hash modulo in feature row B6. */
struct rewrite;
struct rewrite *rewrite_new(const char *from32, const char *to32);
void rewrite_free(struct rewrite *r);
typedef int (*rewrite_sink)(void *ctx, const uint8_t *data, size_t len);
int rewrite_feed(struct rewrite *r, const uint8_t *data, size_t len, rewrite_sink sink, void *ctx);
int rewrite_end(struct rewrite *r, rewrite_sink sink, void *ctx);
/* Positions (byte offsets) at which the digest began, in order; for the "|pos" suffix. */
const uint64_t *rewrite_matches(const struct rewrite *r, size_t *ret_n);
