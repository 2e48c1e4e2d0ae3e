/* See build_env.h. The order in which variables override each other is upstream's
 * (derivation-builder.cc, initEnv, 2.34): builders in the wild depend on it. */
#include "core/build_env.h"

#include "core/build_builtin.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "core/system_features.h"
#include "hash/hash.h"

enum { BUILDER_UID = 1000, BUILDER_GID = 100, TEXT_MAX = 512 << 20 };

/* Pairs with unique names: the last value put wins. */
struct pairs {
	struct arena *a;
	struct smap index; /* name -> index + 1 */
	struct build_pair *v;
	size_t n, cap;
	int error; /* first -ENOMEM, kept so that callers check once */
};

static void pairs_put(struct pairs *p, const char *name, const char *value)
{
	uintptr_t i = (uintptr_t)smap_get(&p->index, name);

	if (p->error)
		return;
	if (!name || !value) {
		p->error = -ENOMEM;
		return;
	}
	if (i) {
		p->v[i - 1].value = (char *)value;
		return;
	}
	if (p->n == p->cap) {
		size_t cap = p->cap ? p->cap * 2 : 64;
		struct build_pair *v = arena_array(p->a, cap, sizeof(*v));

		if (!v) {
			p->error = -ENOMEM;
			return;
		}
		if (p->n)
			memcpy(v, p->v, p->n * sizeof(*v));
		p->v = v;
		p->cap = cap;
	}
	p->v[p->n++] = (struct build_pair){ .name = (char *)name, .value = (char *)value };
	p->error = smap_put(&p->index, name, (void *)(uintptr_t)p->n);
}

static int compare_pair(const void *a, const void *b)
{
	return strcmp(((const struct build_pair *)a)->name, ((const struct build_pair *)b)->name);
}

static void pairs_finish(struct pairs *p, struct build_pair **ret_v, size_t *ret_n)
{
	if (p->n > 1)
		qsort(p->v, p->n, sizeof(*p->v), compare_pair);
	*ret_v = p->v;
	*ret_n = p->n;
	smap_done(&p->index);
}

char *output_placeholder(struct arena *a, const char *output_name)
{
	char *text = arena_printf(a, "nix-output:%s", output_name);
	uint8_t digest[32];
	char *ret;

	if (!text)
		return NULL;
	sha256(text, strlen(text), digest);
	ret = arena_alloc(a, 1 + base32_len(sizeof(digest)) + 1);
	if (!ret)
		return NULL;
	ret[0] = '/';
	base32_encode(digest, sizeof(digest), ret + 1);
	return ret;
}

/* The derivation's placeholders and the paths they stand for. */
struct rewrites {
	char **from;
	const char **to;
	size_t n;
};

static int rewrites_make(const char *store_dir, const struct drv *d, const struct build_start *s,
			 struct arena *a, struct rewrites *ret)
{
	ret->n = d->outputs.n;
	ret->from = arena_array(a, ret->n, sizeof(*ret->from));
	ret->to = arena_array(a, ret->n, sizeof(*ret->to));
	if (ret->n && (!ret->from || !ret->to))
		return -ENOMEM;
	for (size_t i = 0; i < ret->n; i++) {
		ret->from[i] = output_placeholder(a, d->outputs.v[i].name);
		ret->to[i] = arena_printf(a, "%s/%s", store_dir, s->outputs.v[i].path);
		if (!ret->from[i] || !ret->to[i])
			return -ENOMEM;
	}
	return 0;
}

/* `s` with placeholders replaced; `s` itself when there is none. NULL on ENOMEM. */
static char *rewrite(const struct rewrites *rw, struct arena *a, const char *s)
{
	for (size_t i = 0; i < rw->n; i++) {
		size_t from_len = strlen(rw->from[i]);
		_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX);
		const char *hit = strstr(s, rw->from[i]), *at = s;

		if (!hit)
			continue;
		for (; hit; at = hit + from_len, hit = strstr(at, rw->from[i]))
			if (buf_append(&b, at, (size_t)(hit - at)) < 0 ||
			    buf_append_str(&b, rw->to[i]) < 0)
				return NULL;
		if (buf_append_str(&b, at) < 0)
			return NULL;
		s = arena_strndup(a, b.data, b.len);
		if (!s)
			return NULL;
	}
	return (char *)s;
}

/* The registration format of nix-store --load-db, without derivers and hashes. */
static char *graph_text(const char *store_dir, const struct build_graph *g, struct arena *a)
{
	_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX);

	for (size_t i = 0; i < g->paths.n; i++) {
		const struct path_info *p = &g->paths.v[i];

		if (buf_printf(&b, "%s/%s\n\n%zu\n", store_dir, p->path.base, p->refs.n) < 0)
			return NULL;
		for (size_t j = 0; j < p->refs.n; j++)
			if (buf_printf(&b, "%s/%s\n", store_dir, p->refs.v[j]) < 0)
				return NULL;
	}
	return arena_strndup(a, b.data, b.len);
}

