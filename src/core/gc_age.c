/* Age: which paths stay since they were used not long ago (keep-recent), which limits take the
 * oldest first, and how much may go (keep-size). Linked by airplantd. */
#include <errno.h>

#include "core/gc_int.h"
#include "core/used.h"

/* Whoever names paths means those, whatever their age. */
static bool age_matters(const struct gc *gc)
{
	return gc->head->o.whole_store && !gc->head->o.ignore_liveness &&
	       (gc->core->settings.keep_recent > 0 || gc_oldest_first(gc));
}

bool gc_ages_any(const struct gc *gc)
{
	return gc->n_partly > 0 || age_matters(gc);
}

bool gc_oldest_first(const struct gc *gc)
{
	return gc->head->o.whole_store && gc->head->o.action == GC_DELETE_DEAD &&
	       (gc->head->o.max_freed != UINT64_MAX || gc->core->settings.keep_size > 0);
}

int gc_ages_begin(struct gc *gc, struct err *e)
{
	return gc_ages_any(gc) ? used_read_open(gc->core, &gc->ages, e) : 0;
}

/* Stamps that cannot be read: it is not known what is recent, so nothing goes. */
int gc_ages_step(struct gc *gc, uint64_t until_usec, struct err *e)
{
	int r = gc->ages ? used_read_step(gc->ages, &gc->graph, until_usec) : 0;

	if (r < 0)
		return err_errno(e, r, "reading when paths were used");
	if (r == 0 && gc->ages) {
		used_compact(gc->ages, &gc->graph);
		used_read_close(TAKE_PTR(gc->ages));
	}
	return r;
}

void gc_mark_recent(struct gc *gc)
{
	uint64_t keep = gc->core->settings.keep_recent, now = used_now();

	if (keep == 0 || !age_matters(gc))
		return;
	for (uint32_t v = 0; v < gc->graph.n; v++)
		if (gc->graph.hours[v] + keep >= now)
			graph_mark(&gc->graph, v);
}

static bool is_partly_seen(const struct gc *gc, uint32_t user)
{
	for (size_t i = 0; i < gc->n_partly; i++)
		if (gc->partly[i] == user)
			return true;
	return user == USED_BY_SEVERAL;
}

/* A process that was not looked at may hold whatever its user had from this daemon. Whoever is
 * behind that gains nothing: he could have made roots for the same paths. */
void gc_mark_used(struct gc *gc)
{
	const struct graph *g = &gc->graph;

	if (gc->n_partly == 0)
		return;
	for (uint32_t v = 0; v < g->n; v++)
		if (g->user[v] != USED_BY_NOBODY && is_partly_seen(gc, g->user[v]))
			graph_mark(&gc->graph, v);
}

void gc_limit_size(struct gc *gc)
{
	uint64_t size = 0, keep = gc->core->settings.keep_size;
	struct gc_options *o = &gc->head->o;

	if (keep == 0 || !o->whole_store || o->action != GC_DELETE_DEAD)
		return;
	for (uint32_t v = 0; v < gc->graph.n; v++)
		size += gc->graph.nar_size[v];
	if (size <= keep)
		gc->limit_reached = true;
	else if (size - keep < o->max_freed)
		o->max_freed = size - keep - 1; /* it stops when more is freed */
}

/* ---- a heap, the oldest on top ---- */

static bool older(const struct gc *gc, uint32_t a, uint32_t b)
{
	const struct graph *g = &gc->graph;

	return g->hours[a] != g->hours[b] ? g->hours[a] < g->hours[b] : a < b;
}

void gc_heap_put(struct gc *gc, uint32_t v)
{
	uint32_t *h = gc->order.heap;
	size_t i = gc->order.n_heap++;

	for (; i > 0 && older(gc, v, h[(i - 1) / 2]); i = (i - 1) / 2)
		h[i] = h[(i - 1) / 2];
	h[i] = v;
}

uint32_t gc_heap_take(struct gc *gc)
{
	uint32_t *h = gc->order.heap, top = h[0], v = h[--gc->order.n_heap];
	size_t n = gc->order.n_heap, i = 0, child;

	while ((child = 2 * i + 1) < n) {
		if (child + 1 < n && older(gc, h[child + 1], h[child]))
			child++;
		if (!older(gc, h[child], v))
			break;
		h[i] = h[child];
		i = child;
	}
	h[i] = v;
	return top;
}
