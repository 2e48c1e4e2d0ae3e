/* Resolving: a derivation whose inputs are known becomes one without input derivations. Two that
 * resolve to the same text are the same build: that is how a rebuild of an input which gives the
 * same bytes goes no further. Equal to upstream's tryResolve and rewriteDerivation (2.34). Pure. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "drv/drv.h"

enum { TEXT_MAX = 512 << 20 };

struct resolver {
	const char *store_dir;
	const struct drv *d;
	drv_resolve_find find;
	void *ctx;
	struct arena *a;
	struct err *e;
	struct strv from, to, srcs;
};

static int no_memory(const struct resolver *r)
{
	return err_errno(r->e, -ENOMEM, "resolving derivation '%s'", r->d->name);
}

/* "/" and the hash in base 32. */
static char *render(struct arena *a, const uint8_t hash[32])
{
	char text[64];

	base32_encode(hash, 32, text);
	return arena_printf(a, "/%s", text);
}

/* What stands for an output of the input itself. */
static int placeholder_of_input(const struct resolver *r, const struct drv_input *in,
				const char *output, uint8_t ret[32])
{
	char text[STORE_DIGEST_LEN + STORE_NAME_MAX + 512];
	struct store_path p;
	int n = store_path_parse(r->store_dir, in->path, &p, r->e), name_len;

	if (n)
		return n;
	name_len = (int)strlen(store_path_name(&p)) - 4; /* ".drv" */
	n = snprintf(text, sizeof(text), "nix-upstream-output:%.*s:%.*s%s%s", STORE_DIGEST_LEN,
		     p.base, name_len, store_path_name(&p), strcmp(output, "out") ? "-" : "",
		     strcmp(output, "out") ? output : "");
	if (n < 0 || (size_t)n >= sizeof(text))
		return err_set(r->e, DRV_BAD, "output name '%s' is too long", output);
	sha256(text, (size_t)n, ret);
	return 0;
}

/* What stands for an output of a derivation that another placeholder stands for. */
static int placeholder_of_unknown(const struct resolver *r, const uint8_t up[32],
				  const char *output, uint8_t ret[32])
{
	char text[STORE_NAME_MAX + 512], digits[64];
	uint8_t folded[20];
	int n;

	hash_compress(up, 32, folded, sizeof(folded));
	base32_encode(folded, sizeof(folded), digits);
	n = snprintf(text, sizeof(text), "nix-computed-output:%s:%s", digits, output);
	if (n < 0 || (size_t)n >= sizeof(text))
		return err_set(r->e, DRV_BAD, "output name '%s' is too long", output);
	sha256(text, (size_t)n, ret);
	return 0;
}

static int placeholder(const struct resolver *r, const struct drv_input *in,
		       const char *const *chain, size_t depth, const char *output, uint8_t ret[32])
{
	uint8_t hash[32];
	int x = placeholder_of_input(r, in, depth ? chain[0] : output, hash);

	for (size_t i = 1; x == 0 && i <= depth; i++)
		x = placeholder_of_unknown(r, hash, i < depth ? chain[i] : output, hash);
	memcpy(ret, hash, sizeof(hash));
	return x;
}

static int take_output(struct resolver *r, const struct drv_input *in, const char *const *chain,
		       size_t depth, const char *output)
{
	uint8_t hash[32];
	char *path = NULL;
	int x = r->find(r->ctx, in, chain, depth, output, &path, r->e);

	if (x == 0)
		x = placeholder(r, in, chain, depth, output, hash);
	if (x)
		return x;
	if (strv_add_arena(&r->from, r->a, render(r->a, hash)) < 0 ||
	    strv_add_arena(&r->to, r->a, path) < 0 || strv_add_arena(&r->srcs, r->a, path) < 0)
		return no_memory(r);
	return 0;
}

static int take_input(struct resolver *r, const struct drv_input *in)
{
	const char *chain[DRV_DEPTH_MAX];
	int x = 0;

	for (size_t i = 0; x == 0 && i < in->outputs.n; i++)
		x = take_output(r, in, NULL, 0, in->outputs.v[i]);
	for (size_t i = 0; x == 0 && i < in->n_nodes; i++) {
		const struct drv_node *n = &in->nodes[i];

		chain[n->depth - 1] = n->name;
		for (size_t k = 0; x == 0 && k < n->outputs.n; k++)
			x = take_output(r, in, chain, n->depth, n->outputs.v[k]);
	}
	return x;
}