/* A variable whose value is put into a file, and whose name then points to it. */
static void put_file_variable(struct pairs *env, struct pairs *files, const char *build_dir,
			      const char *name, char *file, const char *text)
{
	pairs_put(files, file, text);
	pairs_put(env, name, file ? arena_printf(env->a, "%s/%s", build_dir, file) : NULL);
}

static char *pass_file_name(struct arena *a, const char *name)
{
	uint8_t digest[32];
	char text[64];

	sha256(name, strlen(name), digest);
	base32_encode(digest, sizeof(digest), text);
	return arena_printf(a, ".attr-%s", text);
}

static int put_attributes(const struct build_env_input *in, const char *build_dir,
			  struct pairs *env, struct pairs *files, struct err *e)
{
	struct arena *a = env->a;
	const struct drv *d = in->drv;

	if (in->opts->attrs) {
		char *json, *sh;
		int r = attrs_render(in, a, &json, &sh, e);

		if (r)
			return r;
		put_file_variable(env, files, build_dir, "NIX_ATTRS_SH_FILE", ".attrs.sh", sh);
		put_file_variable(env, files, build_dir, "NIX_ATTRS_JSON_FILE", ".attrs.json",
				  json);
		return 0;
	}
	for (size_t i = 0; i < d->env.n; i++) {
		const struct drv_env *v = &d->env.v[i];

		if (strv_has_sorted(&in->opts->pass_as_file, v->name))
			put_file_variable(env, files, build_dir, arena_printf(a, "%sPath", v->name),
					  pass_file_name(a, v->name), v->value);
		else
			pairs_put(env, v->name, v->value);
	}
	for (size_t i = 0; i < in->opts->graphs.n; i++)
		pairs_put(files, in->graphs[i].name, graph_text(in->store_dir, &in->graphs[i], a));
	return 0;
}

static bool sees_network(const struct drv *d)
{
	return d->kind == DRV_FIXED || d->kind == DRV_IMPURE;
}

/* What the administrator, or a client that is trusted, has set comes before the daemon's own. */
static const char *impure_value(const struct build_env_input *in, const char *name)
{
	const struct strv *set = &in->settings->impure_env;
	size_t len = strlen(name);

	for (size_t i = 0; i < set->n; i++)
		if (!strncmp(set->v[i], name, len) && set->v[i][len] == '=')
			return set->v[i] + len + 1;
	return in->get_env ? in->get_env(name) : NULL;
}

static int make_environment(const struct build_env_input *in, const char *build_dir,
			    const struct rewrites *rw, struct arena *a, struct build_start *s,
			    struct err *e)
{
	static const char *const temp_names[] = { "NIX_BUILD_TOP", "TMPDIR", "TEMPDIR",
						  "TMP",	   "TEMP",   "PWD" };
	struct pairs env = { .a = a }, files = { .a = a };
	uint64_t cores = in->settings->cores ? in->settings->cores : in->n_processors;
	int r;

	pairs_put(&env, "PATH", "/path-not-set");
	pairs_put(&env, "HOME", "/homeless-shelter");
	pairs_put(&env, "NIX_STORE", in->store_dir);
	pairs_put(&env, "NIX_BUILD_CORES", arena_printf(a, "%llu", (unsigned long long)cores));
	r = put_attributes(in, build_dir, &env, &files, e);
	for (size_t i = 0; i < ELEMENTS(temp_names); i++)
		pairs_put(&env, temp_names[i], build_dir);
	if (in->drv->kind == DRV_FIXED)
		pairs_put(&env, "NIX_OUTPUT_CHECKED", "1");
	if (sees_network(in->drv)) {
		for (size_t i = 0; i < in->opts->impure_env_vars.n; i++) {
			const char *name = in->opts->impure_env_vars.v[i];
			const char *value = impure_value(in, name);

			pairs_put(&env, name, value ? value : "");
		}
	}
	pairs_put(&env, "NIX_LOG_FD", "2");
	pairs_put(&env, "TERM", "xterm-256color");
	if (s->recursive)
		pairs_put(&env, "NIX_REMOTE",
			  arena_printf(a, "unix://%s/" BUILD_SOCKET, build_dir));
	for (size_t i = 0; i < env.n; i++) {
		env.v[i].value = rewrite(rw, a, env.v[i].value);
		if (!env.v[i].value)
			env.error = -ENOMEM;
	}
	for (size_t i = 0; i < files.n; i++) {
		files.v[i].value = rewrite(rw, a, files.v[i].value);
		if (!files.v[i].value)
			files.error = -ENOMEM;
	}
	pairs_finish(&env, &s->env.v, &s->env.n);
	pairs_finish(&files, &s->files.v, &s->files.n);
	if (r)
		return r;
	if (env.error || files.error)
		return err_errno(e, -ENOMEM, "preparing the environment of '%s/%s'", in->store_dir,
				 in->drv_base);
	return 0;
}

