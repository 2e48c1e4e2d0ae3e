/* See drv_opts.h. */
#include "core/drv_opts.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

static const char blanks[] = " \t\n\r";

int tokenize(struct arena *a, const char *text, bool sorted, struct strv *ret)
{
	struct strv out = {};

	for (const char *p = text + strspn(text, blanks); *p;) {
		size_t len = strcspn(p, blanks);
		int r = strv_add_arena(&out, a, arena_strndup(a, p, len));

		if (r < 0)
			return r;
		p += len;
		p += strspn(p, blanks);
	}
	if (sorted)
		strv_sort_uniq(&out, false);
	*ret = out;
	return 0;
}

static int set_from_env(const struct drv *d, const char *name, struct arena *a, struct strv *ret)
{
	const char *v = drv_env_get(d, name);

	return v ? tokenize(a, v, true, ret) : 0;
}

static int refs_from_env(const struct drv *d, const char *name, struct arena *a,
			 struct ref_set *ret)
{
	ret->present = drv_env_get(d, name) != NULL;
	return set_from_env(d, name, a, &ret->refs);
}

static bool flag_from_env(const struct drv *d, const char *name, bool def)
{
	const char *v = drv_env_get(d, name);

	return v ? !strcmp(v, "1") : def;
}

static bool graph_name_ok(const char *s)
{
	static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";

	return *s && strchr(first, *s) &&
	       s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")] ==
		       0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct drv_graph *)a)->name, ((const struct drv_graph *)b)->name);
}

/* "name path name path ..." */
static int graphs_from_env(const struct drv *d, struct arena *a, struct drv_opts *ret,
			   struct err *e)
{
	const char *text = drv_env_get(d, "exportReferencesGraph");
	_cleanup_smap_ struct smap seen = {}; /* name -> its place, from 1 */
	struct strv words = {};
	int r;

	if (!text)
		return 0;
	r = tokenize(a, text, false, &words);
	if (r < 0)
		return err_errno(e, r, "reading 'exportReferencesGraph'");
	if (words.n % 2)
		return err_set(e, OPTS_BAD, "odd number of tokens in 'exportReferencesGraph': '%s'",
			       text);
	ret->graphs.v = arena_array(a, words.n / 2, sizeof(*ret->graphs.v));
	if (words.n && !ret->graphs.v)
		return err_errno(e, -ENOMEM, "reading 'exportReferencesGraph'");
	for (size_t i = 0; i < words.n; i += 2) {
		struct drv_graph *g;
		uintptr_t at;

		if (!graph_name_ok(words.v[i]))
			return err_set(e, OPTS_BAD,
				       "invalid file name '%s' in 'exportReferencesGraph'",
				       words.v[i]);
		at = (uintptr_t)smap_get(&seen, words.v[i]);
		if (!at) {
			at = ++ret->graphs.n;
			if (smap_put(&seen, words.v[i], (void *)at) < 0)
				return err_errno(e, -ENOMEM, "reading 'exportReferencesGraph'");
		}
		g = &ret->graphs.v[at - 1]; /* the last one of a name counts */
		*g = (struct drv_graph){ .name = words.v[i] };
		if (strv_add_arena(&g->paths, a, words.v[i + 1]) < 0)
			return err_errno(e, -ENOMEM, "reading 'exportReferencesGraph'");
	}
	if (ret->graphs.n > 1)
		qsort(ret->graphs.v, ret->graphs.n, sizeof(*ret->graphs.v), by_name);
	return 0;
}

static int checks_from_env(const struct drv *d, struct arena *a, struct drv_opts *ret)
{
	struct output_checks *c = arena_alloc(a, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->ignore_self_refs = true;
	r = refs_from_env(d, "allowedReferences", a, &c->allowed_references);
	if (r == 0)
		r = refs_from_env(d, "disallowedReferences", a, &c->disallowed_references);
	if (r == 0)
		r = refs_from_env(d, "allowedRequisites", a, &c->allowed_requisites);
	if (r == 0)
		r = refs_from_env(d, "disallowedRequisites", a, &c->disallowed_requisites);
	ret->checks.v = c;
	ret->checks.n = 1;
	return r;
}

int drv_opts_parse(const struct drv *d, struct arena *a, struct drv_opts *ret, struct err *e)
{
	const char *json = drv_env_get(d, "__json");
	struct drv_opts o = { .allow_substitutes = true };
	int r;

	if (json) {
		r = attrs_parse(json, a, &o, e);
		if (r)
			drv_opts_done(&o);
		else
			*ret = o;
		return r;
	}
	o.no_chroot = flag_from_env(d, "__noChroot", false);
	o.prefer_local_build = flag_from_env(d, "preferLocalBuild", false);
	o.allow_substitutes = flag_from_env(d, "allowSubstitutes", true);
	r = set_from_env(d, "impureEnvVars", a, &o.impure_env_vars);
	if (r == 0)
		r = set_from_env(d, "requiredSystemFeatures", a, &o.required_features);
	if (r == 0)
		r = set_from_env(d, "passAsFile", a, &o.pass_as_file);
	if (r == 0)
		r = checks_from_env(d, a, &o);
	if (r < 0)
		return err_errno(e, r, "reading the attributes of '%s'", d->name);
	r = graphs_from_env(d, a, &o, e);
	if (r)
		return r;
	*ret = o;
	return 0;
}

void drv_opts_done(struct drv_opts *o)
{
	json_decref(o->attrs); /* NULL is fine */
	o->attrs = NULL;
}
