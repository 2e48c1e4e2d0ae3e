/* Signatures of store paths. See sigcheck.h. Linked by airplantd.
 *
 * Secret keys stay in this process and in OpenSSL's key objects; they are never printed. */
#include "core/sigcheck.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fd.h"
#include "hash/hash.h"

enum { KEY_BYTES = 32, SECRET_BYTES = 64, SIG_BYTES = 64, FINGERPRINT_MAX = 64 << 20 };

struct key {
	char *name;
	EVP_PKEY *pkey;
};
struct keys {
	struct key *v;
	size_t n;
};
struct keyring {
	struct keys publics, secrets;
};

struct keyring *keyring_new(void)
{
	return calloc(1, sizeof(struct keyring));
}

static void keys_done(struct keys *k)
{
	for (size_t i = 0; i < k->n; i++) {
		free(k->v[i].name);
		EVP_PKEY_free(k->v[i].pkey);
	}
	free(k->v);
}

void keyring_free(struct keyring *k)
{
	if (!k)
		return;
	keys_done(&k->publics);
	keys_done(&k->secrets);
	free(k);
}

/* Splits "<name>:<base 64>" and decodes exactly `want` bytes. 0 or -EINVAL. */
static int split_key(const char *text, size_t want, char **ret_name, uint8_t *ret)
{
	const char *colon = strchr(text, ':');
	uint8_t raw[SECRET_BYTES + 8];
	size_t len, pad = 0;
	int n;

	if (!colon || colon == text)
		return -EINVAL;
	len = strlen(colon + 1);
	if (len != (want + 2) / 3 * 4)
		return -EINVAL;
	while (pad < 2 && colon[len - pad] == '=')
		pad++;
	n = EVP_DecodeBlock(raw, (const unsigned char *)colon + 1, (int)len);
	if (n < 0 || (size_t)n < pad || (size_t)n - pad != want)
		return -EINVAL;
	memcpy(ret, raw, want);
	OPENSSL_cleanse(raw, sizeof(raw));
	if (ret_name) {
		*ret_name = strndup(text, (size_t)(colon - text));
		if (!*ret_name)
			return -ENOMEM;
	}
	return 0;
}

/* Takes name and key over, also on failure. */
static int keys_add(struct keys *k, char *name, EVP_PKEY *pkey)
{
	struct key *v = pkey ? reallocarray(k->v, k->n + 1, sizeof(*v)) : NULL;

	if (!v) {
		free(name);
		EVP_PKEY_free(pkey);
		return -ENOMEM;
	}
	k->v = v;
	k->v[k->n++] = (struct key){ name, pkey };
	return 0;
}

int keyring_add_public(struct keyring *k, const char *text, struct err *e)
{
	uint8_t raw[KEY_BYTES];
	char *name;

	if (split_key(text, sizeof(raw), &name, raw) < 0)
		return err_set(e, HASH_BAD, "public key '%s' is not valid", text);
	return keys_add(&k->publics, name,
			EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, raw, sizeof(raw)));
}

int keyring_add_secret_file(struct keyring *k, const char *path, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	uint8_t raw[SECRET_BYTES];
	EVP_PKEY *pkey;
	size_t len;
	char *name;
	int r;

	r = read_file_at(AT_FDCWD, path, 4096, &text, &len);
	if (r < 0)
		return err_errno(e, r, "reading secret key file '%s'", path);
	while (len > 0 && isspace((unsigned char)text[len - 1]))
		text[--len] = 0;
	r = split_key(text, sizeof(raw), &name, raw);
	OPENSSL_cleanse(text, len);
	if (r < 0)
		return err_set(e, HASH_BAD, "secret key file '%s' does not hold a valid key", path);
	/* The format is seed and public key; OpenSSL wants the seed. */
	pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, raw, KEY_BYTES);
	OPENSSL_cleanse(raw, sizeof(raw));
	return keys_add(&k->secrets, name, pkey);
}

char *path_fingerprint(struct arena *a, const char *store_dir, const struct path_info *info)
{
	_cleanup_buf_ struct buf b = BUF_INIT(FINGERPRINT_MAX);
	char hash[64];
	int r;

	base32_encode(info->nar_hash, sizeof(info->nar_hash), hash);
	r = buf_printf(&b, "1;%s/%s;sha256:%s;%llu;", store_dir, info->path.base, hash,
		       (unsigned long long)info->nar_size);
	for (size_t i = 0; r == 0 && i < info->refs.n; i++)
		r = buf_printf(&b, "%s%s/%s", i ? "," : "", store_dir, info->refs.v[i]);
	return r < 0 ? NULL : arena_strndup(a, b.data, b.len);
}

static bool verify_one(const struct key *k, const uint8_t sig[SIG_BYTES], const char *text)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok = ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, k->pkey) == 1 &&
		  EVP_DigestVerify(ctx, sig, SIG_BYTES, (const uint8_t *)text, strlen(text)) == 1;

	EVP_MD_CTX_free(ctx);
	return ok;
}

bool keyring_verify_text(const struct keyring *k, const char *text, const struct strv *sigs)
{
	for (size_t i = 0; i < sigs->n; i++) {
		const char *sig = sigs->v[i];
		size_t name_len = strcspn(sig, ":");
		uint8_t raw[SIG_BYTES];

		for (size_t j = 0; j < k->publics.n; j++) {
			const struct key *key = &k->publics.v[j];

			if (strlen(key->name) != name_len || memcmp(key->name, sig, name_len))
				continue;
			if (split_key(sig, sizeof(raw), NULL, raw) == 0 &&
			    verify_one(key, raw, text))
				return true;
		}
	}
	return false;
}

bool keyring_verify(const struct keyring *k, const char *store_dir, const struct path_info *info)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(FINGERPRINT_MAX * 2ul);
	char *text = info->sigs.n ? path_fingerprint(&a, store_dir, info) : NULL;

	return text && keyring_verify_text(k, text, &info->sigs);
}

static int sign_one(const struct key *k, const char *text, struct arena *a, char **ret)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	uint8_t sig[SIG_BYTES], b64[SIG_BYTES * 2];
	size_t len = sizeof(sig);
	int r = -EIO;

	if (ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, k->pkey) == 1 &&
	    EVP_DigestSign(ctx, sig, &len, (const uint8_t *)text, strlen(text)) == 1) {
		EVP_EncodeBlock(b64, sig, (int)len);
		*ret = arena_printf(a, "%s:%s", k->name, (char *)b64);
		r = *ret ? 0 : -ENOMEM;
	}
	EVP_MD_CTX_free(ctx);
	return r;
}

int keyring_sign_text(const struct keyring *k, const char *text, struct arena *a, struct strv *sigs)
{
	char *sig;
	int r = 0;

	for (size_t i = 0; r == 0 && i < k->secrets.n; i++) {
		r = sign_one(&k->secrets.v[i], text, a, &sig);
		if (r == 0 && !strv_has(sigs, sig))
			r = strv_add_arena(sigs, a, sig);
	}
	return r;
}

int keyring_sign(const struct keyring *k, const char *store_dir, struct arena *a,
		 struct path_info *info)
{
	struct strv sigs = {};
	char *text;
	int r = 0;

	if (k->secrets.n == 0)
		return 0;
	text = path_fingerprint(a, store_dir, info);
	if (!text)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < info->sigs.n; i++)
		r = strv_add_arena(&sigs, a, info->sigs.v[i]);
	if (r == 0)
		r = keyring_sign_text(k, text, a, &sigs);
	if (r == 0)
		info->sigs = sigs;
	return r;
}
