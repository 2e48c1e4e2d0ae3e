/* Store paths computed from what an object is: the digest of a fingerprint.
 *
 *   digest      = base 32 of the first-to-last folding of sha256(fingerprint) to 20 bytes
 *   fingerprint = type ":sha256:" base 16 ":" store-dir ":" name
 *   type        = "text" refs | "source" refs [":self"] | "output:" output name
 *
 * These must equal upstream's for ever: every store path there is was made so (feature rows B1
 * to B4). Pure. */
#include "path/path.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void hasher_freep(struct hasher **h)
{
	hasher_free(*h);
}
#define _cleanup_hasher_ _cleanup_(hasher_freep)

static void feed(struct hasher *h, const char *s)
{
	hasher_feed(h, s, strlen(s));
}

/* `h` has been fed the type. */
static int finish(struct hasher *h, const char *store_dir, const char *name,
		  const uint8_t inner[32], struct store_path *ret, struct err *e)
{
	char hex[64 + 1], base[STORE_BASE_MAX + 1];
	uint8_t folded[20];
	struct hash digest;
	int r;

	r = store_name_check(name, e);
	if (r)
		return r;
	base16_encode(inner, 32, hex);
	feed(h, ":sha256:");
	feed(h, hex);
	feed(h, ":");
	feed(h, store_dir);
	feed(h, ":");
	feed(h, name);
	hasher_final(h, &digest);
	hash_compress(digest.bytes, 32, folded, sizeof(folded));
	base32_encode(folded, sizeof(folded), base);
	base[STORE_DIGEST_LEN] = '-';
	memcpy(base + STORE_DIGEST_LEN + 1, name, strlen(name) + 1);
	return store_path_parse_base(base, ret, e);
}

static const char *method_prefix(enum ca_method method)
{
	return method == CA_NAR ? "r:" : method == CA_GIT ? "git:" : "";
}

/* The hash that stands for a fixed object which is not a sha256 of a NAR. */
static void fixed_inner(const struct ca *ca, uint8_t ret[32])
{
	char hex[HASH_MAX * 2 + 1], text[HASH_MAX * 2 + 32];
	int n;

	base16_encode(ca->hash.bytes, hash_size(ca->hash.algo), hex);
	n = snprintf(text, sizeof(text), "fixed:out:%s%s:%s:", method_prefix(ca->method),
		     hash_algo_name(ca->hash.algo), hex);
	sha256(text, (size_t)n, ret);
}

static int check_refs(const char *name, const struct ca *ca, bool any_refs, bool self,
		      struct err *e)
{
	if (ca->method == CA_TEXT && ca->hash.algo != HASH_SHA256)
		return err_set(e, PATH_BAD,
			       "text content address hash should use sha256, but instead uses %s",
			       hash_algo_name(ca->hash.algo));
	if (ca->method == CA_TEXT && self)
		return err_set(e, PATH_BAD, "self-reference not allowed with text hashing");
	if (ca->method == CA_TEXT || (ca->method == CA_NAR && ca->hash.algo == HASH_SHA256))
		return 0;
	if (any_refs || self)
		return err_set(e, PATH_BAD,
			       "fixed output derivation '%s' is not allowed to refer to other "
			       "store paths.\nYou may need to use the 'unsafeDiscardReferences' "
			       "derivation attribute, see the manual for more details.",
			       name);
	return 0;
}

int store_path_for_ca(const char *store_dir, const char *name, const struct ca *ca,
		      const struct strv *refs, bool self, struct store_path *ret, struct err *e)
{
	_cleanup_hasher_ struct hasher *h = NULL;
	uint8_t inner[32];
	int r;

	r = check_refs(name, ca, refs && refs->n, self, e);
	if (r)
		return r;
	h = hasher_new(HASH_SHA256);
	if (!h)
		return err_errno(e, -ENOMEM, "computing a store path");
	if (ca->method == CA_TEXT || (ca->method == CA_NAR && ca->hash.algo == HASH_SHA256)) {
		feed(h, ca->method == CA_TEXT ? "text" : "source");
		memcpy(inner, ca->hash.bytes, sizeof(inner));
	} else {
		feed(h, "output:out");
		fixed_inner(ca, inner);
	}
	for (size_t i = 0; refs && i < refs->n; i++) {
		feed(h, ":");
		feed(h, store_dir);
		feed(h, "/");
		feed(h, refs->v[i]);
	}
	if (self)
		feed(h, ":self");
	return finish(h, store_dir, name, inner, ret, e);
}

/* "name" or "name-output" into `ret`; PATH_BAD when it is too long for any store path. */
static int object_name(char ret[STORE_NAME_MAX + 1], const char *drv_name, const char *output_name,
		       struct err *e)
{
	bool is_out = !strcmp(output_name, "out");
	int n = snprintf(ret, STORE_NAME_MAX + 1, "%s%s%s", drv_name, is_out ? "" : "-",
			 is_out ? "" : output_name);

	if (n < 0 || n > STORE_NAME_MAX)
		return err_set(e, PATH_BAD, "name '%s-%s' must be no longer than %d characters",
			       drv_name, output_name, STORE_NAME_MAX);
	return 0;
}

int store_path_for_output(const char *store_dir, const char *drv_name, const char *output_name,
			  const uint8_t hash[32], struct store_path *ret, struct err *e)
{
	_cleanup_hasher_ struct hasher *h = NULL;
	char name[STORE_NAME_MAX + 1];
	int r = object_name(name, drv_name, output_name, e);

	if (r)
		return r;
	h = hasher_new(HASH_SHA256);
	if (!h)
		return err_errno(e, -ENOMEM, "computing a store path");
	feed(h, "output:");
	feed(h, output_name);
	return finish(h, store_dir, name, hash, ret, e);
}

int store_path_for_scratch(const char *store_dir, const struct store_path *drv,
			   const char *drv_name, const char *output_name, struct store_path *ret,
			   struct err *e)
{
	static const uint8_t zeros[32];
	_cleanup_hasher_ struct hasher *h = NULL;
	char name[STORE_NAME_MAX + 1];
	int r = object_name(name, drv_name, output_name, e);

	if (r)
		return r;
	h = hasher_new(HASH_SHA256);
	if (!h)
		return err_errno(e, -ENOMEM, "computing a store path");
	feed(h, "rewrite:");
	feed(h, drv->base);
	feed(h, ":name:");
	feed(h, output_name);
	return finish(h, store_dir, name, zeros, ret, e);
}

char *output_object_name(struct arena *a, const char *drv_name, const char *output_name)
{
	if (!strcmp(output_name, "out"))
		return arena_strdup(a, drv_name);
	return arena_printf(a, "%s-%s", drv_name, output_name);
}
