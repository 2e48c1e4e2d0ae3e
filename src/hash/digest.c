/* The hash functions themselves: incremental and over a buffer.
 *
 * Only the low-level entry points of libcrypto are called. EVP (and SHA256() and its kin, which go
 * through EVP since OpenSSL 3.0) would load providers and a configuration file, which a session
 * that lives for one request must not pay for and its jail does not have. Pure: no I/O, no
 * globals. Linked by every process that hashes. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "hash/hash.h"

#include <openssl/md5.h>
#include <openssl/sha.h>
#include <string.h>

union context {
	MD5_CTX md5;
	SHA_CTX sha1;
	SHA256_CTX sha256;
	SHA512_CTX sha512;
};

struct hasher {
	enum hash_algo algo;
	union context ctx;
};

/* None of these functions can fail: they return 1 always, and exist in every libcrypto. */
static void start(struct hasher *h, enum hash_algo algo)
{
	h->algo = algo;
	switch (algo) {
	case HASH_MD5:
		MD5_Init(&h->ctx.md5);
		break;
	case HASH_SHA1:
		SHA1_Init(&h->ctx.sha1);
		break;
	case HASH_SHA256:
		SHA256_Init(&h->ctx.sha256);
		break;
	case HASH_SHA512:
		SHA512_Init(&h->ctx.sha512);
		break;
	}
}

struct hasher *hasher_new(enum hash_algo algo)
{
	struct hasher *h = malloc(sizeof(*h));

	if (h)
		start(h, algo);
	return h;
}

void hasher_free(struct hasher *h)
{
	free(h);
}

void hasher_feed(struct hasher *h, const void *data, size_t len)
{
	if (!len)
		return;
	switch (h->algo) {
	case HASH_MD5:
		MD5_Update(&h->ctx.md5, data, len);
		break;
	case HASH_SHA1:
		SHA1_Update(&h->ctx.sha1, data, len);
		break;
	case HASH_SHA256:
		SHA256_Update(&h->ctx.sha256, data, len);
		break;
	case HASH_SHA512:
		SHA512_Update(&h->ctx.sha512, data, len);
		break;
	}
}

void hasher_final(struct hasher *h, struct hash *ret)
{
	*ret = (struct hash){ .algo = h->algo };
	switch (h->algo) {
	case HASH_MD5:
		MD5_Final(ret->bytes, &h->ctx.md5);
		break;
	case HASH_SHA1:
		SHA1_Final(ret->bytes, &h->ctx.sha1);
		break;
	case HASH_SHA256:
		SHA256_Final(ret->bytes, &h->ctx.sha256);
		break;
	case HASH_SHA512:
		SHA512_Final(ret->bytes, &h->ctx.sha512);
		break;
	}
}

void hash_buffer(enum hash_algo algo, const void *data, size_t len, struct hash *ret)
{
	struct hasher h;

	start(&h, algo);
	hasher_feed(&h, data, len);
	hasher_final(&h, ret);
}

void sha256(const void *data, size_t len, uint8_t ret[32])
{
	SHA256_CTX c;

	SHA256_Init(&c);
	if (len)
		SHA256_Update(&c, data, len);
	SHA256_Final(ret, &c);
}

bool hash_equal(const struct hash *a, const struct hash *b)
{
	return a->algo == b->algo && !memcmp(a->bytes, b->bytes, hash_size(a->algo));
}

void hash_compress(const uint8_t *data, size_t len, uint8_t *ret, size_t ret_len)
{
	memset(ret, 0, ret_len);
	for (size_t i = 0, j = 0; i < len && ret_len; i++) {
		ret[j] ^= data[i];
		if (++j == ret_len)
			j = 0;
	}
}
