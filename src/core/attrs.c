/* Structured attributes (feature rows C10, C11, C13): the daemon's part of what they say, and what
 * it adds for the builder. See drv_opts.h and build_env.h. Nothing here recurses; jansson's parser
 * has its own depth limit. Pure. Linked by the core. */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/buf.h"
#include "core/attrs_print.h"
#include "core/build_env.h"

enum { JSON_TEXT_MAX = 512 << 20 };

static const char *type_name(const json_t *v)
{
	static const char *const names[] = { "object", "array",	  "string",  "number",
					     "number", "boolean", "boolean", "null" };

	return names[json_typeof(v)];
}

static int bad_type(const json_t *v, const char *attr, const char *want, struct err *e)
{
	return err_set(
		e, OPTS_BAD,
		"while parsing attribute \"%s\": Expected JSON value to be of type '%s' but it "
		"is of type '%s'",
		attr, want, type_name(v));
}

static int get_bool(const json_t *top, const char *name, bool *ret, struct err *e)
{
	const json_t *v = json_object_get(top, name);

	if (!v)
		return 0;
	if (!json_is_boolean(v))
		return bad_type(v, name, "boolean", e);
	*ret = json_is_true(v);
	return 0;
}

static int get_strings(const json_t *top, const char *name, struct arena *a, struct strv *ret,
		       struct err *e)
{
	const json_t *v = json_object_get(top, name), *item;
	size_t i;

	if (!v)
		return 0;
	if (!json_is_array(v))
		return bad_type(v, name, "array", e);
	json_array_foreach(v, i, item)
	{
		if (!json_is_string(item))
			return bad_type(item, name, "string", e);
		if (strv_add_arena(ret, a, arena_strdup(a, json_string_value(item))) < 0)
			return err_errno(e, -ENOMEM, "reading the attribute '%s'", name);
	}
	strv_sort_uniq(ret, false);
	return 0;
}

static int get_refs(const json_t *o, const char *name, struct arena *a, struct ref_set *ret,
		    struct err *e)
{
	ret->present = json_object_get(o, name) != NULL;
	return get_strings(o, name, a, &ret->refs, e);
}

