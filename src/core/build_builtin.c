/* builtin:fetchurl and builtin:unpack-channel: what airplant-fetch is told, and what it sees.
 * Linked by the core; pure but for the netrc file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "core/build_builtin.h"

enum { NETRC_MAX = 1 << 20 };
#define INSIDE "/.airplant-fetch" /* the program, in a sandbox */

struct builder {
	const struct build_env_input *in;
	struct arena *a;
	struct build_start *s;
	int error; /* the first -ENOMEM */
};

static const char *value_of(const struct build_start *s, const char *name)
{
	for (size_t i = 0; i < s->env.n; i++)
		if (!strcmp(s->env.v[i].name, name))
			return s->env.v[i].value;
	return NULL;
}

static void put(struct builder *b, char *text)
{
	if (!text || strv_add_arena(&b->s->fetch, b->a, text) < 0)
		b->error = -ENOMEM;
}

static void put_pair(struct builder *b, const char *name, const char *value)
{
	if (value && *value)
		put(b, arena_printf(b->a, "%s=%s", name, value));
}

static void put_number(struct builder *b, const char *name, uint64_t n)
{
	put(b, arena_printf(b->a, "%s=%llu", name, (unsigned long long)n));
}

/* Both lists grow by a few entries, once. */
static void append(struct builder *b, struct build_pair **v, size_t *n, const char *name,
		   const char *value)
{
	struct build_pair *more = arena_array(b->a, *n + 1, sizeof(*more));

	if (!more || !value) {
		b->error = -ENOMEM;
		return;
	}
	if (*n)
		memcpy(more, *v, *n * sizeof(*more));
	more[(*n)++] = (struct build_pair){ .name = (char *)name, .value = (char *)value };
	*v = more;
}

/* The program and the libraries it is linked with, read-only; nobody else's program runs here. */
static void put_program(struct builder *b)
{
	static const char *const dirs[] = { "/lib", "/lib64", "/usr/lib", "/usr/lib64",
					    "/etc/ld.so.cache" };
	struct build_start *s = b->s;

	if (s->sandbox != SANDBOX_ON) {
		put(b, arena_strdup(b->a, b->in->fetcher));
		return;
	}
	for (size_t i = 0; i < ELEMENTS(dirs); i++)
		append(b, &s->binds.v, &s->binds.n, dirs[i], arena_printf(b->a, "%s?", dirs[i]));
	append(b, &s->binds.v, &s->binds.n, INSIDE, b->in->fetcher);
	put(b, arena_strdup(b->a, INSIDE));
}

static bool begins_with(const char *text, const char *begin)
{
	return !strncasecmp(text, begin, strlen(begin));
}

/* The passwords lie in the build directory, where no other program of this build looks, and are
 * deleted with it. A URL could name them there: one that
 * asks no server gets none. */
static void put_netrc(struct builder *b)
{
	const char *path = b->in->netrc_file, *url = value_of(b->s, "url");
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (!url || !(begins_with(url, "http://") || begins_with(url, "https://") ||
		      begins_with(url, "ftp://") || begins_with(url, "ftps://")))
		return;
	if (!path || !*path || read_file_at(AT_FDCWD, path, NETRC_MAX, &text, &len) < 0)
		return; /* absent is the usual case */
	append(b, &b->s->files.v, &b->s->files.n, "netrc", arena_strdup(b->a, text));
	put_pair(b, "netrc", "netrc");
}

static void put_mirrors(struct builder *b)
{
	const struct strv *list = &b->in->settings->hashed_mirrors;
	const struct drv *d = b->in->drv;
	char hex[2 * HASH_MAX + 1], *all = arena_strdup(b->a, "");

	if (d->kind != DRV_FIXED || d->fixed.method != CA_FLAT || !list->n)
		return;
	for (size_t i = 0; all && i < list->n; i++)
		all = arena_printf(b->a, "%s%s%s", all, i ? " " : "", list->v[i]);
	base16_encode(d->fixed.hash.bytes, hash_size(d->fixed.hash.algo), hex);
	if (!all)
		b->error = -ENOMEM;
	put_pair(b, "mirrors", all);
	put_pair(b, "mirror-hash",
		 arena_printf(b->a, "%s/%s", hash_algo_name(d->fixed.hash.algo), hex));
}

/* Those that come from the daemon's environment. Upstream's program has no other either; one that
 * the derivation chooses would be told passwords. */
static void put_proxies(struct builder *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->s->env.n; i++) {
		const struct build_pair v = b->s->env.v[i];

		if (!build_is_proxy(v.name) || strv_has(&b->in->opts->impure_env_vars, v.name))
			b->s->env.v[n++] = v;
	}
	b->s->env.n = n;
}

static bool is_one(const char *value)
{
	return value && !strcmp(value, "1");
}

static int fetchurl(struct builder *b, struct err *e)
{
	const struct settings *set = b->in->settings;
	const struct drv *d = b->in->drv;

	if (d->kind != DRV_FIXED && d->kind != DRV_IMPURE)
		return err_set(e, ENV_BAD,
			       "'builtin:fetchurl' must be a fixed-output or impure derivation");
	put_pair(b, "url", value_of(b->s, "url"));
	if (is_one(value_of(b->s, "unpack")))
		put_pair(b, "unpack", "1");
	if (is_one(value_of(b->s, "executable")))
		put_pair(b, "executable", "1");
	if (b->in->ca_file && *b->in->ca_file)
		put_pair(b, "ca-file",
			 b->s->sandbox == SANDBOX_ON ? "/etc/ssl/certs/ca-certificates.crt"
						     : b->in->ca_file);
	put_pair(b, "user-agent",
		 arena_printf(b->a, "curl Airplant%s%s", *set->user_agent_suffix ? " " : "",
			      set->user_agent_suffix));
	put_number(b, "connect-timeout", set->connect_timeout);
	put_number(b, "stalled-timeout", set->stalled_download_timeout);
	put_number(b, "attempts", set->download_attempts);
	put_mirrors(b);
	put_netrc(b);
	put_proxies(b);
	return 0;
}

int build_builtin(const struct build_env_input *in, struct arena *a, struct build_start *s,
		  struct err *e)
{
	struct builder b = { .in = in, .a = a, .s = s };
	bool fetch = !strcmp(s->builder, "builtin:fetchurl");
	int r = 0;

	if (!fetch && strcmp(s->builder, "builtin:unpack-channel"))
		return 0;
	put_program(&b);
	put(&b, (char *)(fetch ? "fetchurl" : "unpack-channel"));
	for (size_t i = 0; i < s->outputs.n; i++)
		if (!strcmp(s->outputs.v[i].name, "out"))
			put_pair(&b, "out",
				 arena_printf(a, "%s/%s", s->store_dir, s->outputs.v[i].path));
	if (fetch) {
		r = fetchurl(&b, e);
	} else {
		put_pair(&b, "src", value_of(s, "src"));
		put_pair(&b, "channelName", value_of(s, "channelName"));
	}
	return b.error ? err_errno(e, b.error, "preparing the build of '%s'", in->drv_base) : r;
}
