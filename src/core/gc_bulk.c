/* The sweep at once, when less stays than goes: the rows in one transaction (store/bulk.c), which
 * is spread over steps, then the files. See gc.h, C5. Linked by airplantd.
 *
 * Until its last step nothing has happened for anybody else. That step looks at who has become live
 * since, writes these rows as well, and commits, so it is one step of the protocol. Whoever in this
 * process wants to write before that goes first: the transaction is given up and made again. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "core/gc_int.h"
#include "core/place.h"

enum {
	TRIES_MAX = 4,
	NODES_PER_LOOK = 64,
	RUN_MAX = 64,
	SMALL_FILE = 256 * 1024, /* bytes: is deleted as fast as it is renamed */
};

static enum gc_fate fate_of(const struct gc *gc, uint32_t v)
{
	return (enum gc_fate)gc->bulk.fate[v];
}

static void set_fate(struct gc *gc, uint32_t v, enum gc_fate fate)
{
	gc->bulk.fate[v] = (uint8_t)fate;
}

/* ---- does it pay, and for which paths ---- */

/* In tenths of a microsecond: what a row costs that stays, or one that goes by itself. */
static bool is_worth_it(const struct gc *gc)
{
	const struct graph *g = &gc->graph;
	uint64_t n_dead = gc->order.n, dead_refs = 0;

	for (size_t i = 0; i < gc->order.n; i++)
		dead_refs += g->refs.first[gc->order.v[i] + 1] - g->refs.first[gc->order.v[i]];
	return 50 * (g->n - n_dead) + 20 * (g->refs.n - dead_refs) < 40 * n_dead + 12 * dead_refs;
}

/* With a limit it is not known before how many go. */
static int ask(struct gc *gc, struct err *e)
{
	const struct gc_options *o = &gc->head->o;

	gc->bulk.stage = BULK_NOT;
	if (!o->whole_store || o->max_freed != UINT64_MAX || gc->limit_reached ||
	    gc->order.n == 0 || !is_worth_it(gc))
		return 0;
	gc->bulk.fate = calloc(gc->graph.n, 1);
	if (!gc->bulk.fate)
		return err_errno(e, -ENOMEM, "collecting garbage");
	gc->bulk.direct = !o->wait_for_space && !gc_links_any(gc);
	gc->bulk.stage = BULK_CHOOSE;
	return 0;
}

