/* Reads the text of a .drv file: one pass, no recursion, everything in the caller's arena.
 *
 * Foreign bytes. What comes out is well-formed: names and paths are valid, sets are sorted and
 * have no duplicates, and the outputs are of one kind. Whether the output paths are the right ones
 * is drv_check's question. Sentences are upstream's where it has one. Pure. */
#include "drv/drv.h"

#include <errno.h>
#include <string.h>

#include "drv/scan.h"

struct parser {
	struct scan s;
	const char *store_dir;
	bool dynamic; /* inputs may have the second form */
	struct drv *d;
};

static int no_memory(struct parser *p)
{
	return err_errno(p->s.err, -ENOMEM, "parsing derivation '%s'", p->s.label);
}

/* Room for one more element of a vector in the arena, which doubles. */
static void *grow(struct arena *a, void *v, size_t n, size_t size)
{
	void *bigger;

	if (n && (n < 4 || (n & (n - 1))))
		return v;
	bigger = arena_array(a, n ? n * 2 : 4, size);
	if (bigger && n)
		memcpy(bigger, v, n * size);
	return bigger;
}

/* A sorted set of strings: `next` must come behind `last`. */
static int check_order(struct parser *p, const char *last, const char *next, const char *what)
{
	int c = last ? strcmp(last, next) : -1;

	if (c == 0)
		return scan_fail(&p->s, "%s '%s' is listed twice", what, next);
	if (c > 0)
		return scan_fail(&p->s, "%s '%s' is not in sorted order", what, next);
	return 0;
}

static int check_path(struct parser *p, const char *path, struct store_path *ret)
{
	_cleanup_err_ struct err why = {};
	int r;

	if (path[0] != '/')
		return scan_fail(&p->s, "bad path '%s' in derivation", path);
	r = store_path_parse(p->store_dir, path, ret, &why);
	if (r > 0)
		return scan_fail(&p->s, "%s", err_msg(&why));
	return r;
}

static int check_output_name(struct parser *p, const char *name)
{
	_cleanup_err_ struct err why = {};
	int r;

	r = store_name_check(name, &why);
	if (r > 0)
		return scan_fail(&p->s, "invalid derivation output name '%s': %s", name,
				 err_msg(&why));
	/* Its path would be asked for with the name of the attribute that holds the .drv itself. */
	if (!strcmp(name, "drv"))
		return scan_fail(&p->s, "invalid derivation output name 'drv'");
	return r;
}

/* "sha256" or "r:sha256". */
static int parse_algo(struct parser *p, const char *text, enum ca_method *ret_method,
		      enum hash_algo *ret_algo)
{
	static const struct {
		const char *prefix;
		enum ca_method method;
	} methods[] = { { "r:", CA_NAR }, { "text:", CA_TEXT }, { "git:", CA_GIT } };
	const char *name = text;

	*ret_method = CA_FLAT;
	for (size_t i = 0; i < ELEMENTS(methods); i++) {
		size_t len = strlen(methods[i].prefix);

		if (strncmp(text, methods[i].prefix, len))
			continue;
		*ret_method = methods[i].method;
		name += len;
		break;
	}
	if (hash_algo_parse(name, ret_algo))
		return scan_fail(&p->s,
				 "unknown hash algorithm '%s', expect 'md5', 'sha1', 'sha256', or "
				 "'sha512'",
				 name);
	if (*ret_method == CA_TEXT && *ret_algo != HASH_SHA256)
		return scan_fail(&p->s,
				 "text content address hash should use sha256, but instead uses %s",
				 name);
	if (*ret_method == CA_GIT && *ret_algo != HASH_SHA1 && *ret_algo != HASH_SHA256)
		return scan_fail(&p->s,
				 "Git file ingestion must use SHA-1 or SHA-256 hash, but instead "
				 "using: %s",
				 name);
	return 0;
}

/* A fixed output. Its hash is kept in base 16 whatever base it came in, since hashes of
 * derivations are made from that. */
static int parse_fixed(struct parser *p, struct drv_output *o, enum ca_method method,
		       enum hash_algo algo)
{
	_cleanup_err_ struct err why = {};
	struct store_path ignored;
	int r;

