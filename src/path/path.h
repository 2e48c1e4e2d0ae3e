/* Store paths: the only place that makes a struct store_path out of foreign bytes.
 *
 *   store path = store-dir "/" base          base = digest "-" name
 *   digest     = 32 characters of base 32 ("0123456789abcdfghijklmnpqrsvwxyz")
 *   name       = 1*211( ALPHA / DIGIT / "+" / "-" / "." / "_" / "?" / "=" ), not "." or "..",
 *                not beginning with ".-" or "..-"
 *
 * Pure. Source of the rules: feature rows B1 to B7. */
#pragma once

#include "base/arena.h"
#include "base/err.h"
#include "base/strv.h"
#include "hash/hash.h"

enum { STORE_DIGEST_LEN = 32, STORE_NAME_MAX = 211, STORE_BASE_MAX = 32 + 1 + 211 };

struct store_path {
	char base[STORE_BASE_MAX + 1]; /* NUL-terminated */
};

enum { PATH_BAD = 1 };

static inline const char *store_path_name(const struct store_path *p)
{
	return p->base + STORE_DIGEST_LEN + 1;
}

/* From a full path directly below store_dir. PATH_BAD with upstream's sentence in `e`. */
int store_path_parse(const char *store_dir, const char *full, struct store_path *ret,
		     struct err *e);
/* From a base name. */
int store_path_parse_base(const char *base, struct store_path *ret, struct err *e);
/* The store path that `path` is or lies in ("/nix/store/x-y/bin/z"). */
int store_path_of_subpath(const char *store_dir, const char *path, struct store_path *ret,
			  struct err *e);
int store_name_check(const char *name, struct err *e);
bool store_path_is_drv(const struct store_path *p);
/* store_dir "/" base, in an arena. */
char *store_path_full(struct arena *a, const char *store_dir, const struct store_path *p);

/* How a content-addressed object was made. */
enum ca_method { CA_TEXT, CA_FLAT, CA_NAR, CA_GIT };

struct ca {
	enum ca_method method;
	struct hash hash;
};

/* "text:sha256:…", "fixed:sha1:…", "fixed:r:sha256:…", "fixed:git:sha1:…" (hash in base 32).
 * PATH_BAD when it is none. */
int ca_parse(const char *text, struct ca *ret, struct err *e);
/* "fixed:r:sha256" */
char *ca_method_print(struct arena *a, enum ca_method method, enum hash_algo algo);
char *ca_print(struct arena *a, const struct ca *ca);
/* The wire's method names of op 7: "text:sha256", "fixed:sha256", "fixed:r:sha512" … */
int ca_method_parse(const char *text, enum ca_method *ret_method, enum hash_algo *ret_algo,
		    struct err *e);

/* The path of a content-addressed object. `refs` are base names, sorted; `self` says that the
 * object refers to itself (CA_NAR with sha256 only). */
int store_path_for_ca(const char *store_dir, const char *name, const struct ca *ca,
		      const struct strv *refs, bool self, struct store_path *ret, struct err *e);
/* The path of an output of an input-addressed derivation: `hash` is the derivation's hash modulo.
 */
int store_path_for_output(const char *store_dir, const char *drv_name, const char *output_name,
			  const uint8_t hash[32], struct store_path *ret, struct err *e);
/* Where a build leaves an output whose path follows from its contents: upstream's fallback path, of
 * a type that no object in a store has. `drv` is the .drv. */
int store_path_for_scratch(const char *store_dir, const struct store_path *drv,
			   const char *drv_name, const char *output_name, struct store_path *ret,
			   struct err *e);
/* The output's store object name: "name" for "out", else "name-output". */
char *output_object_name(struct arena *a, const char *drv_name, const char *output_name);