static int choose(struct gc *gc, uint64_t until_usec)
{
	struct gc_order *o = &gc->order;

	if (gc_scan_round(gc, until_usec) == GRAPH_MORE)
		return GRAPH_MORE;
	while (gc->bulk.next < o->n) {
		uint32_t v = o->v[gc->bulk.next++];

		if (gc_may_go(gc, v))
			set_fate(gc, v, FATE_GOES);
		if (gc->bulk.next % NODES_PER_LOOK == 0 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	gc->bulk.next = 0;
	gc->bulk.stage = BULK_BEGIN;
	return 0;
}

/* ---- the rows ---- */

static void give_up(struct gc *gc, const char *why)
{
	if (!gc->bulk.rows)
		return;
	db_on_write(gc->core->db, NULL, NULL);
	db_bulk_abort(TAKE_PTR(gc->bulk.rows));
	log_debug("garbage collection: %s", why);
}

/* Somebody is about to write. */
static void give_way(void *ctx)
{
	struct gc *gc = ctx;

	give_up(gc, "a writer goes first");
	gc->bulk.stage = ++gc->bulk.tries < TRIES_MAX ? BULK_BEGIN : BULK_NOT;
}

/* What cannot be done at once is done by and by: so no failure is one of the collection. */
static void rather_not(struct gc *gc, int r)
{
	if (r < 0)
		log_warn("deleting rows of the store database at once: %s; they go one by one",
			 strerror(-r));
	give_up(gc, "rows go by and by");
	gc->bulk.stage = BULK_NOT;
}

static int begin(struct gc *gc)
{
	const struct graph *g = &gc->graph;
	int r;

	gc->bulk.node = gc->bulk.emptied = 0;
	place_flush(gc->core->place);
	r = db_bulk_begin(gc->sweep_db, gc->core->db, g->id[g->n - 1], g->n, &gc->bulk.rows);
	if (r == 0)
		db_on_write(gc->core->db, give_way, gc);
	return r;
}

/* A path that is new refers to it, and we were not told. */
static void on_reference(void *ctx, uint64_t id)
{
	struct gc *gc = ctx;
	uint32_t v = graph_find_id(&gc->graph, id);

	if (v == GRAPH_NONE || fate_of(gc, v) != FATE_GOES || gc->graph.live[v])
		return;
	log_warn("'%s' is referred to by a path that is new: it stays", graph_name(&gc->graph, v));
	gc_pin(gc->core, graph_name(&gc->graph, v));
}

static bool stays(const struct gc *gc, uint32_t v)
{
	return fate_of(gc, v) != FATE_GOES || gc->graph.live[v];
}

/* From `v` to before `end`. Row ids between theirs do not exist. */
static int keep_run(struct gc *gc, uint32_t v, uint32_t end)
{
	const struct db_run run = { .low = gc->graph.id[v], .high = gc->graph.id[end - 1] };

	for (; v < end; v++)
		set_fate(gc, v, FATE_OPEN);
	return db_bulk_keep(gc->bulk.rows, &run, on_reference, gc);
}

static uint32_t end_of_run(const struct gc *gc, uint32_t v)
{
	uint32_t end = v;

	while (end < gc->graph.n && end - v < RUN_MAX && stays(gc, end))
		end++;
	return end;
}

static int keep_known(struct gc *gc, uint64_t until_usec)
{
	struct gc_bulk *b = &gc->bulk;
	int r = 0;

	for (unsigned int i = 1; r == 0 && b->node < gc->graph.n; i++) {
		uint32_t end = end_of_run(gc, b->node);

		if (end > b->node)
			r = keep_run(gc, b->node, end);
		b->node = end > b->node ? end : end + 1;
		if (r == 0 && i % NODES_PER_LOOK == 0 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	return r;
}

static int keep(struct gc *gc, uint64_t until_usec)
{
	const struct graph *g = &gc->graph;
	const struct db_run news = { .low = g->id[g->n - 1] + 1, .high = INT64_MAX };
	struct gc_bulk *b = &gc->bulk;
	int r;

	if (b->emptied < DB_BULK_TABLES) {
		r = db_bulk_empty(b->rows, b->emptied++);
		return r < 0 ? r : GRAPH_MORE;
	}
	r = keep_known(gc, until_usec);
	if (r == 0)
		r = db_bulk_keep(b->rows, &news, on_reference, gc);
	if (r == 0)
		b->stage = BULK_RESTORE;
	return r;
}

static void rows_are_gone(struct gc *gc)
{
	const struct gc_order *o = &gc->order;

	for (size_t i = 0; i < o->n; i++) {
		if (fate_of(gc, o->v[i]) != FATE_GOES)
			continue;
		set_fate(gc, o->v[i], FATE_GONE);
		gc->progress.freed += gc->graph.nar_size[o->v[i]];
	}
	gc->bulk.stage = BULK_FILES;
}

/* Who has become live since his turn; when it is nobody, the commit. */
static int restore(struct gc *gc, uint64_t until_usec)
{
	bool any = false;
	int r = 0;

	for (uint32_t v = 0; r == 0 && v < gc->graph.n; v++) {
		if (fate_of(gc, v) != FATE_GOES || !gc->graph.live[v])
			continue;
		any = true;
		r = keep_run(gc, v, v + 1);
		if (r == 0 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	if (r < 0 || any)
		return r < 0 ? r : GRAPH_MORE;
	db_on_write(gc->core->db, NULL, NULL);
	r = db_bulk_commit(TAKE_PTR(gc->bulk.rows));
	if (r == 0)
		rows_are_gone(gc);
	return r;
}

/* ---- the files ---- */

static int throw_one(struct gc *gc, uint32_t v)
{
	set_fate(gc, v, FATE_DONE);
	return gc_throw(gc, v,
			gc->bulk.direct && gc->graph.nar_size[v] <= SMALL_FILE ? TRASH_SMALL
									       : TRASH_ANY);
}

static int throw_files(struct gc *gc, uint64_t until_usec)
{
	struct gc_order *o = &gc->order;
	int r = 0;

	while (r == 0 && gc->bulk.next < o->n) {
		uint32_t v = o->v[gc->bulk.next++];

		if (fate_of(gc, v) == FATE_GONE)
			r = throw_one(gc, v);
		if (r == 0 && gc->bulk.next % NODES_PER_LOOK == 0 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	o->next = o->n;
	if (r == 0)
		gc->bulk.stage = BULK_NOT;
	return r;
}

bool gc_has_files(const struct gc *gc)
{
	return gc->bulk.stage == BULK_FILES;
}

void gc_clear_way(struct core *core, const char *base)
{
	struct gc *gc = core->gc;
	uint32_t v;
	int r;

	if (!gc || !gc_has_files(gc))
		return;
	v = graph_find(&gc->graph, base);
	if (v == GRAPH_NONE || fate_of(gc, v) != FATE_GONE)
		return;
	r = throw_one(gc, v);
	if (r < 0)
		gc->pin_error = r;
}

/* ---- stage by stage ---- */

int gc_bulk_round(struct gc *gc, uint64_t until_usec, struct err *e)
{
	struct gc_bulk *b = &gc->bulk;
	int r = 0;

	switch (b->stage) {
	case BULK_ASK:
		r = ask(gc, e);
		return r < 0 ? r : GRAPH_MORE;
	case BULK_CHOOSE:
		(void)choose(gc, until_usec);
		return GRAPH_MORE;
	case BULK_BEGIN:
		r = begin(gc);
		b->stage = BULK_KEEP;
		break;
	case BULK_KEEP:
		r = keep(gc, until_usec);
		break;
	case BULK_RESTORE:
		r = restore(gc, until_usec);
		break;
	case BULK_FILES:
		r = throw_files(gc, until_usec);
		gc_tell_progress(gc, false);
		return r < 0 ? err_errno(e, r, "noting what was deleted") : r;
	default:
		return 0;
	}
	if (r < 0 || r == DB_BAD)
		rather_not(gc, r);
	return GRAPH_MORE;
}

void gc_bulk_done(struct gc *gc)
{
	give_up(gc, "it ends before its rows are gone");
	free(gc->bulk.fate);
	gc->bulk = (struct gc_bulk){};
	db_close(TAKE_PTR(gc->sweep_db));
}
