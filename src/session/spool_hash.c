/* Hashes of spooled objects that cannot be had while they stream in: with another algorithm, of a
 * file's bytes alone, or with the object's own digest counted as zeros (feature row B6). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "nar/tree.h"
#include "session/spool.h"

/* Bytes of value zero, as upstream has it, not digits. */
static const char zero_digest[STORE_DIGEST_LEN];

struct hash_sink {
	struct hasher *h;
	struct rewrite *rewrite; /* NULL: bytes as they are */
};

static int feed_hash(void *ctx, const uint8_t *data, size_t len)
{
	hasher_feed(ctx, data, len);
	return 0;
}

static int sink(void *ctx, const uint8_t *data, size_t len)
{
	struct hash_sink *k = ctx;

	if (k->rewrite)
		return rewrite_feed(k->rewrite, data, len, feed_hash, k->h);
	return feed_hash(k->h, data, len);
}

static int hash_file(struct session *s, const char *name, struct hash_sink *k, struct err *e)
{
	_cleanup_free_ uint8_t *b = malloc(IN_SIZE);
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (!b)
		return -ENOMEM;
	if (fstatat(s->spool, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return err_set(e, OP_FAILED, "a flat object must be a regular file");
	fd = openat(s->spool, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (;;) {
		ssize_t n = read(fd, b, IN_SIZE);
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		int r = sink(k, b, (size_t)n);
		if (r)
			return r;
	}
}

/* The positions of the digest are part of the hash, so that zeros in its place differ from it.
 * Releases of upstream up to 2.34 that rewrite leave them out: `positions` says which is wanted. */
static int finish_rewrite(struct hash_sink *k, bool positions)
{
	char text[32];
	size_t n;

	int r = rewrite_end(k->rewrite, feed_hash, k->h);
	if (r)
		return r;
	const uint64_t *at = rewrite_matches(k->rewrite, &n);
	for (size_t i = 0; positions && i < n; i++) {
		int len = snprintf(text, sizeof(text), "|%llu", (unsigned long long)at[i]);
		hasher_feed(k->h, text, (size_t)len);
	}
	return 0;
}

int spool_hash(struct session *s, const char *name, enum ca_method m, enum hash_algo algo,
	       const char *digest32, bool positions, struct hash *ret, struct err *e)
{
	struct hash_sink k = { .h = hasher_new(algo) };
	char from[STORE_DIGEST_LEN + 1] = "";
	int r = -ENOMEM;

	if (m == CA_GIT) {
		hasher_free(k.h);
		return tree_git_hash(s->spool, name, algo, ret, e);
	}
	if (digest32) {
		memcpy(from, digest32, STORE_DIGEST_LEN);
		k.rewrite = rewrite_new(from, zero_digest);
	}
	if (k.h && (!digest32 || k.rewrite))
		r = m == CA_NAR ? tree_dump(s->spool, name, sink, &k, e)
				: hash_file(s, name, &k, e);
	if (!r && k.rewrite)
		r = finish_rewrite(&k, positions);
	if (k.h)
		hasher_final(k.h, ret);
	hasher_free(k.h);
	rewrite_free(k.rewrite);
	return r;
}

int spool_verify_ca(struct session *s, const struct spooled *o, const struct ca *ca,
		    const struct store_path *path, struct err *e)
{
	struct hash got;

	/* Without a reference to itself the plain NAR hash is the one; a file that contains the
	 * digest of its own plain hash cannot be made. */
	if (ca->method == CA_NAR && ca->hash.algo == HASH_SHA256 &&
	    memcmp(ca->hash.bytes, o->nar_hash, 32) == 0)
		return 0;
	for (int positions = 1; positions >= 0; positions--) {
		int r = spool_hash(s, o->name, ca->method, ca->hash.algo, path->base, positions,
				   &got, e);
		if (r)
			return r;
		if (hash_equal(&ca->hash, &got))
			return 0;
	}
	return err_set(
		e, OP_FAILED,
		"ca hash mismatch importing path '%s/%s';\n  specified: %s:%s\n  got:       %s:%s",
		s->client.store_dir, path->base, hash_algo_name(ca->hash.algo),
		hash_print(&s->arena, &ca->hash, BASE32) ?: "", hash_algo_name(got.algo),
		hash_print(&s->arena, &got, BASE32) ?: "");
}