	r = check_path(p, o->path, &ignored);
	if (r)
		return r;
	if (strpbrk(o->hash, ":-"))
		return scan_fail(&p->s, "hash '%s' has wrong length for hash algorithm '%s'",
				 o->hash, hash_algo_name(algo));
	r = hash_parse(o->hash, &algo, &p->d->fixed.hash, &why);
	if (r > 0)
		return scan_fail(&p->s, "%s", err_msg(&why));
	if (r < 0)
		return r;
	p->d->fixed.method = method;
	o->hash = hash_print(p->s.arena, &p->d->fixed.hash, BASE16);
	return o->hash ? 0 : no_memory(p);
}

/* What kind of output this is, which its empty and filled fields tell. */
static int parse_kind(struct parser *p, struct drv_output *o, enum drv_kind *ret)
{
	enum ca_method method = CA_FLAT;
	enum hash_algo algo = HASH_SHA256;
	struct store_path ignored;
	int r;

	if (!*o->algo) {
		if (*o->hash)
			return scan_fail(&p->s, "output '%s' has a hash but no hash algorithm",
					 o->name);
		*ret = *o->path ? DRV_INPUT_ADDRESSED : DRV_DEFERRED;
		return *o->path ? check_path(p, o->path, &ignored) : 0;
	}
	r = parse_algo(p, o->algo, &method, &algo);
	if (r)
		return r;
	o->method = method;
	o->hash_algo = algo;
	if (!strcmp(o->hash, "impure")) {
		*ret = DRV_IMPURE;
		if (*o->path)
			return scan_fail(&p->s, "impure derivation output should not specify "
						"output path");
		return 0;
	}
	if (!*o->hash) {
		*ret = DRV_FLOATING;
		if (*o->path)
			return scan_fail(&p->s, "content-addressing derivation output should not "
						"specify output path");
		return 0;
	}
	*ret = DRV_FIXED;
	return parse_fixed(p, o, method, algo);
}

/* All outputs are of one kind. `o` is the newest of d->outputs. */
static int check_kind(struct parser *p, const struct drv_output *o, enum drv_kind kind)
{
	const struct drv *d = p->d;

	if (d->outputs.n == 1)
		p->d->kind = kind;
	if (d->kind != kind)
		return scan_fail(&p->s, "can't mix derivation output types");
	if (kind == DRV_FIXED && d->outputs.n > 1)
		return scan_fail(&p->s, "only one fixed output is allowed for now");
	if (kind == DRV_FIXED && strcmp(o->name, "out"))
		return scan_fail(&p->s, "single fixed output must be named \"out\"");
	if (kind == DRV_FLOATING) {
		const char *a = strrchr(d->outputs.v[0].algo, ':'), *b = strrchr(o->algo, ':');

		if (strcmp(a ? a + 1 : d->outputs.v[0].algo, b ? b + 1 : o->algo))
			return scan_fail(&p->s, "all floating outputs must use the same hash "
						"algorithm");
	}
	return 0;
}

static int parse_output(struct parser *p)
{
	struct drv *d = p->d;
	struct drv_output o = {}, *v;
	enum drv_kind kind = DRV_INPUT_ADDRESSED;
	int r;

	r = scan_token(&p->s, "(");
	if (!r)
		r = scan_string(&p->s, &o.name);
	if (!r)
		r = scan_next_string(&p->s, &o.path);
	if (!r)
		r = scan_next_string(&p->s, &o.algo);
	if (!r)
		r = scan_next_string(&p->s, &o.hash);
	if (!r)
		r = check_output_name(p, o.name);
	if (!r)
		r = check_order(p, d->outputs.n ? d->outputs.v[d->outputs.n - 1].name : NULL,
				o.name, "output");
	if (!r)
		r = parse_kind(p, &o, &kind);
	if (!r && d->outputs.n >= DRV_OUTPUTS_MAX)
		r = scan_fail(&p->s, "more than %d outputs", DRV_OUTPUTS_MAX);
	if (r)
		return r;
	v = grow(p->s.arena, d->outputs.v, d->outputs.n, sizeof(*v));
	if (!v)
		return no_memory(p);
	d->outputs.v = v;
	v[d->outputs.n++] = o;
	r = check_kind(p, &o, kind);
	return r ? r : scan_token(&p->s, ")");
}

