/* Rows and files. See gc.h, C5. Linked by airplantd.
 *
 * It looks at no file's contents and follows no link; what it takes away is renamed into the trash
 * by a name in the store's own directory. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/gc_int.h"
#include "core/path_lock.h"
#include "core/place.h"
#include "core/trash.h"

enum { BATCH_USEC = 4 * 1000, NAMES_PER_LOOK = 64, FOREIGN_TOLD_MAX = 10 };

/* ---- rounds over valid paths ---- */

/* The parent of a directory that moves is written into it, which takes its owner. */
static bool is_movable(const struct gc *gc, const struct stat *st)
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

static bool is_dead(const struct gc *gc, uint32_t v)
{
	return !gc->graph.live[v] && (!gc->order.wanted || gc->order.wanted[v]);
}

/* Dead, and its files can be moved away. */
static bool may_go(struct gc *gc, uint32_t v)
{
	struct stat st;

	if (!is_dead(gc, v))
		return false;
	if (fstatat(gc->core->store_fd, graph_name(&gc->graph, v), &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    is_movable(gc, &st))
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

		if (!may_go(gc, v))
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
	struct db *db = gc->core->db;
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
		if (is_dead(gc, gc->batch.v[i]))
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

/* The files of paths that are not valid any more. What cannot be moved is a leftover: the next add
 * of that path or the next collection tries again. */
static int throw_files(struct gc *gc, struct err *e)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < gc->batch.n; i++) {
		const char *name = graph_name(&gc->graph, gc->batch.v[i]);

		r = trash_put(gc->core, gc->core->store_fd, name);
		if (r < 0) {
			gc_note(gc, 1, "deleting '%s/%s': %s", gc->core->store_dir, name,
				strerror(-r));
			log_warn("deleting '%s/%s': %s", gc->core->store_dir, name, strerror(-r));
		}
		gc->progress.n_done++;
		r = gc_list(gc, name);
	}
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

int gc_sweep_round(struct gc *gc, uint64_t until_usec, struct err *e)
{
	uint64_t start = now_usec(), now;
	int r = 0;

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
			r = is_dead(gc, gc->order.v[i]) ? gc_list(gc, graph_name(g, gc->order.v[i]))
							: 0;
	return r < 0 ? err_errno(e, r, "listing paths") : 0;
}

/* ---- files without a row ---- */

/* Others may work in directories of this name, or build what the lock file is of. */
static bool is_locked(const struct gc *gc, const char *name)
{
	size_t n = strlen(name);

	if (strncmp(name, "tmp-", 4) != 0 && (n < 5 || strcmp(name + n - 5, ".lock") != 0))
		return false;
	return path_lock_is_held(gc->core->store_fd, name);
}

static int throw_unknown(struct gc *gc, const char *name, struct err *e)
{
	struct core *core = gc->core;
	struct stat st;
	int r;

	if (fstatat(core->store_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0; /* gone meanwhile */
	r = trash_put(core, core->store_fd, name);
	if (r < 0) {
		gc_note(gc, 1, "deleting '%s/%s': %s", core->store_dir, name, strerror(-r));
		return 0;
	}
	if (!S_ISDIR(st.st_mode))
		gc->progress.freed += (uint64_t)st.st_blocks * 512;
	gc->limit_reached = gc->progress.freed > gc->head->o.max_freed;
	gc->progress.n_done++;
	r = gc_list(gc, name);
	return r < 0 ? err_errno(e, r, "noting what was deleted") : 0;
}

static int look_at(struct gc *gc, const char *name, struct err *e)
{
	struct store_path path;
	bool is_path = store_path_parse_base(name, &path, NULL) == 0;

	/* Everything else with a dot in front is a name that nobody uses. */
	if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, ".links") ||
	    !strcmp(name, ".airplant"))
		return 0;
	if (is_path && graph_find(&gc->graph, name) != GRAPH_NONE)
		return 0; /* valid in the snapshot: it has had its turn */
	if (gc_has_digest(gc, name) || is_locked(gc, name))
		return 0;
	if (is_path) {
		int r = db_path_valid(gc->core->db, &path);

		if (r == 0)
			return 0;
		if (r < 0)
			return err_errno(e, r, "querying the database");
	}
	if (gc_deletes(gc))
		return throw_unknown(gc, name, e);
	return is_path && gc_list(gc, name) < 0 ? err_errno(e, -EIO, "noting what would be deleted")
						: 0;
}

static int open_store(struct gc *gc, struct err *e)
{
	int fd = openat(gc->core->store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	gc->dir = fd < 0 ? NULL : fdopendir(fd);
	if (gc->dir)
		return 0;
	if (fd >= 0)
		close(fd);
	return err_errno(e, -errno, "opening the store '%s'", gc->core->store_dir);
}

/* Those that were asked for and are no valid paths. */
static int wanted_names(struct gc *gc, struct err *e)
{
	const struct strv *paths = &gc->head->paths;
	int r = 0;

	for (size_t i = 0; r == 0 && i < paths->n && !gc->limit_reached; i++)
		r = look_at(gc, paths->v[i], e);
	return r;
}

int gc_unknown_round(struct gc *gc, uint64_t until_usec, struct err *e)
{
	struct dirent *de;
	int r = 0;

	if (gc->head->o.action == GC_RETURN_LIVE || gc->limit_reached)
		return 0;
	place_flush(gc->core->place); /* files come before their rows */
	if (!gc->head->o.whole_store)
		return wanted_names(gc, e);
	if (!gc->dir)
		r = open_store(gc, e);
	for (unsigned int i = 0; r == 0 && !gc->limit_reached;) {
		errno = 0;
		de = readdir(gc->dir);
		if (!de)
			return errno ? err_errno(e, -errno, "reading the store '%s'",
						 gc->core->store_dir)
				     : 0;
		r = look_at(gc, de->d_name, e);
		if (++i % NAMES_PER_LOOK == 0 && now_usec() >= until_usec) {
			gc_tell_progress(gc, false);
			return r == 0 ? GRAPH_MORE : r;
		}
	}
	return r;
}
