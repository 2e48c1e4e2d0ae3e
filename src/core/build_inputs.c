/* See build_inputs.h. */
#include "core/build_inputs.h"

#include <errno.h>
#include <string.h>

/* Everybody waits while the graphs are read. Closures of whole systems have some thousand paths. */
enum { GRAPHS_MAX_PATHS = 100 * 1000, PATHS_PER_GRAPH = 20 /* what one costs besides its paths */ };

struct loader {
	struct db *db;
	const char *store_dir, *drv_base;
	struct arena *a;
	struct err *e;
	size_t n_graph_paths;
};

static int add_root(const struct loader *l, struct strv *roots, const char *base)
{
	int r = strv_add_arena(roots, l->a, arena_strdup(l->a, base));

	return r < 0 ? err_errno(l->e, r, "collecting the inputs of '%s'", l->drv_base) : 0;
}

static int closure(const struct loader *l, const struct strv *roots, struct strv *ret)
{
	struct store_path missing;
	int r;

	if (!roots->n) {
		*ret = (struct strv){};
		return 0;
	}
	r = db_closure(l->db, roots, l->a, ret, &missing);
	if (r == DB_ABSENT)
		return err_set(l->e, INPUTS_BAD, "path '%s/%s' is not valid", l->store_dir,
			       missing.base);
	return r < 0 ? err_errno(l->e, r, "computing the input closure of '%s/%s'", l->store_dir,
				 l->drv_base)
		     : 0;
}

static int add_input_drv(const struct loader *l, const struct drv_input *in, struct strv *roots)
{
	struct strv names, paths;
	struct store_path p;
	int r = store_path_parse(l->store_dir, in->path, &p, l->e);

	if (r)
		return r;
	r = db_drv_outputs(l->db, &p, l->a, &names, &paths);
	if (r == DB_ABSENT)
		return err_set(l->e, INPUTS_BAD, "path '%s' is not valid", in->path);
	if (r < 0)
		return err_errno(l->e, r, "reading the outputs of '%s'", in->path);
	for (size_t i = 0; i < in->outputs.n; i++) {
		size_t j = 0;

		while (j < names.n && strcmp(names.v[j], in->outputs.v[i]))
			j++;
		if (j == names.n)
			return err_set(l->e, INPUTS_BAD,
				       "derivation '%s/%s' requires non-existent output '%s' from "
				       "input derivation '%s'",
				       l->store_dir, l->drv_base, in->outputs.v[i], in->path);
		r = add_root(l, roots, paths.v[j]);
		if (r)
			return r;
	}
	return 0;
}

static int load_closure(const struct loader *l, const struct drv *d, struct strv *ret)
{
	struct strv roots = {};
	int r = 0;

	for (size_t i = 0; i < d->inputs.n && r == 0; i++)
		r = add_input_drv(l, &d->inputs.v[i], &roots);
	for (size_t i = 0; i < d->srcs.n && r == 0; i++) {
		struct store_path p;

		r = store_path_parse(l->store_dir, d->srcs.v[i], &p, l->e);
		if (r == 0)
			r = add_root(l, &roots, p.base);
	}
	return r ? r : closure(l, &roots, ret);
}

/* The paths a graph covers: the closure of what is named, and of the outputs of the .drv files
 * in it. */
static int graph_closure(const struct loader *l, const struct drv_graph *g,
			 const struct strv *inputs, struct strv *ret)
{
	struct strv roots = {}, outs;
	int r;

	for (size_t i = 0; i < g->paths.n; i++) {
		struct store_path p;

		r = store_path_of_subpath(l->store_dir, g->paths.v[i], &p, l->e);
		if (r)
			return r;
		if (!strv_has_sorted(inputs, p.base))
			return err_set(
				l->e, INPUTS_BAD,
				"cannot export references of path '%s/%s' because it is not in "
				"the input closure of the derivation",
				l->store_dir, p.base);
		r = add_root(l, &roots, p.base);
		if (r)
			return r;
	}
	r = closure(l, &roots, ret);
	outs = (struct strv){};
	for (size_t i = 0; r == 0 && i < ret->n; i++) {
		struct strv names, paths;
		struct store_path p;

		if (store_path_parse_base(ret->v[i], &p, NULL) || !store_path_is_drv(&p))
			continue;
		r = db_drv_outputs(l->db, &p, l->a, &names, &paths);
		for (size_t j = 0; r == 0 && j < paths.n; j++)
			r = add_root(l, &outs, paths.v[j]);
	}
	if (r == 0 && outs.n) {
		for (size_t i = 0; r == 0 && i < roots.n; i++)
			r = add_root(l, &outs, roots.v[i]);
		for (size_t i = 0; r == 0 && i < ret->n; i++)
			r = add_root(l, &outs, ret->v[i]);
		strv_sort_uniq(&outs, false);
		if (r == 0)
			r = closure(l, &outs, ret);
	}
	return r;
}

static int path_details(const struct loader *l, const char *base, struct path_info *ret)
{
	struct store_path p;
	int r = store_path_parse_base(base, &p, l->e);

	if (r == 0)
		r = db_path_info(l->db, &p, l->a, ret);
	if (r == DB_ABSENT)
		return err_set(l->e, INPUTS_BAD, "path '%s/%s' is not valid", l->store_dir, base);
	return r < 0 ? err_errno(l->e, r, "reading '%s/%s'", l->store_dir, base) : r;
}