int sandbox_path_parse(struct arena *a, const char *entry, struct build_pair *ret,
		       bool *ret_optional)
{
	size_t len = strlen(entry);
	bool optional = len && entry[len - 1] == '?';
	const char *eq;

	if (optional)
		len--;
	eq = memchr(entry, '=', len);
	if (eq) {
		ret->name = arena_strndup(a, entry, (size_t)(eq - entry));
		ret->value = arena_strndup(a, eq + 1, len - (size_t)(eq + 1 - entry));
	} else {
		ret->name = ret->value = arena_strndup(a, entry, len);
	}
	*ret_optional = optional;
	return ret->name && ret->value ? 0 : -ENOMEM;
}

static int make_binds(const struct build_env_input *in, struct arena *a, struct build_start *s,
		      struct err *e)
{
	struct pairs binds = { .a = a };

	if (s->network && in->ca_file && *in->ca_file)
		pairs_put(&binds, "/etc/ssl/certs/ca-certificates.crt",
			  arena_printf(a, "%s?", in->ca_file));
	for (size_t i = 0; i < in->settings->sandbox_paths.n; i++) {
		struct build_pair p;
		bool optional;

		if (sandbox_path_parse(a, in->settings->sandbox_paths.v[i], &p, &optional) < 0)
			binds.error = -ENOMEM;
		else
			pairs_put(&binds, p.name,
				  optional ? arena_printf(a, "%s?", p.value) : p.value);
	}
	for (size_t i = 0; in->sandbox_closure && i < in->sandbox_closure->n; i++) {
		char *full = arena_printf(a, "%s/%s", in->store_dir, in->sandbox_closure->v[i]);

		pairs_put(&binds, full, full);
	}
	pairs_finish(&binds, &s->binds.v, &s->binds.n);
	return binds.error ? err_errno(e, binds.error, "reading the setting 'sandbox-paths'") : 0;
}

/* Upstream's rule for which builds get a sandbox. With one id for all, a builder without one can
 * change the store and the database: what a derivation asks for is then not enough. */
static int decide_sandbox(const struct build_env_input *in, uint64_t *ret, struct err *e)
{
	bool may_ask = !in->own_uid || in->trusted;

	switch (in->settings->sandbox) {
	case SANDBOX_FALSE:
		*ret = SANDBOX_OFF;
		return 0;
	case SANDBOX_RELAXED:
		if (in->opts->no_chroot && !may_ask)
			return err_set(e, ENV_BAD,
				       "derivation '%s/%s' has '__noChroot' set, but with 'ids = "
				       "single' that's allowed only to clients in 'trusted-users', "
				       "because the builder would run as the daemon's own user",
				       in->store_dir, in->drv_base);
		*ret = (sees_network(in->drv) && may_ask) || in->opts->no_chroot ? SANDBOX_OFF
										 : SANDBOX_ON;
		return 0;
	default:
		if (in->opts->no_chroot)
			return err_set(e, ENV_BAD,
				       "derivation '%s/%s' has '__noChroot' set, but that's not "
				       "allowed when 'sandbox' is 'true'",
				       in->store_dir, in->drv_base);
		*ret = SANDBOX_ON;
		return 0;
	}
}

/* Where the builder puts an output. */
static int output_place(const struct build_env_input *in, const struct drv_output *o,
			struct store_path *ret, struct err *e)
{
	struct store_path drv;
	int r;

	if (*o->path)
		return store_path_parse(in->store_dir, o->path, ret, e);
	r = store_path_parse_base(in->drv_base, &drv, e);
	return r ? r : store_path_for_scratch(in->store_dir, &drv, in->drv->name, o->name, ret, e);
}

static int make_outputs(const struct build_env_input *in, struct arena *a, struct build_start *s,
			struct err *e)
{
	const struct drv *d = in->drv;

