/* Rows and files. See gc.h, C5. Linked by airplantd.
 *
 * It looks at no file's contents and follows no link; what it takes away is renamed into the trash
 * by a name in the store's own directory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/gc_int.h"
#include "core/place.h"
#include "core/trash.h"

enum { BATCH_USEC = 4 * 1000, FOREIGN_TOLD_MAX = 10 };

/* ---- rounds over valid paths ---- */

bool gc_is_movable(const struct gc *gc, const struct stat *st)
{
	return st->st_uid == gc->core->uid || (!S_ISDIR(st->st_mode) && gc->core->owns_store);
}

static void keep_foreign(struct gc *gc, uint32_t v, const struct stat *st)
{
	const char *name = graph_name(&gc->graph, v);

	gc_pin(gc->core, name);
	if (++gc->n_foreign > FOREIGN_TOLD_MAX)
		return;
	gc_note(gc, 1, "cannot delete '%s/%s': it belongs to uid %u, not to the daemon",
		gc->core->store_dir, name, (unsigned int)st->st_uid);
}

bool gc_is_dead(const struct gc *gc, uint32_t v)
{
	return !gc->graph.live[v] && (!gc->order.wanted || gc->order.wanted[v]);
}

bool gc_may_go(struct gc *gc, uint32_t v)
{
	struct stat st;

	if (!gc_is_dead(gc, v))
		return false;
	if (gc->scan.over && !smap_has(&gc->scan.foreign, graph_name(&gc->graph, v)))
		return true;
	if (fstatat(gc->core->store_fd, graph_name(&gc->graph, v), &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    gc_is_movable(gc, &st))
		return true;
	keep_foreign(gc, v, &st);
	return false;
}

/* ---- one batch: chosen, deleted as runs of row ids, committed ---- */

static void choose(struct gc *gc)
{
	struct gc_order *o = &gc->order;
	uint64_t freed = gc->progress.freed;

	gc->batch.n = 0;
	if (gc->limit_reached)
		return;
	while (o->next < o->n && gc->batch.n < gc->batch.size && freed <= gc->head->o.max_freed) {
		uint32_t v = o->v[o->next++];

		if (!gc_may_go(gc, v))
			continue;
		gc->batch.v[gc->batch.n++] = v;
		freed += gc->graph.nar_size[v];
	}
}

/* Neighbours in the snapshot are a run: what came since has higher ids than all of it. */
static size_t make_runs(const struct gc *gc, struct db_run runs[static GC_BATCH_MAX])
{
	size_t n = 0;

	for (size_t i = 0; i < gc->batch.n; i++) {
		uint32_t v = gc->batch.v[i];
		uint64_t id = gc->graph.id[v];

		if (i > 0 && gc->batch.v[i - 1] == v + 1)
			runs[n - 1].low = id;
		else
			runs[n++] = (struct db_run){ .low = id, .high = id };
	}
	return n;
}

static int delete_batch(struct gc *gc)
{
	struct db_run runs[GC_BATCH_MAX];
	struct db *db = gc->sweep_db;
	int r = db_begin_delete(db);

	if (r < 0)
		return r;
	r = db_delete_runs(db, runs, make_runs(gc, runs));
	if (r < 0) {
		db_rollback(db);
		return r;
	}
	return db_commit(db);
}

/* A row that is needed after all (by one that came since the snapshot and was not told to us)
 * stays, and its files with it. */
static int delete_row(struct gc *gc, uint32_t v)
{
	int r = db_delete_id(gc->core->db, gc->graph.id[v]);

	if (r == -EBUSY) {
		log_warn("'%s' is referred to by a path that is new: it stays",
			 graph_name(&gc->graph, v));
		gc_pin(gc->core, graph_name(&gc->graph, v));
		return 0;
	}
	if (r == 0)
		gc->batch.v[gc->batch.n++] = v;
	return r;
}

static int delete_one_by_one(struct gc *gc)
{
	struct db *db = gc->core->db;
	size_t n = gc->batch.n;
	int r = db_begin(db);

	if (r < 0)
		return r;
	gc->batch.n = 0;
	/* What a refused one refers to was pinned with it. */
	for (size_t i = 0; r == 0 && i < n; i++)
		if (gc_is_dead(gc, gc->batch.v[i]))
			r = delete_row(gc, gc->batch.v[i]);
	if (r < 0) {
		db_rollback(db);
		return r;
	}
	return db_commit(db);
}

static int delete_rows(struct gc *gc, struct err *e)
{
	int r;

	choose(gc);
	if (gc->batch.n == 0)
		return 0;
	r = delete_batch(gc);
	if (r == -EBUSY)
		r = delete_one_by_one(gc);
	if (r < 0)
		return err_errno(e, r, "deleting rows of the store database");
	for (size_t i = 0; i < gc->batch.n; i++)
		gc->progress.freed += gc->graph.nar_size[gc->batch.v[i]];
	gc->limit_reached = gc->progress.freed > gc->head->o.max_freed;
	return 0;
}

int gc_throw(struct gc *gc, uint32_t v, enum trash_hint hint)
{
	const char *name = graph_name(&gc->graph, v);
	int r = trash_put_known(gc->core, gc->core->store_fd, name, hint);

	if (r < 0) {
		gc_note(gc, 1, "deleting '%s/%s': %s", gc->core->store_dir, name, strerror(-r));
		log_warn("deleting '%s/%s': %s", gc->core->store_dir, name, strerror(-r));
	}
	gc->progress.n_done++;
	return gc_list(gc, name);
}

static int throw_files(struct gc *gc, struct err *e)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < gc->batch.n; i++)
		r = gc_throw(gc, gc->batch.v[i], TRASH_ANY);
	return r < 0 ? err_errno(e, r, "noting what was deleted") : 0;
}