/* `s` with placeholders replaced; `s` itself when there is none. NULL: memory. */
static char *rewrite(const struct resolver *r, const char *s)
{
	for (size_t i = 0; i < r->from.n && *s; i++) {
		_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX);
		size_t len = strlen(r->from.v[i]);
		const char *hit = strstr(s, r->from.v[i]), *at = s;

		if (!hit)
			continue;
		for (; hit; at = hit + len, hit = strstr(at, r->from.v[i]))
			if (buf_append(&b, at, (size_t)(hit - at)) < 0 ||
			    buf_append_str(&b, r->to.v[i]) < 0)
				return NULL;
		if (buf_append_str(&b, at) < 0)
			return NULL;
		s = arena_strndup(r->a, b.data, b.len);
		if (!s)
			return NULL;
	}
	return (char *)s;
}

static int rewrite_all(struct resolver *r, struct drv *ret)
{
	const struct drv *d = r->d;

	ret->builder = rewrite(r, d->builder);
	ret->args = (struct strv){};
	for (size_t i = 0; i < d->args.n; i++)
		if (strv_add_arena(&ret->args, r->a, rewrite(r, d->args.v[i])) < 0)
			return no_memory(r);
	/* One more than there are, for each output that has no variable yet. */
	ret->env.v = arena_array(r->a, d->env.n + d->outputs.n + 1, sizeof(*ret->env.v));
	if (!ret->env.v || !ret->builder)
		return no_memory(r);
	for (size_t i = 0; i < d->env.n; i++) {
		ret->env.v[i].name = d->env.v[i].name;
		ret->env.v[i].value = rewrite(r, d->env.v[i].value);
		if (!ret->env.v[i].value)
			return no_memory(r);
	}
	return 0;
}

/* Sets a variable, where its name belongs. There is room for it. */
static void put_env(struct drv *d, char *name, char *value)
{
	size_t at = 0;

	while (at < d->env.n && strcmp(d->env.v[at].name, name) < 0)
		at++;
	if (at == d->env.n || strcmp(d->env.v[at].name, name)) {
		memmove(&d->env.v[at + 1], &d->env.v[at], (d->env.n - at) * sizeof(*d->env.v));
		d->env.n++;
		d->env.v[at].name = name;
	}
	d->env.v[at].value = value;
}

/* Outputs that only waited to know their inputs follow from them now. */
static int fill_outputs(struct resolver *r, struct drv *ret)
{
	struct drv_hash hash;
	int x;

	if (ret->kind != DRV_DEFERRED)
		return 0;
	for (size_t i = 0; i < ret->outputs.n; i++)
		put_env(ret, ret->outputs.v[i].name, (char *)"");
	x = drv_hash_modulo(ret, true, NULL, NULL, &hash, r->e);
	if (x)
		return x;
	for (size_t i = 0; i < ret->outputs.n; i++) {
		struct store_path p;

		x = store_path_for_output(r->store_dir, ret->name, ret->outputs.v[i].name,
					  hash.bytes, &p, r->e);
		if (x)
			return x < 0 ? x : DRV_BAD;
		ret->outputs.v[i].path = store_path_full(r->a, r->store_dir, &p);
		if (!ret->outputs.v[i].path)
			return no_memory(r);
	}
	for (size_t i = 0; i < ret->outputs.n; i++)
		put_env(ret, ret->outputs.v[i].name, ret->outputs.v[i].path);
	ret->kind = DRV_INPUT_ADDRESSED;
	return 0;
}

int drv_resolve(const char *store_dir, const struct drv *d, drv_resolve_find find, void *ctx,
		struct arena *a, struct drv *ret, struct err *e)
{
	struct resolver r = {
		.store_dir = store_dir, .d = d, .find = find, .ctx = ctx, .a = a, .e = e
	};
	struct drv out = *d;
	int x = 0;

	out.inputs.v = NULL;
	out.inputs.n = 0;
	for (size_t i = 0; x == 0 && i < d->srcs.n; i++)
		if (strv_add_arena(&r.srcs, a, d->srcs.v[i]) < 0)
			x = no_memory(&r);
	for (size_t i = 0; x == 0 && i < d->inputs.n; i++)
		x = take_input(&r, &d->inputs.v[i]);
	if (x)
		return x;
	strv_sort_uniq(&r.srcs, false);
	out.srcs = r.srcs;
	out.outputs.v = arena_dup(a, d->outputs.v, d->outputs.n * sizeof(*d->outputs.v));
	if (!out.outputs.v)
		return no_memory(&r);
	x = rewrite_all(&r, &out);
	if (x == 0)
		x = fill_outputs(&r, &out);
	if (x == 0)
		*ret = out;
	return x;
}

bool drv_should_resolve(const struct drv *d, bool ca)
{
	if (!d->inputs.n)
		return false;
	switch (d->kind) {
	case DRV_INPUT_ADDRESSED:
		return drv_has_dynamic_input(d);
	case DRV_FIXED:
		return ca || drv_has_dynamic_input(d);
	default:
		return true;
	}
}