static int check_outputs(struct parser *p, const struct strv *outputs)
{
	int r = 0;

	for (size_t i = 0; !r && i < outputs->n; i++) {
		r = check_output_name(p, outputs->v[i]);
		if (!r)
			r = check_order(p, i ? outputs->v[i - 1] : NULL, outputs->v[i], "output");
	}
	return r;
}

/* The outputs of a node; `*ret_deeper`: its list of nodes is open behind them. */
static int parse_node(struct parser *p, struct strv *ret, bool *ret_deeper)
{
	int r;

	*ret_deeper = p->dynamic && p->s.at < p->s.end && *p->s.at == '(';
	r = *ret_deeper ? scan_token(&p->s, "(") : 0;
	if (!r)
		r = scan_strings(&p->s, ret);
	if (!r)
		r = check_outputs(p, ret);
	return !r && *ret_deeper ? scan_token(&p->s, ",[") : r;
}

static int add_node(struct parser *p, struct drv_input *in, const struct drv_node *node)
{
	struct drv_node *v = grow(p->s.arena, in->nodes, in->n_nodes, sizeof(*v));

	if (!v)
		return no_memory(p);
	in->nodes = v;
	v[in->n_nodes++] = *node;
	return 0;
}

/* The list of nodes that is open, and those within. */
static int parse_nodes(struct parser *p, struct drv_input *in)
{
	const char *last[DRV_DEPTH_MAX + 1] = {};
	size_t depth = 1;
	int r = 0;

	while (!r && depth) {
		struct drv_node node = { .depth = depth };
		bool more, deeper;

		r = scan_list(&p->s, !last[depth], &more);
		if (!r && !more) { /* the node ends, and so does the entry that holds it */
			r = scan_token(&p->s, --depth ? "))" : ")");
			continue;
		}
		if (!r)
			r = scan_token(&p->s, "(");
		if (!r)
			r = scan_string(&p->s, &node.name);
		if (!r)
			r = check_output_name(p, node.name);
		if (!r)
			r = check_order(p, last[depth], node.name, "output");
		if (!r)
			r = scan_token(&p->s, ",");
		if (!r)
			r = parse_node(p, &node.outputs, &deeper);
		if (!r)
			r = add_node(p, in, &node);
		if (r)
			break;
		last[depth] = node.name;
		if (!deeper) {
			r = scan_token(&p->s, ")");
			continue;
		}
		if (++depth > DRV_DEPTH_MAX)
			return scan_fail(&p->s, "derivation outputs are nested too deeply");
		last[depth] = NULL;
	}
	return r;
}

static int parse_input(struct parser *p)
{
	struct drv *d = p->d;
	struct drv_input in = {}, *v;
	struct store_path path;
	bool deeper;
	int r;

	r = scan_token(&p->s, "(");
	if (!r)
		r = scan_string(&p->s, &in.path);
	if (!r)
		r = check_path(p, in.path, &path);
	if (r)
		return r;
	if (!store_path_is_drv(&path))
		return scan_fail(&p->s, "store path '%s' is not a valid derivation path",
				 path.base);
	r = check_order(p, d->inputs.n ? d->inputs.v[d->inputs.n - 1].path : NULL, in.path,
			"input derivation");
	if (!r)
		r = scan_token(&p->s, ",");
	if (!r)
		r = parse_node(p, &in.outputs, &deeper);
	if (!r && deeper)
		r = parse_nodes(p, &in);
	if (r)
		return r;
	v = grow(p->s.arena, d->inputs.v, d->inputs.n, sizeof(*v));
	if (!v)
		return no_memory(p);
	d->inputs.v = v;
	v[d->inputs.n++] = in;
	return scan_token(&p->s, ")");
}

static int parse_env(struct parser *p)
{
	struct drv *d = p->d;
	struct drv_env env = {}, *v;
	int r;

	r = scan_token(&p->s, "(");
	if (!r)
		r = scan_string(&p->s, &env.name);
	if (!r)
		r = check_order(p, d->env.n ? d->env.v[d->env.n - 1].name : NULL, env.name,
				"environment variable");
	if (!r)
		r = scan_next_string(&p->s, &env.value);
	if (r)
		return r;
	v = grow(p->s.arena, d->env.v, d->env.n, sizeof(*v));
	if (!v)
		return no_memory(p);
	d->env.v = v;
	v[d->env.n++] = env;
	return scan_token(&p->s, ")");
}

