/* Derived paths: see derived.h. */
#include "wire/derived.h"

#include <string.h>

#include "wire/limits.h"
#include "wire/proto.h"

static int no_memory(struct err *e)
{
	return err_set(e, WIRE_BAD, "the request is too large");
}

static int parse_outputs(struct arena *a, char *list, bool legacy, struct derived_path *d,
			 struct err *e)
{
	char *save = list;

	if (strcmp(list, "*") == 0 && !legacy) {
		d->all = true;
		return 0;
	}
	for (char *name; (name = strsep(&save, ","));) {
		if (legacy && !*name)
			continue;
		if (store_name_check(name, e))
			return WIRE_BAD;
		if (strv_add_arena(&d->outputs, a, name) < 0)
			return no_memory(e);
	}
	if (d->outputs.n == 0)
		d->all = true;
	strv_sort_uniq(&d->outputs, false);
	return 0;
}

/* The names in front of the last mark; `*outputs` then is what stands behind it. */
static int parse_chain(struct arena *a, char **outputs, struct derived_path *d, struct err *e)
{
	for (char *mark; (mark = strchr(*outputs, '!')); *outputs = mark + 1) {
		*mark = 0;
		if (store_name_check(*outputs, e))
			return WIRE_BAD;
		if (d->chain.n == DERIVED_DEPTH_MAX)
			return err_set(e, WIRE_BAD, "'%.100s' is nested too deeply", d->text);
		if (strv_add_arena(&d->chain, a, *outputs) < 0)
			return no_memory(e);
	}
	return 0;
}

int derived_path_parse(const char *store_dir, unsigned version, struct arena *a, char *text,
		       struct derived_path *ret, struct err *e)
{
	bool legacy = !wire_gate(version, GATE_DERIVED_PATH);
	struct derived_path d = { .text = text };

	char *copy = arena_strdup(a, text);
	if (!copy)
		return no_memory(e);
	char *outputs = strchr(copy, '!');
	if (outputs) {
		*outputs++ = 0;
		int r = parse_chain(a, &outputs, &d, e);
		if (r)
			return r;
	}
	if (store_path_parse(store_dir, copy, &d.path, e))
		return WIRE_BAD;
	d.built = outputs || (legacy && store_path_is_drv(&d.path));
	d.all = d.built && !outputs;
	if (outputs) {
		int r = parse_outputs(a, outputs, legacy, &d, e);
		if (r)
			return r;
	}
	*ret = d;
	return 0;
}

char *derived_path_base(struct arena *a, const struct derived_path *d)
{
	if (!d->built)
		return arena_strdup(a, d->path.base);
	size_t len = strlen(d->path.base) + 3;
	for (size_t i = 0; i < d->chain.n; i++)
		len += strlen(d->chain.v[i]) + 1;
	for (size_t i = 0; i < d->outputs.n; i++)
		len += strlen(d->outputs.v[i]) + 1;
	char *s = arena_alloc(a, len + 1), *p = s;
	if (!s)
		return NULL;
	p = stpcpy(p, d->path.base);
	for (size_t i = 0; i < d->chain.n; i++) {
		*p++ = '!';
		p = stpcpy(p, d->chain.v[i]);
	}
	if (d->all)
		stpcpy(p, "!*");
	for (size_t i = 0; i < d->outputs.n; i++) {
		*p++ = i ? ',' : '!';
		p = stpcpy(p, d->outputs.v[i]);
	}
	return s;
}

int wire_derived_paths(struct wire_in *in, const char *store_dir, unsigned version, struct arena *a,
		       struct derived_paths *ret)
{
	struct strv texts = {};

	int r = wire_strv(in, a, WIRE_LIST_MAX, WIRE_TARGET_MAX, &texts);
	if (r)
		return r;
	struct derived_path *v = arena_array(a, texts.n ? texts.n : 1, sizeof(*v));
	if (!v)
		return no_memory(in->e);
	for (size_t i = 0; i < texts.n; i++) {
		r = derived_path_parse(store_dir, version, a, texts.v[i], &v[i], in->e);
		if (r)
			return r;
	}
	ret->v = v;
	ret->n = texts.n;
	return 0;
}
