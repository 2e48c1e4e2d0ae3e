/* What requests and goals need and a collection must leave alone (gc.h). Linked by airplantd. */
#include "core/beside.h"
#include "core/gc.h"
#include "core/goals_int.h"
#include "core/realise.h"

struct pins {
	struct goals *g;
	void (*pin)(void *ctx, const char *base);
	void *ctx;
	struct smap
		seen; /* derivations whose outputs were pinned: goals share most of their inputs */
};

static void pin_to_gc(void *ctx, const char *base)
{
	gc_pin(ctx, base);
}

static void pin_path(struct pins *p, const char *full, struct store_path *ret)
{
	if (store_path_parse(p->g->core->store_dir, full, ret, NULL) == 0)
		p->pin(p->ctx, ret->base);
	else
		ret->base[0] = 0;
}

/* The derivation and all of its outputs that are on record. */
static void pin_drv(struct pins *p, const struct store_path *drv)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(16 << 20);
	_cleanup_err_ struct err e = {};
	struct strv names = {}, paths = {};

	p->pin(p->ctx, drv->base);
	if (smap_has(&p->seen, drv->base) || smap_put(&p->seen, drv->base, p) < 0)
		return;
	if (realise_outputs(p->g->core, drv, NULL, &a, &names, &paths, &e) == 0)
		for (size_t i = 0; i < paths.n; i++)
			if (*paths.v[i])
				p->pin(p->ctx, paths.v[i]);
}

static void target_pins(struct pins *p, const struct target *t)
{
	if (t->is_drv)
		pin_drv(p, &t->path);
	else
		p->pin(p->ctx, t->path.base);
}

static void goal_pins(struct pins *p, const struct goal *g)
{
	struct store_path path;

	pin_drv(p, &g->drv_path);
	if (!g->loaded)
		return;
	if (g->run)
		build_run_pins(g->run, p->pin, p->ctx);
	if (g->is_resolved)
		pin_drv(p, &g->resolved);
	for (const struct gift *i = g->gifts; i; i = i->next)
		p->pin(p->ctx, i->path);
	for (size_t i = 0; i < g->drv.outputs.n; i++)
		pin_path(p, g->drv.outputs.v[i].path, &path);
	for (size_t i = 0; i < g->drv.srcs.n; i++)
		pin_path(p, g->drv.srcs.v[i], &path);
	for (size_t i = 0; i < g->drv.inputs.n; i++)
		if (store_path_parse(p->g->core->store_dir, g->drv.inputs.v[i].path, &path, NULL) ==
		    0)
			pin_drv(p, &path);
}

void goals_pins(struct goals *g, void (*pin)(void *ctx, const char *base), void *ctx)
{
	struct pins p = { .g = g, .pin = pin, .ctx = ctx };
	struct smap_entry *e;

	for (const struct request *r = g->requests; r; r = r->next)
		for (size_t i = 0; !r->dead && i < r->targets.n; i++)
			target_pins(&p, &r->targets.v[i]);
	for (size_t i = 0; (e = smap_next(&g->by_key, &i));)
		goal_pins(&p, e->value);
	smap_done(&p.seen);
}

bool goals_any(const struct goals *g)
{
	return g->requests || g->by_key.n > 0;
}

/* To a collection that runs, ours or another's. */
static bool is_wanted(struct goals *g)
{
	bool others = beside_promise(g->core);

	return others || gc_is_running(g->core);
}

void pin_target(struct goals *g, const struct target *t)
{
	struct pins p = { .g = g, .pin = pin_to_gc, .ctx = g->core };

	if (is_wanted(g))
		target_pins(&p, t);
	smap_done(&p.seen);
}

void pin_goal(struct goal *g)
{
	struct pins p = { .g = g->goals, .pin = pin_to_gc, .ctx = g->goals->core };

	if (is_wanted(g->goals))
		goal_pins(&p, g);
	smap_done(&p.seen);
}
