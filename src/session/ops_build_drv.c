/* BuildDerivation: a machine that distributes builds sends the derivation itself, whose inputs it
 * has copied here before (features.md 1.6, op 36).
 *
 *   request = path outputs paths platform builder args env mode
 *   outputs = u64 count, count * (name path algo hash)    env = u64 count, count * (name value)
 *
 * Here it becomes the text that a .drv would have; the core reads and judges it. */
#include <string.h>

#include "session/build.h"
#include "session/ops.h"

static int compare_outputs(const void *a, const void *b)
{
	return strcmp(((const struct drv_output *)a)->name, ((const struct drv_output *)b)->name);
}

static int compare_env(const void *a, const void *b)
{
	return strcmp(((const struct drv_env *)a)->name, ((const struct drv_env *)b)->name);
}

static int get_outputs(struct session *s, struct drv *d, struct err *e)
{
	uint64_t n;

	int r = wire_number(&s->in, WIRE_OUTPUTS_MAX, &n);
	if (r)
		return r;
	d->outputs.v = arena_array(&s->arena, n + 1, sizeof(*d->outputs.v));
	if (!d->outputs.v)
		return too_large(e);
	for (; !r && d->outputs.n < n; d->outputs.n++) {
		struct drv_output *o = &d->outputs.v[d->outputs.n];
		char **fields[] = { &o->name, &o->path, &o->algo, &o->hash };
		for (size_t i = 0; !r && i < ELEMENTS(fields); i++)
			r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, fields[i]);
	}
	qsort(d->outputs.v, r ? 0 : d->outputs.n, sizeof(*d->outputs.v), compare_outputs);
	return r;
}

static int get_env(struct session *s, struct drv *d, struct err *e)
{
	uint64_t n;

	int r = wire_number(&s->in, WIRE_ENV_MAX, &n);
	if (r)
		return r;
	d->env.v = arena_array(&s->arena, n + 1, sizeof(*d->env.v));
	if (!d->env.v)
		return too_large(e);
	for (; !r && d->env.n < n; d->env.n++) {
		r = wire_str(&s->in, &s->arena, WIRE_STR_MAX, &d->env.v[d->env.n].name);
		if (!r)
			r = wire_str(&s->in, &s->arena, WIRE_STR_MAX, &d->env.v[d->env.n].value);
	}
	qsort(d->env.v, r ? 0 : d->env.n, sizeof(*d->env.v), compare_env);
	return r;
}

static int get_srcs(struct session *s, struct drv *d, struct err *e)
{
	struct strv bases = {};

	int r = wire_paths(&s->in, s->client.store_dir, &s->arena, &bases);
	for (size_t i = 0; !r && i < bases.n; i++)
		if (strv_add_arena(&d->srcs, &s->arena, store_print(s, bases.v[i])) < 0)
			return too_large(e);
	return r;
}

static int get_drv(struct session *s, struct drv *d, struct err *e)
{
	int r = get_outputs(s, d, e);

	if (!r)
		r = get_srcs(s, d, e);
	if (!r)
		r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &d->platform);
	if (!r)
		r = wire_str(&s->in, &s->arena, WIRE_STR_MAX, &d->builder);
	if (!r)
		r = wire_strv(&s->in, &s->arena, WIRE_LIST_MAX, WIRE_STR_MAX, &d->args);
	return r ?: get_env(s, d, e);
}

/* As the text of a .drv, and parsed again. */
static int print(struct session *s, const struct store_path *p, struct drv *d, char **ret,
		 struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(DRV_MAX);

	if (drv_print(d, &b) < 0)
		return err_set(e, OP_FAILED, "derivation '%s/%s' is too large", s->client.store_dir,
			       p->base);
	*ret = arena_strndup(&s->arena, (char *)b.data, b.len);
	if (!*ret)
		return too_large(e);
	int r = drv_parse(s->client.store_dir, p, *ret, b.len, &s->arena, d, e);
	if (r <= 0)
		return r;
	(void)err_prefix(e, "error parsing derivation '%s/%s': ", s->client.store_dir, p->base);
	return e->code = OP_FAILED;
}

static int get_request(struct session *s, struct build *b, struct drv *d, struct err *e)
{
	struct derived_path *t = arena_array(&s->arena, 1, sizeof(*t));

	if (!t)
		return too_large(e);
	*t = (struct derived_path){ .built = true, .all = true };
	int r = wire_path(&s->in, s->client.store_dir, &s->arena, &t->path);
	if (!r)
		r = get_drv(s, d, e);
	if (!r)
		r = wire_u64(&s->in, &b->mode);
	if (r)
		return r;
	if (b->mode > BUILD_CHECK)
		return err_set(e, WIRE_BAD, "Invalid build mode");
	request_read(s);
	if (!store_path_is_drv(&t->path))
		return err_set(e, OP_FAILED, "store path '%s' is not a valid derivation path",
			       t->path.base);
	b->targets = (struct derived_paths){ t, 1 };
	return print(s, &t->path, d, &b->drv, e);
}

int op_build_derivation(struct session *s, struct err *e)
{
	struct build b = { .with_results = true };
	const uint8_t *id = NULL;
	uint8_t hash[32];
	struct drv d = {};

	int r = get_request(s, &b, &d, e);
	if (!r)
		r = build_run(s, &b, e);
	if (r)
		return r;
	if (b.built.results.n != 1)
		return err_set(e, OP_FAILED, "%s",
			       *b.built.error ? b.built.error : "the build request failed");
	/* Clients up to 2.34 look their realisations up by it. */
	if (d.kind == DRV_FLOATING) {
		r = store_drv_hash(s, &d, hash, e);
		if (r)
			return r;
		id = hash;
	}
	answer_begin(s);
	return build_put_result(s, &b.built.results.v[0], id, e);
}