static int get_size(const json_t *o, const char *name, bool *ret_has, uint64_t *ret, struct err *e)
{
	const json_t *v = json_object_get(o, name);

	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return bad_type(v, name, "unsigned number", e);
	*ret_has = true;
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int get_checks(const json_t *top, struct arena *a, struct drv_opts *o, struct err *e)
{
	const json_t *all = json_object_get(top, "outputChecks");
	const char *output;
	json_t *rules;
	int r;

	if (!all)
		return 0;
	if (!json_is_object(all))
		return bad_type(all, "outputChecks", "object", e);
	o->checks.v = arena_array(a, json_object_size(all), sizeof(*o->checks.v));
	json_object_foreach((json_t *)all, output, rules)
	{
		struct output_checks *c = o->checks.v ? &o->checks.v[o->checks.n] : NULL;

		if (!c || !(c->output = arena_strdup(a, output)))
			return err_errno(e, -ENOMEM, "reading the attribute 'outputChecks'");
		if (!json_is_object(rules))
			return bad_type(rules, "outputChecks", "object", e);
		r = get_size(rules, "maxSize", &c->has_max_size, &c->max_size, e);
		if (!r)
			r = get_size(rules, "maxClosureSize", &c->has_max_closure_size,
				     &c->max_closure_size, e);
		if (!r)
			r = get_refs(rules, "allowedReferences", a, &c->allowed_references, e);
		if (!r)
			r = get_refs(rules, "allowedRequisites", a, &c->allowed_requisites, e);
		if (!r)
			r = get_refs(rules, "disallowedReferences", a, &c->disallowed_references,
				     e);
		if (!r)
			r = get_refs(rules, "disallowedRequisites", a, &c->disallowed_requisites,
				     e);
		if (r)
			return r;
		o->checks.n++;
	}
	return 0;
}

static int get_discard(const json_t *top, struct arena *a, struct drv_opts *o, struct err *e)
{
	const json_t *all = json_object_get(top, "unsafeDiscardReferences");
	const char *output;
	json_t *v;

	if (!all)
		return 0;
	if (!json_is_object(all))
		return bad_type(all, "unsafeDiscardReferences", "object", e);
	json_object_foreach((json_t *)all, output, v)
	{
		if (!json_is_boolean(v))
			return bad_type(v, "unsafeDiscardReferences", "boolean", e);
		if (json_is_true(v) &&
		    strv_add_arena(&o->unsafe_discard, a, arena_strdup(a, output)) < 0)
			return err_errno(e, -ENOMEM, "reading 'unsafeDiscardReferences'");
	}
	strv_sort_uniq(&o->unsafe_discard, false);
	return 0;
}

/* A string, or arrays of arrays of strings; walked with a list of what is left. */
static int flatten(const json_t *v, struct arena *a, struct strv *ret, struct err *e)
{
	const json_t **todo = NULL;
	size_t n = 0, cap = 0, i;
	json_t *item;
	int r = 0;

	while (v && r == 0) {
		if (json_is_string(v)) {
			r = strv_add_arena(ret, a, arena_strdup(a, json_string_value(v)));
		} else if (json_is_array(v)) {
			if (n + json_array_size(v) > cap) {
				const json_t **p;

				cap = (n + json_array_size(v)) * 2;
				p = reallocarray(todo, cap, sizeof(*p));
				if (!p) {
					r = -ENOMEM;
					break;
				}
				todo = p;
			}
			json_array_foreach(v, i, item) todo[n++] = item;
		} else {
			r = err_set(e, OPTS_BAD,
				    "'exportReferencesGraph' value is not an array or a string");
		}
		v = n ? todo[--n] : NULL;
	}
	free(todo);
	if (r < 0)
		return err_errno(e, r, "reading 'exportReferencesGraph'");
	strv_sort_uniq(ret, false);
	return r;
}

static int compare_graph(const void *a, const void *b)
{
	return strcmp(((const struct drv_graph *)a)->name, ((const struct drv_graph *)b)->name);
}

static int get_graphs(const json_t *top, struct arena *a, struct drv_opts *o, struct err *e)
{
	const json_t *all = json_object_get(top, "exportReferencesGraph");
	const char *name;
	json_t *v;

	o->graphs_ignored = all && !json_is_object(all);
	if (!all || o->graphs_ignored)
		return 0;
	o->graphs.v = arena_array(a, json_object_size(all), sizeof(*o->graphs.v));
	json_object_foreach((json_t *)all, name, v)
	{
		struct drv_graph *g = o->graphs.v ? &o->graphs.v[o->graphs.n] : NULL;
		int r;

		if (!g || !(g->name = arena_strdup(a, name)))
			return err_errno(e, -ENOMEM, "reading 'exportReferencesGraph'");
		r = flatten(v, a, &g->paths, e);
		if (r)
			return r;
		o->graphs.n++;
	}
	if (o->graphs.n > 1)
		qsort(o->graphs.v, o->graphs.n, sizeof(*o->graphs.v), compare_graph);
	return 0;
}

int attrs_parse(const char *json, struct arena *a, struct drv_opts *ret, struct err *e)
{
	json_error_t je;
	json_t *top = json_loads(json, 0, &je);
	int r;

	if (!top)
		return err_set(e, OPTS_BAD, "cannot process __json attribute: %s", je.text);
	ret->attrs = top;
	if (!json_is_object(top))
		return bad_type(top, "__json", "object", e);
	r = get_bool(top, "__noChroot", &ret->no_chroot, e);
	if (!r)
		r = get_bool(top, "preferLocalBuild", &ret->prefer_local_build, e);
	if (!r)
		r = get_bool(top, "allowSubstitutes", &ret->allow_substitutes, e);
	if (!r)
		r = get_strings(top, "impureEnvVars", a, &ret->impure_env_vars, e);
	if (!r)
		r = get_strings(top, "requiredSystemFeatures", a, &ret->required_features, e);
	if (!r)
		r = get_checks(top, a, ret, e);
	if (!r)
		r = get_discard(top, a, ret, e);
	if (!r)
		r = get_graphs(top, a, ret, e);
	return r;
}

/* ---- what the daemon adds ---- */

static json_t *full_path(const char *store_dir, const char *base)
{
	return json_sprintf("%s/%s", store_dir, base);
}

static json_t *graph_json(const char *store_dir, const struct build_graph *g)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < g->paths.n; i++) {
		const struct path_info *p = &g->paths.v[i];
		json_t *o = json_object(), *refs = json_array();
		char digest[64];
		int r = o && refs ? 0 : -1;

		base32_encode(p->nar_hash, sizeof(p->nar_hash), digest);
		for (size_t j = 0; j < p->refs.n && r == 0; j++)
			r = json_array_append_new(refs, full_path(store_dir, p->refs.v[j]));
		if (r == 0)
			r = json_object_set_new(o, "narHash", json_sprintf("sha256:%s", digest));
		if (r == 0)
			r = json_object_set_new(o, "narSize",
						json_integer((json_int_t)p->nar_size));
		if (r == 0)
			r = json_object_set_new(o, "closureSize",
						json_integer((json_int_t)g->closure_sizes[i]));
		if (r == 0 && p->ca[0])
			r = json_object_set_new(o, "ca", json_string(p->ca));
		if (r == 0)
			r = json_object_set_new(o, "path", full_path(store_dir, p->path.base));
		if (r == 0)
			r = json_object_set_new(o, "valid", json_true());
		if (r == 0)
			r = json_object_set(o, "references", refs);
		if (r == 0)
			r = json_array_append(list, o);
		json_decref(refs);
		json_decref(o);
		if (r) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* The attributes as the builder gets them. */
static json_t *completed(const struct build_env_input *in, struct arena *a)
{
	json_t *top = json_copy(in->opts->attrs), *outputs = json_object();
	int r = top && outputs ? 0 : -1;

	for (size_t i = 0; i < in->drv->outputs.n && r == 0; i++) {
		const char *name = in->drv->outputs.v[i].name;
		char *placeholder = output_placeholder(a, name);

		r = placeholder ? json_object_set_new(outputs, name, json_string(placeholder)) : -1;
	}
	if (r == 0)
		r = json_object_set(top, "outputs", outputs);
	for (size_t i = 0; i < in->opts->graphs.n && r == 0; i++)
		r = json_object_set_new(top, in->graphs[i].name,
					graph_json(in->store_dir, &in->graphs[i]));
	json_decref(outputs);
	if (r) {
		json_decref(top);
		return NULL;
	}
	return top;
}

int attrs_render(const struct build_env_input *in, struct arena *a, char **ret_json, char **ret_sh,
		 struct err *e)
{
	_cleanup_buf_ struct buf json = BUF_INIT(JSON_TEXT_MAX), sh = BUF_INIT(JSON_TEXT_MAX);
	json_t *top = completed(in, a);
	int r = top ? attrs_put_json(&json, top) : -ENOMEM;

	if (r == 0)
		r = attrs_put_shell(&sh, top);
	json_decref(top);
	if (r == 0) {
		*ret_json = arena_strndup(a, json.data, json.len);
		*ret_sh = arena_strndup(a, sh.data, sh.len);
		if (!*ret_json || !*ret_sh)
			r = -ENOMEM;
	}
	return r < 0 ? err_errno(e, r, "preparing the structured attributes of '%s'", in->drv_base)
		     : 0;
}
