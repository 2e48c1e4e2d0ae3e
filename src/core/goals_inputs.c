/* See goals_int.h: what a goal needs before it can be built. */
#include <errno.h>
#include <string.h>

#include "core/goals_int.h"
#include "core/realise.h"

/* Upstream's rule: what depends on something that differs each time would differ, too, unless a
 * hash says what comes out. */
static int check_purity(const struct goal *g, const struct store_path *input, struct err *e)
{
	struct core *core = g->goals->core;
	_cleanup_arena_ struct arena a = ARENA_INIT(GOAL_MEMORY);
	struct strv names = {}, paths = {};
	struct drv d;
	int r;

	if (g->drv.kind == DRV_IMPURE || g->drv.kind == DRV_FIXED ||
	    !has_feature(core, "impure-derivations"))
		return 0;
	r = db_drv_outputs(core->db, input, &a, &names, &paths);
	if (r || names.n)
		return r < 0 ? err_errno(e, r, "reading '%s'", input->base) : 0;
	r = read_drv(core, input, &a, &d, e);
	if (r == 0 && d.kind == DRV_IMPURE)
		return err_set(e, MISC_FAILURE,
			       "pure derivation '%s/%s' depends on impure derivation '%s/%s'",
			       core->store_dir, g->drv_path.base, core->store_dir, input->base);
	return r > 0 ? MISC_FAILURE : r;
}

/* A goal for outputs that are not there. `*ret_there` when they are. */
static int need_outputs(struct goal *g, const struct store_path *drv, const struct strv *wanted,
			bool *ret_there, struct err *e)
{
	struct goals *all = g->goals;
	struct goal *dep;
	int v;

	*ret_there = true;
	if (goal_was_given(g, drv))
		return 0;
	v = outputs_valid(all, drv, wanted, g->repair, NULL);
	if (v == OUTPUTS_VALID || v == OUTPUTS_NO_SUCH)
		return 0; /* the latter is told when the build starts, in upstream's words */
	*ret_there = false;
	if (v < 0)
		return err_errno(e, v, "reading the outputs of '%s'", drv->base);
	dep = goal_get(all, drv, g->repair ? BUILD_REPAIR : BUILD_NORMAL);
	return dep && goal_need(g, dep) == 0 ? 0
					     : err_errno(e, -ENOMEM, "building '%s'", drv->base);
}

/* What is wanted of a node: its outputs, and those that the nodes below it hang on. */
static int wanted_of(struct goal *g, const struct drv_input *in, size_t first, size_t depth,
		     const struct strv *outputs, struct strv *ret)
{
	for (size_t i = 0; i < outputs->n; i++)
		if (strv_add_arena(ret, &g->arena, outputs->v[i]) < 0)
			return -ENOMEM;
	for (size_t i = first; i < in->n_nodes && in->nodes[i].depth > depth; i++)
		if (in->nodes[i].depth == depth + 1 &&
		    strv_add_arena(ret, &g->arena, in->nodes[i].name) < 0)
			return -ENOMEM;
	strv_sort_uniq(ret, false);
	return 0;
}

/* An input, and the derivations that come out of it, as far as they are there. */
static int need_input(struct goal *g, const struct drv_input *in, struct err *e)
{
	struct store_path at[DRV_DEPTH_MAX + 1];
	bool there[DRV_DEPTH_MAX + 1] = {};
	struct strv wanted = {};
	int r = store_path_parse(g->goals->core->store_dir, in->path, &at[0], e);

	if (r == 0)
		r = check_purity(g, &at[0], e);
	if (r)
		return r;
	if (wanted_of(g, in, 0, 0, &in->outputs, &wanted) < 0)
		return err_errno(e, -ENOMEM, "building '%s'", in->path);
	r = need_outputs(g, &at[0], &wanted, &there[0], e);
	for (size_t i = 0; r == 0 && i < in->n_nodes; i++) {
		const struct drv_node *n = &in->nodes[i];

		there[n->depth] = false;
		if (!there[n->depth - 1])
			continue;
		r = goal_output_of(g, &at[n->depth - 1], n->name, &at[n->depth], e);
		if (r == 0 && !store_path_is_drv(&at[n->depth]))
			r = err_set(e, MISC_FAILURE, "path '%s/%s' is not a derivation",
				    g->goals->core->store_dir, at[n->depth].base);
		wanted = (struct strv){};
		if (r == 0 && wanted_of(g, in, i + 1, n->depth, &n->outputs, &wanted) < 0)
			r = err_errno(e, -ENOMEM, "building '%s'", in->path);
		if (r == 0)
			r = need_outputs(g, &at[n->depth], &wanted, &there[n->depth], e);
	}
	return r;
}

/* Goals for the inputs that are not there; 0, or a sentence. */
int goal_add_inputs(struct goal *g, struct err *e)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < g->drv.inputs.n; i++)
		r = need_input(g, &g->drv.inputs.v[i], e);
	return r;
}

int goal_check_sources(const struct goal *g, struct err *e)
{
	const struct core *core = g->goals->core;

	for (size_t i = 0; i < g->drv.srcs.n; i++) {
		struct store_path p;
		int r = store_path_parse(core->store_dir, g->drv.srcs.v[i], &p, e);

		if (r)
			return r;
		r = db_path_valid(core->db, &p);
		if (r < 0)
			return err_errno(e, r, "reading '%s'", g->drv.srcs.v[i]);
		if (r)
			return err_set(
				e, MISC_FAILURE,
				"dependency '%s' of '%s/%s' does not exist, and substitution is "
				"disabled",
				g->drv.srcs.v[i], core->store_dir, g->drv_path.base);
	}
	return 0;
}
