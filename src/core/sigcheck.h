/* Signatures of store paths: Ed25519 over "1;<path>;sha256:<base 32>;<size>;<ref>,<ref>…"
 * (feature row A16). Keys and signatures read "<name>:<base 64>". */
#pragma once

#include "base/err.h"
#include "base/strv.h"
#include "store/db.h"

struct keyring;

/* Public keys from their texts, secret keys from files. A key that cannot be used is told to the
 * log by the caller through `e` of keyring_add_*: 0 or a negative/positive code with a sentence. */
struct keyring *keyring_new(void);
void keyring_free(struct keyring *k);
int keyring_add_public(struct keyring *k, const char *text, struct err *e);
int keyring_add_secret_file(struct keyring *k, const char *path, struct err *e);

/* The text that is signed, in an arena; NULL when memory is exhausted. */
char *path_fingerprint(struct arena *a, const char *store_dir, const struct path_info *info);
/* Does one of the signatures verify with one of the public keys? */
bool keyring_verify(const struct keyring *k, const char *store_dir, const struct path_info *info);
/* The same for any text. */
bool keyring_verify_text(const struct keyring *k, const char *text, const struct strv *sigs);
/* Adds one signature of the text per secret key to `sigs`, which lies in `a`. 0 or -errno. */
int keyring_sign_text(const struct keyring *k, const char *text, struct arena *a,
		      struct strv *sigs);
/* Adds one signature per secret key to info->sigs (strings and list in `a`). 0 or -errno. */
int keyring_sign(const struct keyring *k, const char *store_dir, struct arena *a,
		 struct path_info *info);