	s->outputs.n = d->outputs.n;
	s->outputs.v = arena_array(a, d->outputs.n, sizeof(*s->outputs.v));
	if (d->outputs.n && !s->outputs.v)
		return err_errno(e, -ENOMEM, "preparing the outputs");
	for (size_t i = 0; i < d->outputs.n; i++) {
		struct store_path p;

		if (output_place(in, &d->outputs.v[i], &p, e))
			return err_prefix(e, "derivation '%s/%s': ", in->store_dir, in->drv_base);
		s->outputs.v[i].name = d->outputs.v[i].name;
		s->outputs.v[i].path = arena_strdup(a, p.base);
		s->outputs.v[i].ca = *d->outputs.v[i].algo
					     ? ca_method_print(a, d->outputs.v[i].method,
							       d->outputs.v[i].hash_algo)
					     : (char *)"";
		s->outputs.v[i].discard_refs =
			strv_has_sorted(&in->opts->unsafe_discard, d->outputs.v[i].name);
		if (!s->outputs.v[i].path || !s->outputs.v[i].ca)
			return err_errno(e, -ENOMEM, "preparing the outputs");
	}
	s->fixed = s->network = sees_network(d);
	if (d->kind != DRV_FIXED)
		return 0;
	s->fixed_hash.n = hash_size(d->fixed.hash.algo);
	s->fixed_hash.v = (uint8_t *)d->fixed.hash.bytes;
	return 0;
}

static int make_args(const struct build_env_input *in, const struct rewrites *rw, struct arena *a,
		     struct build_start *s, struct err *e)
{
	for (size_t i = 0; i < in->drv->args.n; i++)
		if (strv_add_arena(&s->args, a, rewrite(rw, a, in->drv->args.v[i])) < 0)
			return err_errno(e, -ENOMEM, "preparing the builder's arguments");
	return 0;
}

int build_env_make(const struct build_env_input *in, struct arena *a, struct build_start *ret,
		   struct err *e)
{
	static const uint64_t ids[] = {
		[LEASE_PLAIN] = 1, [LEASE_RANGE] = 65536, [LEASE_RANGE4] = 262144
	};
	const struct settings *set = in->settings;
	struct rewrites rw;
	struct build_start s = {
		.drv = (char *)in->drv_base,
		.drv_name = in->drv->name,
		.store_dir = (char *)in->store_dir,
		.real_store = (char *)in->store_dir,
		.scratch = (char *)in->scratch,
		.platform = in->drv->platform,
		.builder = in->drv->builder,
		.inputs = *in->inputs,
		.net_loopback = set->fixed_output_loopback,
		.net_helper = (char *)in->net_helper,
		.shm_size = set->sandbox_dev_shm_size,
		.uid = BUILDER_UID,
		.gid = BUILDER_GID,
		.n_ids = ids[features_ids(in->opts)],
		.kvm = strv_has_sorted(&in->opts->required_features, FEATURE_KVM),
		.filter_syscalls = set->filter_syscalls,
		.allow_new_privileges = set->allow_new_privileges,
		.impersonate_linux_26 = set->impersonate_linux_26,
		.nested = set->nested_sandboxes,
		.timeout_sec = set->timeout,
		.max_silent_sec = set->max_silent_time,
		.max_log_bytes = set->max_build_log_size,
		.log_lines = set->log_lines,
		.compress_log = set->keep_build_log && set->compress_build_log,
		.nix_log = strv_has(&set->experimental_features, "nix-command"),
		.keep_failed = set->keep_failed,
		.check = in->check,
		.recursive = strv_has_sorted(&in->opts->required_features, FEATURE_RECURSIVE),
	};
	int r = decide_sandbox(in, &s.sandbox, e);

	if (r)
		return r;
	if (s.n_ids > 1) {
		s.uid = s.gid = 0;
		if (s.sandbox != SANDBOX_ON)
			return err_set(
				e, ENV_BAD,
				"feature 'uid-range' of derivation '%s/%s' is only supported "
				"in sandboxed builds",
				in->store_dir, in->drv_base);
	}
	/* Without a sandbox the builder sees the directory where it lies, or will lie. */
	s.build_dir = s.sandbox == SANDBOX_ON ? set->sandbox_build_dir
		      : in->host_dir		? arena_strdup(a, in->host_dir)
						: arena_printf(a, "%s/build", in->scratch);
	if (!s.build_dir)
		return err_errno(e, -ENOMEM, "preparing the build of '%s'", in->drv_base);
	if (s.sandbox == SANDBOX_ON && !strncmp(in->store_dir, s.build_dir, strlen(s.build_dir)))
		return err_set(e, ENV_BAD, "`sandbox-build-dir` must not contain the storeDir");
	r = make_outputs(in, a, &s, e);
	if (r == 0 && rewrites_make(in->store_dir, in->drv, &s, a, &rw) < 0)
		r = err_errno(e, -ENOMEM, "preparing the build of '%s'", in->drv_base);
	if (r == 0)
		r = make_args(in, &rw, a, &s, e);
	if (r == 0)
		r = make_environment(in, s.build_dir, &rw, a, &s, e);
	if (r == 0)
		r = make_binds(in, a, &s, e);
	if (r == 0)
		r = build_builtin(in, a, &s, e);
	if (r == 0)
		*ret = s;
	return r;
}
