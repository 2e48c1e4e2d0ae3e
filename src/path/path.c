/* Store paths: checking and taking apart.
 *
 * The only functions that turn foreign bytes into a struct store_path. Whatever passes here may be
 * put behind a directory fd without further checks: no slash, no NUL, never "." or "..".
 * Sentences are upstream's (libstore/path.cc of 2.34), since clients show them. Pure. */
#include "path/path.h"

#include <errno.h>
#include <string.h>

static bool is_name_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       c == '+' || c == '-' || c == '.' || c == '_' || c == '?' || c == '=';
}

/* A table: which of two ways a character of a digest takes, no processor can guess. */
static const bool is_digest_char[256] = {
	['0' ... '9'] = true, ['a' ... 'd'] = true, ['f' ... 'n'] = true,
	['p' ... 's'] = true, ['v' ... 'z'] = true,
};

/* "." or ".." at the beginning, when it is the whole of the name's first part. */
static int check_dots(const char *name, struct err *e)
{
	size_t dots = strspn(name, ".");

	if (dots != 1 && dots != 2)
		return 0;
	if (!name[dots])
		return err_set(e, PATH_BAD, "name '%s' is not valid", name);
	if (name[dots] == '-')
		return err_set(e, PATH_BAD,
			       "name '%s' is not valid: first dash-separated component must not be "
			       "'%.*s'",
			       name, (int)dots, name);
	return 0;
}

int store_name_check(const char *name, struct err *e)
{
	int r;

	if (!*name)
		return err_set(e, PATH_BAD, "name must not be empty");
	if (strnlen(name, STORE_NAME_MAX + 1) > STORE_NAME_MAX)
		return err_set(e, PATH_BAD, "name '%s' must be no longer than %d characters", name,
			       STORE_NAME_MAX);
	r = check_dots(name, e);
	if (r)
		return r;
	for (const char *p = name; *p; p++)
		if (!is_name_char(*p))
			return err_set(e, PATH_BAD, "name '%s' contains illegal character '%c'",
				       name, *p);
	return 0;
}

int store_path_parse_base(const char *base, struct store_path *ret, struct err *e)
{
	_cleanup_err_ struct err why = {};
	size_t len = strlen(base);

	if (len < STORE_DIGEST_LEN + 1)
		return err_set(e, PATH_BAD, "'%s' is too short to be a valid store path", base);
	for (size_t i = 0; i < STORE_DIGEST_LEN; i++)
		if (!is_digest_char[(uint8_t)base[i]])
			return err_set(e, PATH_BAD,
				       "store path '%s' contains illegal base-32 character '%c'",
				       base, base[i]);
	if (base[STORE_DIGEST_LEN] != '-')
		return err_set(e, PATH_BAD,
			       "path '%s' is not a valid store path: no '-' between its digest and "
			       "its name",
			       base);
	if (store_name_check(base + STORE_DIGEST_LEN + 1, e ? &why : NULL))
		return err_set(e, PATH_BAD, "path '%s' is not a valid store path: %s", base,
			       err_msg(&why));
	memset(ret, 0, sizeof(*ret));
	memcpy(ret->base, base, len);
	return 0;
}

/* What stands behind store_dir "/" in `path`, or NULL. */
static const char *below(const char *store_dir, const char *path)
{
	size_t len = strlen(store_dir);

	if (strncmp(path, store_dir, len) || path[len] != '/')
		return NULL;
	return path + len + 1;
}

int store_path_parse(const char *store_dir, const char *full, struct store_path *ret, struct err *e)
{
	const char *base = below(store_dir, full);

	if (!base || !*base || strchr(base, '/'))
		return err_set(e, PATH_BAD, "path '%s' is not in the Nix store", full);
	return store_path_parse_base(base, ret, e);
}

int store_path_of_subpath(const char *store_dir, const char *path, struct store_path *ret,
			  struct err *e)
{
	const char *base = below(store_dir, path);
	char text[STORE_BASE_MAX + 2]; /* one byte more than fits: too long stays too long */
	size_t len;

	if (!base || !*base || *base == '/')
		return err_set(e, PATH_BAD, "path '%s' is not in the Nix store", path);
	len = strcspn(base, "/");
	if (len > STORE_BASE_MAX + 1)
		len = STORE_BASE_MAX + 1;
	memcpy(text, base, len);
	text[len] = 0;
	return store_path_parse_base(text, ret, e);
}

bool store_path_is_drv(const struct store_path *p)
{
	size_t len = strlen(store_path_name(p));

	return len >= 4 && !strcmp(store_path_name(p) + len - 4, ".drv");
}

char *store_path_full(struct arena *a, const char *store_dir, const struct store_path *p)
{
	size_t dir = strlen(store_dir), base = strlen(p->base);
	char *s = arena_alloc(a, dir + base + 2);

	if (!s)
		return NULL;
	memcpy(s, store_dir, dir);
	s[dir] = '/';
	memcpy(s + dir + 1, p->base, base);
	return s;
}
