/* What is live, and in which order the rest goes. See gc.h, C4. Linked by airplantd. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "core/gc_int.h"
#include "core/goals.h"
#include "core/sessions.h"

enum { NODES_PER_LOOK = 1024 };

static int pin_temp(void *ctx, const char *base, pid_t pid)
{
	struct gc *gc = ctx;

	(void)pid;
	gc_pin(gc->core, base);
	return gc->pin_error;
}

static void pin_of_goal(void *ctx, const char *base)
{
	struct gc *gc = ctx;

	gc_pin(gc->core, base);
}

/* What was not asked for stays, and with it what it refers to: so a path is dead only when all that
 * refer to it are to go as well. */
static int mark_unwanted(struct gc *gc)
{
	struct graph *g = &gc->graph;
	const struct gc_request *r = gc->head;

	gc->order.wanted = calloc(g->n ? g->n : 1, 1);
	if (!gc->order.wanted)
		return -ENOMEM;
	for (size_t i = 0; i < r->paths.n; i++) {
		uint32_t v = graph_find(g, r->paths.v[i]);

		if (v != GRAPH_NONE)
			gc->order.wanted[v] = 1;
	}
	if (r->o.delete_referrers)
		return 0;
	for (uint32_t v = 0; v < g->n; v++)
		if (!gc->order.wanted[v])
			graph_mark(g, v);
	return 0;
}

int gc_mark_begin(struct gc *gc, struct err *e)
{
	struct smap_entry *p;
	struct smap pins = gc->pins;
	int r = 0;

	for (size_t i = 0; (p = smap_next(&gc->roots, &i));)
		graph_mark(&gc->graph, graph_find(&gc->graph, p->key));
	gc->pins = (struct smap){};
	for (size_t i = 0; (p = smap_next(&pins, &i));)
		gc_pin(gc->core, p->key);
	smap_done(&pins);
	gc_mark_recent(gc);
	gc_mark_used(gc);
	r = sessions_temp_roots(gc->core->sessions, pin_temp, gc);
	/* A request to ignore liveness is about roots: builds are not to be broken by it. */
	if (gc->core->goals)
		goals_pins(gc->core->goals, pin_of_goal, gc);
	if (r == 0 && !gc->head->o.whole_store && gc->head->o.action != GC_RETURN_LIVE)
		r = mark_unwanted(gc);
	if (r == 0)
		r = gc->pin_error;
	return r < 0 ? err_errno(e, r, "marking what is alive") : 0;
}

/* Specific paths: none of them may be alive. */
int gc_check_wanted(struct gc *gc, struct err *e)
{
	const struct gc_request *r = gc->head;

	for (size_t i = 0; r->o.action == GC_DELETE_SPECIFIC && i < r->paths.n; i++) {
		const char *base = r->paths.v[i];
		uint32_t v = graph_find(&gc->graph, base);

		if (v == GRAPH_NONE ? !gc_has_digest(gc, base) : !gc->graph.live[v])
			continue;
		return err_set(e, GC_REFUSED,
			       "Cannot delete path '%s/%s' since it is still alive. "
			       "To find out why, use: "
			       "nix-store --query --roots and nix-store --query --referrers",
			       gc->core->store_dir, base);
	}
	return 0;
}

/* ---- the order: a path comes when all that refer to it have come ---- */

int gc_order_begin(struct gc *gc, struct err *e)
{
	struct gc_order *o = &gc->order;
	size_t n = gc->graph.n ? gc->graph.n : 1;

	o->n_referrers = calloc(n, sizeof(*o->n_referrers));
	o->v = reallocarray(NULL, n, sizeof(*o->v));
	if (gc_oldest_first(gc))
		o->heap = reallocarray(NULL, n, sizeof(*o->heap));
	if (!o->n_referrers || !o->v || (gc_oldest_first(gc) && !o->heap))
		return err_errno(e, -ENOMEM, "collecting garbage");
	return 0;
}

void gc_order_done(struct gc *gc)
{
	free(gc->order.n_referrers);
	free(gc->order.wanted);
	free(gc->order.v);
	free(gc->order.heap);
	gc->order = (struct gc_order){};
}

static void count_node(struct gc *gc, uint32_t v)
{
	const struct graph_edges *refs = &gc->graph.refs;

	if (gc->graph.live[v])
		return;
	for (uint32_t i = refs->first[v]; i < refs->first[v + 1]; i++)
		gc->order.n_referrers[refs->to[i]]++;
}