static int parse_list(struct parser *p, int (*element)(struct parser *p))
{
	bool more;
	int r;

	r = scan_token(&p->s, "[");
	if (!r)
		r = scan_list(&p->s, true, &more);
	while (!r && more) {
		r = element(p);
		if (!r)
			r = scan_list(&p->s, false, &more);
	}
	return r;
}

static int parse_srcs(struct parser *p)
{
	struct strv *srcs = &p->d->srcs;
	struct store_path ignored;
	int r;

	r = scan_strings(&p->s, srcs);
	for (size_t i = 0; !r && i < srcs->n; i++) {
		r = check_path(p, srcs->v[i], &ignored);
		if (!r)
			r = check_order(p, i ? srcs->v[i - 1] : NULL, srcs->v[i], "input source");
	}
	return r;
}

/* The platform is printed without escapes, as upstream does, so it cannot hold what needs one. */
static int parse_platform(struct parser *p)
{
	int r = scan_next_string(&p->s, &p->d->platform);

	if (!r && strpbrk(p->d->platform, "\"\\"))
		r = scan_fail(&p->s, "system type '%s' contains a quote or a backslash",
			      p->d->platform);
	return r;
}

static int parse_head(struct parser *p)
{
	char *version;
	int r;

	if (p->s.end - p->s.at >= 15 && !memcmp(p->s.at, "DrvWithVersion(", 15)) {
		p->s.at += 15;
		r = scan_string(&p->s, &version);
		if (r)
			return r;
		if (strcmp(version, "xp-dyn-drv"))
			return scan_fail(&p->s, "Unknown derivation ATerm format version '%s'",
					 version);
		p->dynamic = true;
		return scan_token(&p->s, ",");
	}
	if (p->s.end - p->s.at < 7 || memcmp(p->s.at, "Derive(", 7))
		return scan_fail(&p->s, "derivation does not start with 'Derive' or "
					"'DrvWithVersion'");
	p->s.at += 7;
	return 0;
}

static int parse_body(struct parser *p)
{
	int r;

	r = parse_list(p, parse_output);
	if (!r && !p->d->outputs.n)
		r = scan_fail(&p->s, "must have at least one output");
	if (!r)
		r = scan_token(&p->s, ",");
	if (!r)
		r = parse_list(p, parse_input);
	if (!r)
		r = scan_token(&p->s, ",");
	if (!r)
		r = parse_srcs(p);
	if (!r)
		r = parse_platform(p);
	if (!r)
		r = scan_next_string(&p->s, &p->d->builder);
	if (!r)
		r = scan_token(&p->s, ",");
	if (!r)
		r = scan_strings(&p->s, &p->d->args);
	if (!r)
		r = scan_token(&p->s, ",");
	if (!r)
		r = parse_list(p, parse_env);
	if (!r)
		r = scan_token(&p->s, ")");
	if (!r && p->s.at != p->s.end)
		r = scan_fail(&p->s, "data behind the end of the derivation");
	return r;
}

int drv_parse(const char *store_dir, const struct store_path *path, const char *text, size_t len,
	      struct arena *a, struct drv *ret, struct err *e)
{
	struct drv d = {};
	struct parser p = {
		.s = { .at = text,
		       .end = text + len,
		       .begin = text,
		       .label_dir = path ? store_dir : NULL,
		       .label = path ? path->base : "",
		       .arena = a,
		       .err = e },
		.store_dir = store_dir,
		.d = &d,
	};
	int r;

	if (len > DRV_MAX)
		return err_set(e, DRV_BAD,
			       "derivation '%s' is too large: %zu bytes, at most %d are allowed",
			       p.s.label, len, DRV_MAX);
	if (path && !store_path_is_drv(path))
		return err_set(e, DRV_BAD, "store path '%s' is not a valid derivation path",
			       path->base);
	d.name = path ? arena_strndup(a, store_path_name(path), strlen(store_path_name(path)) - 4)
		      : arena_strdup(a, "");
	if (!d.name)
		return no_memory(&p);
	r = parse_head(&p);
	if (!r)
		r = parse_body(&p);
	if (!r)
		*ret = d;
	return r;
}
