/* Hashes as text: "sha256:<base 16, 32 or 64>", "sha256-<base 64>" and bare.
 *
 * Which base a text is in is told by its length, which differs between all bases of one algorithm.
 * Sentences are upstream's (libutil/hash.cc of 2.34), since clients show them. Pure. */
#include "hash/hash.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	size_t size;
} algos[] = {
	[HASH_MD5] = { "md5", 16 },
	[HASH_SHA1] = { "sha1", 20 },
	[HASH_SHA256] = { "sha256", 32 },
	[HASH_SHA512] = { "sha512", 64 },
};

static const char digits64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t hash_size(enum hash_algo algo)
{
	return algos[algo].size;
}

const char *hash_algo_name(enum hash_algo algo)
{
	return algos[algo].name;
}

static int algo_parse(const char *name, size_t len, enum hash_algo *ret)
{
	for (size_t i = 0; i < ELEMENTS(algos); i++)
		if (strlen(algos[i].name) == len && !memcmp(algos[i].name, name, len)) {
			*ret = (enum hash_algo)i;
			return 0;
		}
	return HASH_BAD;
}

int hash_algo_parse(const char *name, enum hash_algo *ret)
{
	return algo_parse(name, strlen(name), ret);
}

static size_t base64_len(size_t bytes)
{
	return (bytes + 2) / 3 * 4;
}

static void base64_encode(const uint8_t *data, size_t len, char *ret)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i += 3) {
		size_t left = len - i;
		uint32_t v = (uint32_t)data[i] << 16;

		if (left > 1)
			v |= (uint32_t)data[i + 1] << 8;
		if (left > 2)
			v |= data[i + 2];
		ret[n++] = digits64[v >> 18];
		ret[n++] = digits64[v >> 12 & 63];
		ret[n++] = left > 1 ? digits64[v >> 6 & 63] : '=';
		ret[n++] = left > 2 ? digits64[v & 63] : '=';
	}
	ret[n] = 0;
}

static int value64(char c)
{
	const char *p = c ? strchr(digits64, c) : NULL;

	return p ? (int)(p - digits64) : -1;
}

/* Padding may be missing, as SRI hashes in the wild lack it. */
static int base64_decode(const char *text, const char *what, uint8_t *ret, size_t ret_len,
			 struct err *e)
{
	const char *p = text;
	uint32_t bits = 0;
	size_t have = 0, n = 0;

	for (; *p && *p != '='; p++) {
		int v = value64(*p);

		if (v < 0)
			return err_set(e, HASH_BAD, "invalid character in Base64 string: '%c'", *p);
		bits = bits << 6 | (uint32_t)v;
		have += 6;
		if (have < 8)
			continue;
		have -= 8;
		if (n < ret_len)
			ret[n] = (uint8_t)(bits >> have);
		n++;
	}
	if (p[strspn(p, "=")] || strlen(p) > 2)
		return err_set(e, HASH_BAD, "invalid padding in Base64 string: '%s'", text);
	if (n != ret_len)
		return err_set(e, HASH_BAD,
			       "invalid %s hash '%s', length %zu != expected length %zu", what,
			       text, n, ret_len);
	return 0;
}

char *hash_print(struct arena *a, const struct hash *h, enum hash_base base)
{
	size_t size = hash_size(h->algo);
	char text[HASH_MAX * 2 + 1];

	switch (base) {
	case BASE16:
		base16_encode(h->bytes, size, text);
		break;
	case BASE32:
		base32_encode(h->bytes, size, text);
		break;
	case BASE64:
	case SRI:
		base64_encode(h->bytes, size, text);
		break;
	}
	if (base == SRI)
		return arena_printf(a, "%s-%s", hash_algo_name(h->algo), text);
	return arena_strdup(a, text);
}

static char bad_digit(const char *text, const char *digits)
{
	return text[strspn(text, digits)];
}

/* `text` has no prefix. */
static int parse_digits(const char *text, enum hash_algo algo, bool is_sri, struct hash *ret,
			struct err *e)
{
	size_t size = hash_size(algo), len = strlen(text);
	struct hash h = { .algo = algo };
	int r;

	if (is_sri || len == base64_len(size)) {
		r = base64_decode(text, is_sri ? "SRI" : "Base64", h.bytes, size, e);
	} else if (len == size * 2) {
		r = base16_decode(text, len, h.bytes, size);
		if (r > 0)
			err_set(e, r, "invalid character in Base16 string: '%c'",
				bad_digit(text, "0123456789abcdefABCDEF"));
	} else if (len == base32_len(size)) {
		char bad = bad_digit(text, "0123456789abcdfghijklmnpqrsvwxyz");

		r = base32_decode(text, len, h.bytes, size);
		if (r > 0 && bad)
			err_set(e, r,
				"invalid character in Nix32 (Nix's Base32 variation) string: '%c'",
				bad);
		else if (r > 0)
			err_set(e, r, "invalid nix32 hash '%s', length %zu != expected length %zu",
				text, size + 1, size);
	} else {
		r = err_set(e, HASH_BAD, "hash '%s' has wrong length for hash algorithm '%s'", text,
			    hash_algo_name(algo));
	}
	if (r == 0)
		*ret = h;
	return r;
}

int hash_parse(const char *text, const enum hash_algo *algo, struct hash *ret, struct err *e)
{
	const char *sep = strchr(text, ':');
	enum hash_algo found;
	bool is_sri = false;

	if (!sep) {
		sep = strchr(text, '-');
		is_sri = sep;
	}
	if (!sep && !algo)
		return err_set(e, HASH_BAD,
			       "hash '%s' does not include a type, nor is the type otherwise known "
			       "from context",
			       text);
	if (!sep)
		return parse_digits(text, *algo, false, ret, e);
	if (algo_parse(text, (size_t)(sep - text), &found) > 0)
		return err_set(e, HASH_BAD,
			       "unknown hash algorithm '%.*s', expect 'md5', 'sha1', 'sha256', or "
			       "'sha512'",
			       sep - text > 64 ? 64 : (int)(sep - text), text);
	if (algo && *algo != found)
		return err_set(e, HASH_BAD, "hash '%s' should have type '%s'", text,
			       hash_algo_name(*algo));
	return parse_digits(sep + 1, found, is_sri, ret, e);
}

bool signature_has_form(const char *text)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *colon = strchr(text, ':');
	size_t n = colon ? strspn(colon + 1, digits) : 0;

	return colon && colon > text && !strpbrk(text, " \t\n\r") && n >= 2 &&
	       strspn(colon + 1 + n, "=") == strlen(colon + 1 + n);
}