/* From the newest row to the oldest: what refers is nearly always younger than what it refers to,
 * so this is an order already, and one in which the database finds its pages beside each other.
 * What it has passed comes when its last referrer has come. Whoever became live since he was
 * counted holds back only what is live with him. */
static void order_node(struct gc *gc, uint32_t i)
{
	const struct graph_edges *refs = &gc->graph.refs;
	struct gc_order *o = &gc->order;
	uint32_t here = gc->graph.n - 1 - i;

	if (!gc->graph.live[here] && o->n_referrers[here] == 0)
		o->v[o->n++] = here;
	for (; o->next < o->n; o->next++) {
		uint32_t v = o->v[o->next];

		for (uint32_t k = refs->first[v]; k < refs->first[v + 1]; k++) {
			uint32_t to = refs->to[k];

			if (--o->n_referrers[to] == 0 && to > here && !gc->graph.live[to])
				o->v[o->n++] = to;
		}
	}
}

/* Of those that nothing dead refers to, the one that was used longest ago. */
static void first_node(struct gc *gc, uint32_t v)
{
	if (!gc->graph.live[v] && gc->order.n_referrers[v] == 0)
		gc_heap_put(gc, v);
}

static void take_oldest(struct gc *gc)
{
	const struct graph_edges *refs = &gc->graph.refs;
	struct gc_order *o = &gc->order;
	uint32_t v = gc_heap_take(gc);

	o->v[o->n++] = v;
	for (uint32_t k = refs->first[v]; k < refs->first[v + 1]; k++)
		if (--o->n_referrers[refs->to[k]] == 0)
			first_node(gc, refs->to[k]);
}

static int take_all(struct gc *gc, uint64_t until_usec)
{
	while (gc->order.n_heap > 0) {
		take_oldest(gc);
		if (gc->order.n % NODES_PER_LOOK == 0 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	return 0;
}

/* With delete_referrers: who refers to a wanted path is wanted too, through all edges that keep.
 * References come last in the order, so the way back meets them first. Edges of derivations may
 * lead the other way: another turn then, until nothing is added. */
static bool any_wanted(const uint8_t *wanted, const struct graph_edges *s, uint32_t v)
{
	for (uint32_t i = s->first[v]; i < s->first[v + 1]; i++)
		if (wanted[s->to[i]])
			return true;
	return false;
}

static void spread_wanted(struct gc *gc)
{
	struct graph *g = &gc->graph;
	struct gc_order *o = &gc->order;
	bool again = o->wanted && gc->head->o.delete_referrers;

	/* What stays takes nobody along. */
	for (uint32_t v = 0; again && v < g->n; v++)
		o->wanted[v] = o->wanted[v] && !g->live[v];
	while (again) {
		again = false;
		for (size_t i = o->n; i-- > 0;) {
			uint32_t v = o->v[i];

			if (o->wanted[v])
				continue;
			if (any_wanted(o->wanted, &g->refs, v) ||
			    (g->keep_outputs && any_wanted(o->wanted, &g->outputs, v)) ||
			    (g->keep_derivers && g->deriver[v] != GRAPH_NONE &&
			     o->wanted[g->deriver[v]]))
				o->wanted[v] = again = true;
		}
	}
}

static int each_node(struct gc *gc, uint64_t until_usec, void (*fn)(struct gc *gc, uint32_t v))
{
	struct gc_order *o = &gc->order;

	while (o->node < gc->graph.n) {
		fn(gc, o->node++);
		if (o->node % NODES_PER_LOOK == 0 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	o->node = 0;
	return 0;
}

int gc_order_step(struct gc *gc, uint64_t until_usec)
{
	struct gc_order *o = &gc->order;
	int r;

	if (o->filled)
		r = take_all(gc, until_usec);
	else
		r = each_node(gc, until_usec,
			      !o->counted ? count_node
			      : o->heap	  ? first_node
					  : order_node);
	if (r != 0)
		return GRAPH_MORE;
	if (!o->counted || (o->heap && !o->filled)) {
		o->filled = o->counted;
		o->counted = true;
		return GRAPH_MORE;
	}
	o->next = 0;
	spread_wanted(gc);
	gc->progress.n_expected = o->n;
	return 0;
}