/* A transaction has a price of its own, and cannot be left half way. */
static void adapt(struct gc *gc, uint64_t took_usec)
{
	if (took_usec > BATCH_USEC && gc->batch.size > 16)
		gc->batch.size /= 2;
	else if (took_usec < BATCH_USEC / 3 && gc->batch.size < GC_BATCH_MAX)
		gc->batch.size *= 2;
}

static int open_sweep(struct gc *gc, struct err *e)
{
	_cleanup_free_ char *dir = NULL;

	if (gc->sweep_db)
		return 0;
	if (asprintf(&dir, "%s/db", gc->core->state_dir) < 0) {
		dir = NULL;
		return err_errno(e, -ENOMEM, "collecting garbage");
	}
	return db_open_sweep(gc->core->db, dir, gc->core->settings.fsync_metadata, &gc->sweep_db,
			     e) == 0
		       ? 0
		       : -EIO;
}

int gc_sweep_round(struct gc *gc, uint64_t until_usec, struct err *e)
{
	uint64_t start = now_usec(), now;
	int r = gc->order.next < gc->order.n && !gc->limit_reached ? open_sweep(gc, e) : 0;

	if (r == 0)
		r = gc_bulk_round(gc, until_usec, e);
	if (r != 0)
		return r;

	if (gc->batch.size == 0)
		gc->batch.size = 64;
	do {
		/* What is added in this loop round must be on record: it may refer to anything. */
		place_flush(gc->core->place);
		r = delete_rows(gc, e);
		if (r == 0)
			r = throw_files(gc, e);
		if (r != 0)
			return r;
		if (gc->order.next == gc->order.n || gc->limit_reached)
			break;
		now = now_usec();
		adapt(gc, now - start);
		start = now;
	} while (now < until_usec);
	if (gc->order.next < gc->order.n && !gc->limit_reached) {
		gc_tell_progress(gc, false);
		return GRAPH_MORE;
	}
	gc_tell_progress(gc, true);
	return 0;
}

/* Nothing is deleted: the live or the dead, all at once. */
int gc_list_round(struct gc *gc, struct err *e)
{
	const struct graph *g = &gc->graph;
	int r = 0;

	if (gc->head->o.action == GC_RETURN_LIVE)
		for (uint32_t v = 0; r == 0 && v < g->n; v++)
			r = g->live[v] ? gc_list(gc, graph_name(g, v)) : 0;
	else
		for (size_t i = 0; r == 0 && i < gc->order.n; i++)
			r = gc_is_dead(gc, gc->order.v[i])
				    ? gc_list(gc, graph_name(g, gc->order.v[i]))
				    : 0;
	return r < 0 ? err_errno(e, r, "listing paths") : 0;
}
