/* Questions about derivations: their outputs, and what is missing to have them. */
#include <errno.h>
#include <string.h>

#include "drv/drv.h"
#include "session/ops.h"
#include "wire/derived.h"

static int get_path(struct session *s, struct store_path *ret)
{
	int r = wire_path(&s->in, s->client.store_dir, &s->arena, ret);

	if (!r)
		request_read(s);
	return r;
}

static int get_outputs(struct session *s, struct strv *ret_names, struct strv *ret_paths,
		       struct err *e)
{
	struct store_path p;

	int r = get_path(s, &p);
	return r ?: store_outputs(s, &p, ret_names, ret_paths, e);
}

int op_query_derivation_output_map(struct session *s, struct err *e)
{
	struct strv names = {}, paths = {};

	int r = get_outputs(s, &names, &paths, e);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, names.n);
	for (size_t i = 0; i < names.n; i++) {
		wire_put_str(&s->out, names.v[i]);
		wire_put_path(&s->out, *paths.v[i] ? paths.v[i] : NULL);
	}
	return 0;
}

int op_query_derivation_outputs(struct session *s, struct err *e)
{
	struct strv names = {}, paths = {};

	int r = get_outputs(s, &names, &paths, e);
	if (r)
		return r;
	strv_sort_uniq(&paths, false);
	while (paths.n && !*paths.v[0]) { /* nobody knows them (yet) */
		paths.v++;
		paths.n--;
	}
	answer_begin(s);
	wire_put_paths(&s->out, &paths);
	return 0;
}

int op_query_derivation_output_names(struct session *s, struct err *e)
{
	struct store_path p;
	struct drv d;

	int r = get_path(s, &p);
	if (!r)
		r = store_drv(s, &p, &s->arena, &d, e);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, d.outputs.n);
	for (size_t i = 0; i < d.outputs.n; i++)
		wire_put_str(&s->out, d.outputs.v[i].name);
	return 0;
}

/* QueryMissing: a walk over the derivations that would have to be built. */
struct want {
	struct store_path drv;
	bool all;
	struct strv outputs;
};
struct missing {
	struct smap seen; /* "base!outputs" and base names that were looked at */
	struct strv will_build, unknown;
	struct want *stack;
	size_t n_stack, cap_stack;
};

static int push(struct missing *m, const struct want *w)
{
	if (m->n_stack == m->cap_stack) {
		size_t cap = m->cap_stack ? 2 * m->cap_stack : 64;
		struct want *v = reallocarray(m->stack, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		m->stack = v;
		m->cap_stack = cap;
	}
	m->stack[m->n_stack++] = *w;
	return 0;
}

static int note(struct session *s, struct strv *list, const struct store_path *p, struct err *e)
{
	char *base = arena_strdup(&s->arena, p->base);

	return base && strv_add_arena(list, &s->arena, base) == 0 ? 0 : too_large(e);
}

/* 0 when it was not seen before. */
static int first_time(struct session *s, struct missing *m, const struct want *w, struct err *e)
{
	struct derived_path d = {
		.path = w->drv, .built = true, .all = w->all, .outputs = w->outputs
	};
	char *key = derived_path_base(&s->arena, &d);

	if (!key)
		return too_large(e);
	if (smap_has(&m->seen, key))
		return DB_ABSENT;
	return smap_put(&m->seen, key, m);
}

/* Are all wanted outputs valid? 0 yes; DB_ABSENT no, or not known beforehand. */
static int outputs_valid(struct session *s, const struct want *w, struct err *e)
{
	struct strv names = {}, paths = {};

	int r = store_outputs(s, &w->drv, &names, &paths, e);
	if (r)
		return r;
	if (names.n == 0)
		return DB_ABSENT;
	for (size_t i = 0; i < names.n; i++) {
		struct store_path p;
		if (!*paths.v[i])
			return DB_ABSENT;
		if (!w->all && !strv_has(&w->outputs, names.v[i]))
			continue;
		r = store_path_parse_base(paths.v[i], &p, e) ?: store_valid(s, &p, e);
		if (r)
			return r;
	}
	return 0;
}

static int push_inputs(struct session *s, struct missing *m, const struct want *w, struct err *e)
{
	struct drv d;

	int r = store_drv(s, &w->drv, &s->arena, &d, e);
	for (size_t i = 0; !r && i < d.inputs.n; i++) {
		struct want in = { .outputs = d.inputs.v[i].outputs };
		r = store_path_parse(s->client.store_dir, d.inputs.v[i].path, &in.drv, e);
		if (!r)
			r = push(m, &in);
	}
	return r;
}

/* One derivation: nothing to do, unknown, or to be built with its inputs looked at next. */
static int visit(struct session *s, struct missing *m, const struct want *w, struct err *e)
{
	int r = first_time(s, m, w, e);
	if (r)
		return r == DB_ABSENT ? 0 : r;
	r = store_valid(s, &w->drv, e);
	if (r == DB_ABSENT)
		return note(s, &m->unknown, &w->drv, e);
	if (!r)
		r = outputs_valid(s, w, e);
	if (r != DB_ABSENT)
		return r;
	r = note(s, &m->will_build, &w->drv, e);
	return r ?: push_inputs(s, m, w, e);
}

static int visit_target(struct session *s, struct missing *m, const struct derived_path *t,
			struct err *e)
{
	struct want w = { .drv = t->path, .all = t->all, .outputs = t->outputs };

	if (t->chain.n) /* what comes out of it is not known before it is built */
		w = (struct want){ .drv = t->path, .outputs = { t->chain.v, 1 } };
	if (t->built)
		return push(m, &w);
	int r = store_valid(s, &t->path, e);
	return r == DB_ABSENT ? note(s, &m->unknown, &t->path, e) : r;
}

static int find_missing(struct session *s, const struct derived_paths *targets, struct missing *m,
			struct err *e)
{
	int r = 0;

	for (size_t i = 0; !r && i < targets->n; i++) {
		r = visit_target(s, m, &targets->v[i], e);
		while (!r && m->n_stack > 0) {
			struct want w = m->stack[--m->n_stack];
			r = visit(s, m, &w, e);
		}
	}
	return r == PATH_BAD || r == WIRE_BAD ? (e->code = OP_FAILED) : r;
}

static void put_missing(struct session *s, struct missing *m)
{
	strv_sort_uniq(&m->will_build, false);
	strv_sort_uniq(&m->unknown, false);
	answer_begin(s);
	wire_put_paths(&s->out, &m->will_build);
	wire_put_u64(&s->out, 0); /* nothing can be substituted */
	wire_put_paths(&s->out, &m->unknown);
	wire_put_u64(&s->out, 0); /* bytes to download, and unpacked */
	wire_put_u64(&s->out, 0);
}

int op_query_missing(struct session *s, struct err *e)
{
	struct derived_paths targets;
	struct missing m = {};

	int r = wire_derived_paths(&s->in, s->client.store_dir, s->version, &s->arena, &targets);
	if (r)
		return r;
	request_read(s);
	r = session_may_ask(s, &targets, e);
	r = r ?: find_missing(s, &targets, &m, e);
	if (!r)
		put_missing(s, &m);
	smap_done(&m.seen);
	free(m.stack);
	return r;
}