/* NAR bytes of everything that each path of the graph needs. The graph is closed: what is referred
 * to is in it. One walk per path, over numbers alone: `index` maps base names to places + 1. */
static int closure_sizes(const struct loader *l, const struct smap *index, struct build_graph *g)
{
	size_t n = g->paths.n, n_refs = 0;
	size_t *first, *refs, *seen, *stack;

	for (size_t i = 0; i < n; i++)
		n_refs += g->paths.v[i].refs.n;
	first = arena_array(l->a, n + 1, sizeof(*first));
	refs = arena_array(l->a, n_refs + 1, sizeof(*refs));
	seen = arena_array(l->a, n + 1, sizeof(*seen));
	stack = arena_array(l->a, n + 1, sizeof(*stack));
	if (!first || !refs || !seen || !stack)
		return err_errno(l->e, -ENOMEM, "preparing 'exportReferencesGraph'");
	for (size_t i = 0; i < n; i++) {
		const struct strv *names = &g->paths.v[i].refs;

		first[i + 1] = first[i];
		for (size_t k = 0; k < names->n; k++) {
			size_t to = (size_t)(uintptr_t)smap_get(index, names->v[k]);

			if (to)
				refs[first[i + 1]++] = to - 1;
		}
	}
	for (size_t i = 0; i < n; i++) {
		size_t depth = 0;

		stack[depth++] = i;
		seen[i] = i + 1;
		while (depth) {
			size_t at = stack[--depth];

			g->closure_sizes[i] += g->paths.v[at].nar_size;
			for (size_t k = first[at]; k < first[at + 1]; k++) {
				if (seen[refs[k]] == i + 1)
					continue;
				seen[refs[k]] = i + 1;
				stack[depth++] = refs[k];
			}
		}
	}
	return 0;
}

static int load_graph(struct loader *l, const struct drv_graph *g, bool sizes,
		      const struct strv *inputs, struct build_graph *ret)
{
	_cleanup_smap_ struct smap index = {};
	struct strv bases;
	int r = graph_closure(l, g, inputs, &bases);

	if (r)
		return r;
	l->n_graph_paths += bases.n + PATHS_PER_GRAPH;
	if (l->n_graph_paths > GRAPHS_MAX_PATHS)
		return err_set(l->e, INPUTS_BAD,
			       "the graphs that '%s/%s' asks for with 'exportReferencesGraph' have "
			       "more than %d paths together",
			       l->store_dir, l->drv_base, GRAPHS_MAX_PATHS);
	ret->name = g->name;
	ret->paths.n = bases.n;
	ret->paths.v = arena_array(l->a, bases.n, sizeof(*ret->paths.v));
	ret->closure_sizes = arena_array(l->a, bases.n, sizeof(uint64_t));
	if (bases.n && (!ret->paths.v || !ret->closure_sizes))
		return err_errno(l->e, -ENOMEM, "preparing 'exportReferencesGraph'");
	for (size_t i = 0; i < bases.n; i++) {
		r = path_details(l, bases.v[i], &ret->paths.v[i]);
		if (r == 0 && smap_put(&index, bases.v[i], (void *)(uintptr_t)(i + 1)) < 0)
			r = err_errno(l->e, -ENOMEM, "preparing 'exportReferencesGraph'");
		if (r)
			return r;
	}
	return sizes ? closure_sizes(l, &index, ret) : 0;
}

/* Store paths named in sandbox-paths bring their closure; ones that are not valid are left to the
 * supervisor, which says so when it cannot bind them. */
static int load_sandbox(const struct loader *l, const struct settings *settings, struct strv *ret)
{
	struct strv roots = {};
	int r = 0;

	for (size_t i = 0; r == 0 && i < settings->sandbox_paths.n; i++) {
		struct build_pair pair;
		struct store_path p;
		bool optional;

		if (sandbox_path_parse(l->a, settings->sandbox_paths.v[i], &pair, &optional) < 0)
			return err_errno(l->e, -ENOMEM, "reading the setting 'sandbox-paths'");
		if (store_path_of_subpath(l->store_dir, pair.value, &p, NULL) ||
		    db_path_valid(l->db, &p) != 0)
			continue;
		r = add_root(l, &roots, p.base);
	}
	return r ? r : closure(l, &roots, ret);
}

int build_inputs_load(struct db *db, const char *store_dir, const char *drv_base,
		      const struct drv *d, const struct drv_opts *opts,
		      const struct settings *settings, struct arena *a, struct build_inputs *ret,
		      struct err *e)
{
	struct loader l = {
		.db = db, .store_dir = store_dir, .drv_base = drv_base, .a = a, .e = e
	};
	struct build_inputs in = {};
	int r = load_closure(&l, d, &in.closure);

	if (r)
		return r;
	in.graphs = arena_array(a, opts->graphs.n, sizeof(*in.graphs));
	if (opts->graphs.n && !in.graphs)
		return err_errno(e, -ENOMEM, "preparing 'exportReferencesGraph'");
	for (size_t i = 0; r == 0 && i < opts->graphs.n; i++)
		r = load_graph(&l, &opts->graphs.v[i], opts->attrs != NULL, &in.closure,
			       &in.graphs[i]);
	if (r == 0)
		r = load_sandbox(&l, settings, &in.sandbox_closure);
	if (r == 0)
		*ret = in;
	return r;
}
