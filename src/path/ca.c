/* How content-addressed objects are written down: "text:sha256:…", "fixed:r:sha256:…".
 *
 * Sentences are upstream's (libstore/content-address.cc), since clients show them. Pure. */
#include "path/path.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { ALGO_MAX = 16 };

static bool skip_prefix(const char **text, const char *prefix)
{
	size_t len = strlen(prefix);

	if (strncmp(*text, prefix, len))
		return false;
	*text += len;
	return true;
}

/* The method in front; *rest then points at the algorithm. */
static int parse_method(const char *text, enum ca_method *ret, const char **rest, struct err *e)
{
	const char *colon = strchr(text, ':');

	if (!colon)
		return err_set(e, PATH_BAD,
			       "not a content address because it is not in the form "
			       "'<prefix>:<rest>': %s",
			       text);
	*rest = text;
	if (skip_prefix(rest, "text:")) {
		*ret = CA_TEXT;
		return 0;
	}
	if (!skip_prefix(rest, "fixed:"))
		return err_set(e, PATH_BAD,
			       "content address prefix '%.*s' is unrecognized. Recogonized "
			       "prefixes are 'text' or 'fixed'",
			       colon - text > 64 ? 64 : (int)(colon - text), text);
	*ret = skip_prefix(rest, "git:") ? CA_GIT : skip_prefix(rest, "r:") ? CA_NAR : CA_FLAT;
	return 0;
}

/* An algorithm that ends at `end`. */
static int parse_algo(const char *text, const char *end, enum ca_method method, enum hash_algo *ret,
		      struct err *e)
{
	char name[ALGO_MAX];
	size_t len = (size_t)(end - text);

	if (len >= sizeof(name))
		len = sizeof(name) - 1;
	memcpy(name, text, len);
	name[len] = 0;
	if (hash_algo_parse(name, ret))
		return err_set(e, PATH_BAD,
			       "unknown hash algorithm '%s', expect 'md5', 'sha1', 'sha256', or "
			       "'sha512'",
			       name);
	if (method == CA_TEXT && *ret != HASH_SHA256)
		return err_set(e, PATH_BAD,
			       "text content address hash should use sha256, but instead uses %s",
			       name);
	if (method == CA_GIT && *ret != HASH_SHA1 && *ret != HASH_SHA256)
		return err_set(e, PATH_BAD,
			       "Git file ingestion must use SHA-1 or SHA-256 hash, but instead "
			       "using: %s",
			       name);
	return 0;
}

int ca_parse(const char *text, struct ca *ret, struct err *e)
{
	const char *rest = text, *colon;
	enum hash_algo algo;
	struct ca ca;
	int r;

	r = parse_method(text, &ca.method, &rest, e);
	if (r)
		return r;
	colon = strchr(rest, ':');
	if (!colon)
		return err_set(
			e, PATH_BAD,
			"content address hash must be in form '<algo>:<hash>', but found: %s",
			text);
	r = parse_algo(rest, colon, ca.method, &algo, e);
	if (r)
		return r;
	rest = colon + 1;
	if (strpbrk(rest, ":-")) /* hash_parse would take a second algorithm */
		return err_set(e, PATH_BAD, "hash '%s' has wrong length for hash algorithm '%s'",
			       rest, hash_algo_name(algo));
	r = hash_parse(rest, &algo, &ca.hash, e);
	if (r)
		return r < 0 ? r : PATH_BAD;
	*ret = ca;
	return 0;
}

static const char *method_prefix(enum ca_method method)
{
	switch (method) {
	case CA_TEXT:
		return "text:";
	case CA_FLAT:
		return "fixed:";
	case CA_NAR:
		return "fixed:r:";
	case CA_GIT:
		return "fixed:git:";
	}
	return NULL;
}

char *ca_method_print(struct arena *a, enum ca_method method, enum hash_algo algo)
{
	return arena_printf(a, "%s%s", method_prefix(method), hash_algo_name(algo));
}

char *ca_print(struct arena *a, const struct ca *ca)
{
	char digits[HASH_MAX * 2 + 1];

	base32_encode(ca->hash.bytes, hash_size(ca->hash.algo), digits);
	return arena_printf(a, "%s%s:%s", method_prefix(ca->method), hash_algo_name(ca->hash.algo),
			    digits);
}

int ca_method_parse(const char *text, enum ca_method *ret_method, enum hash_algo *ret_algo,
		    struct err *e)
{
	enum ca_method method;
	enum hash_algo algo;
	const char *rest;
	int r;

	r = parse_method(text, &method, &rest, e);
	if (!r)
		r = parse_algo(rest, rest + strlen(rest), method, &algo, e);
	if (r)
		return r;
	*ret_method = method;
	*ret_algo = algo;
	return 0;
}
