/* Hashes of the store: MD5, SHA-1, SHA-256, SHA-512, and their texts.
 *
 * The low-level functions of libcrypto are used, not EVP: they use the same assembly and need no
 * provider start-up, which a session would pay for each client. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

enum hash_algo { HASH_MD5, HASH_SHA1, HASH_SHA256, HASH_SHA512 };
enum { HASH_MAX = 64, HASH_BAD = 1 };

struct hash {
	enum hash_algo algo;
	uint8_t bytes[HASH_MAX];
};

size_t hash_size(enum hash_algo algo); /* bytes: 16, 20, 32, 64 */
const char *hash_algo_name(enum hash_algo algo);
int hash_algo_parse(const char *name, enum hash_algo *ret); /* 0 or HASH_BAD */

struct hasher;					/* opaque, small, heap */
struct hasher *hasher_new(enum hash_algo algo); /* NULL on ENOMEM */
void hasher_free(struct hasher *h);
void hasher_feed(struct hasher *h, const void *data, size_t len);
void hasher_final(struct hasher *h, struct hash *ret);
void hash_buffer(enum hash_algo algo, const void *data, size_t len, struct hash *ret);
/* sha256 of a buffer straight into 32 bytes. */
void sha256(const void *data, size_t len, uint8_t ret[32]);
bool hash_equal(const struct hash *a, const struct hash *b);

enum hash_base { BASE16, BASE32, BASE64, SRI };
/* Without a prefix for BASE16..BASE64; SRI is "sha256-<base64>". */
char *hash_print(struct arena *a, const struct hash *h, enum hash_base base);
/* Any of: "algo:<16|32|64>", SRI, or bare with `algo` given (algo may be NULL: then a prefix must
 * be there). HASH_BAD with a sentence. */
int hash_parse(const char *text, const enum hash_algo *algo, struct hash *ret, struct err *e);

size_t base32_len(size_t bytes);
void base32_encode(const uint8_t *data, size_t len, char *ret); /* writes NUL */
int base32_decode(const char *text, size_t text_len, uint8_t *ret,
		  size_t ret_len); /* 0 or HASH_BAD */
void base16_encode(const uint8_t *data, size_t len, char *ret);
int base16_decode(const char *text, size_t text_len, uint8_t *ret, size_t ret_len);
/* name ":" base64, as Nix 2.34 reads signatures: one of another form in a row makes the path unreadable
 * for it. Whether it is anybody's signature is another matter. */
bool signature_has_form(const char *text);
/* Folds a hash by xor, as store path digests are. */
void hash_compress(const uint8_t *data, size_t len, uint8_t *ret, size_t ret_len);
