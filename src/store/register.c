/* Registration: the one place where paths become valid (feature row A10).
 *
 * A batch is checked whole (references, cycles) before the first row is written, so that a
 * refusal leaves no work to undo; the savepoint is for the machine's failures. */
#include "store/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* What the check finds out for one path of the batch. */
struct plan {
	uint64_t id;	   /* row id; 0 until inserted */
	uint64_t *ref_id;  /* per reference: its row id, or 0: then it is of the batch */
	size_t *ref_index; /* per reference: its index in the batch (when ref_id is 0) */
	struct db_edges edges;
};

struct batch {
	struct db *db;
	struct registration *v;
	size_t n;
	struct plan *plan;
	size_t *pool_index, *pool_edge; /* what the plans' arrays are cut from */
	uint64_t *pool_id;
	struct smap index; /* base name -> index + 1 */
};

static void batch_done(struct batch *b)
{
	free(b->plan);
	free(b->pool_index);
	free(b->pool_edge);
	free(b->pool_id);
	smap_done(&b->index);
}

static int batch_alloc(struct batch *b)
{
	size_t refs = 0, at = 0;

	for (size_t i = 0; i < b->n; i++)
		if (add_size(refs, b->v[i].info.refs.n, &refs))
			return -E2BIG;
	b->plan = calloc(b->n ? b->n : 1, sizeof(*b->plan));
	b->pool_id = calloc(refs ? refs : 1, sizeof(*b->pool_id));
	b->pool_index = calloc(refs ? refs : 1, sizeof(*b->pool_index));
	b->pool_edge = calloc(refs ? refs : 1, sizeof(*b->pool_edge));
	if (!b->plan || !b->pool_id || !b->pool_index || !b->pool_edge)
		return -ENOMEM;
	for (size_t i = 0; i < b->n; i++) {
		b->plan[i].ref_id = b->pool_id + at;
		b->plan[i].ref_index = b->pool_index + at;
		b->plan[i].edges.target = b->pool_edge + at;
		at += b->v[i].info.refs.n;
	}
	return 0;
}

/* A batch of one, by far the commonest, needs no map. */
static size_t batch_find(const struct batch *b, const char *base)
{
	if (b->n == 1)
		return strcmp(b->v[0].info.path.base, base) ? 0 : 1;
	return (size_t)(uintptr_t)smap_get(&b->index, base);
}

static int batch_map(struct batch *b, struct err *e)
{
	if (b->n == 1)
		return 0;
	for (size_t i = 0; i < b->n; i++) {
		const char *base = b->v[i].info.path.base;

		if (smap_has(&b->index, base))
			return err_set(e, DB_BAD, "path '%s%s' is registered twice at once",
				       b->db->prefix, base);
		if (smap_put(&b->index, base, (void *)(uintptr_t)(i + 1)) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int resolve_refs(struct batch *b, size_t i, struct err *e)
{
	const struct path_info *info = &b->v[i].info;
	struct plan *p = &b->plan[i];

	for (size_t k = 0; k < info->refs.n; k++) {
		size_t in_batch = batch_find(b, info->refs.v[k]);
		int r;

		if (in_batch) {
			p->ref_index[k] = in_batch - 1;
			p->edges.target[p->edges.n++] = in_batch - 1;
			continue;
		}
		r = db_id_of(b->db, info->refs.v[k], &p->ref_id[k]);
		if (r < 0)
			return r;
		if (r == DB_ABSENT)
			return err_set(e, DB_BAD,
				       "cannot register path '%s%s' because it requires the path "
				       "'%s%s', which is not valid",
				       b->db->prefix, info->path.base, b->db->prefix,
				       info->refs.v[k]);
	}
	return 0;
}

static int check_cycles(struct batch *b, struct err *e)
{
	_cleanup_free_ struct db_edges *edges = NULL;
	size_t path, parent;
	int r;

	if (b->n < 2)
		return 0;
	edges = reallocarray(NULL, b->n, sizeof(*edges));
	if (!edges)
		return -ENOMEM;
	for (size_t i = 0; i < b->n; i++)
		edges[i] = b->plan[i].edges;
	r = db_find_cycle(edges, b->n, &path, &parent);
	if (r <= 0)
		return r;
	return err_set(e, DB_BAD, "cycle detected in the references of '%s%s' from '%s%s'",
		       b->db->prefix, b->v[path].info.path.base, b->db->prefix,
		       b->v[parent].info.path.base);
}

static int check_batch(struct batch *b, struct err *e)
{
	int r = batch_map(b, e);

	for (size_t i = 0; !r && i < b->n; i++)
		r = resolve_refs(b, i, e);
	return r ? r : check_cycles(b, e);
}

/* Upstream's row: a size of 0, no signatures, no ca and not ultimate are NULL (2.34). */
static int bind_common(sqlite3_stmt *st, const struct path_info *info, int size, int hash,
		       int ultimate, int sigs, int ca, char hash_text[7 + 64 + 1])
{
	memcpy(hash_text, "sha256:", 7);
	base16_encode(info->nar_hash, 32, hash_text + 7);
	sqlite3_bind_text(st, hash, hash_text, 7 + 64, SQLITE_STATIC);
	if (info->nar_size > INT64_MAX)
		return -EINVAL;
	if (info->nar_size)
		sqlite3_bind_int64(st, size, info->nar_size);
	else
		sqlite3_bind_null(st, size);
	if (info->ultimate)
		sqlite3_bind_int64(st, ultimate, 1);
	else
		sqlite3_bind_null(st, ultimate);
	if (info->ca && *info->ca)
		sqlite3_bind_text(st, ca, info->ca, -1, SQLITE_STATIC);
	else
		sqlite3_bind_null(st, ca);
	return db_bind_sigs(st, sigs, &info->sigs);
}

/* DB_ABSENT: there is a row of that path already. */
static int insert_row(struct db *db, const struct path_info *info, uint64_t *ret_id)
{
	char hash_text[7 + 64 + 1];
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, W_REGISTER, &r);

	if (!st)
		return r;
	r = bind_common(st, info, 5, 2, 6, 7, 8, hash_text);
	if (!r)
		r = db_bind_path(db, st, 1, 0, info->path.base);
	sqlite3_bind_int64(st, 3, info->registration_time ? info->registration_time : time(NULL));
	if (!r && info->deriver && *info->deriver)
		r = db_bind_path(db, st, 4, 1, info->deriver);
	else
		sqlite3_bind_null(st, 4);
	if (!r)
		r = db_run(st);
	if (!r && !sqlite3_changes(db->sql))
		return DB_ABSENT;
	if (!r)
		*ret_id = sqlite3_last_insert_rowid(db->sql);
	return r;
}

/* Deriver and registration time stay, as upstream's updatePathInfo leaves them. */
static int update_row(struct db *db, const struct path_info *info, uint64_t id)
{
	char hash_text[7 + 64 + 1];
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, W_UPDATE, &r);

	if (!st)
		return r;
	r = bind_common(st, info, 1, 2, 3, 4, 5, hash_text);
	sqlite3_bind_int64(st, 6, id);
	return r ? r : db_run(st);
}

static int write_outputs(struct db *db, const struct registration *reg, uint64_t id)
{
	int r = 0;
	sqlite3_stmt *st = reg->outputs.n ? db_stmt(db, W_ADD_OUTPUT, &r) : NULL;

	for (size_t i = 0; !r && i < reg->outputs.n; i++) {
		const struct drv_row *row = &reg->outputs.v[i];

		sqlite3_bind_int64(st, 1, id);
		sqlite3_bind_text(st, 2, row->output, -1, SQLITE_STATIC);
		r = db_bind_path(db, st, 3, 0, row->path);
		if (!r)
			r = db_run(st);
	}
	return r;
}

static int write_row(struct batch *b, size_t i)
{
	const struct registration *reg = &b->v[i];
	uint64_t id = 0;
	int r = insert_row(b->db, &reg->info, &id);

	if (r == 0) {
		r = write_outputs(b->db, reg, id);
	} else if (r == DB_ABSENT) {
		r = db_id_of(b->db, reg->info.path.base, &id);
		if (r == DB_ABSENT)
			return -EIO;
		if (!r)
			r = update_row(b->db, &reg->info, id);
	}
	b->plan[i].id = id;
	return r;
}

static int write_refs(struct batch *b, size_t i)
{
	const struct plan *p = &b->plan[i];
	size_t n = b->v[i].info.refs.n;
	int r = 0;
	sqlite3_stmt *st = n ? db_stmt(b->db, W_ADD_REF, &r) : NULL;

	for (size_t k = 0; !r && k < n; k++) {
		uint64_t to = p->ref_id[k] ? p->ref_id[k] : b->plan[p->ref_index[k]].id;

		sqlite3_bind_int64(st, 1, p->id);
		sqlite3_bind_int64(st, 2, to);
		r = db_run(st);
	}
	return r;
}

static int write_batch(struct batch *b)
{
	int r = 0;

	for (size_t i = 0; !r && i < b->n; i++)
		r = write_row(b, i);
	for (size_t i = 0; !r && i < b->n; i++)
		r = write_refs(b, i);
	return r;
}

static int write_in_savepoint(struct batch *b)
{
	struct db *db = b->db;
	int r = db_exec(db, T_SAVEPOINT);

	if (r)
		return r;
	r = write_batch(b);
	if (!r)
		return db_exec(db, T_RELEASE);
	/* After the errors that end the transaction there is nothing left to undo, and db_commit
	 * will say so. */
	if (!sqlite3_get_autocommit(db->sql) && !db_exec(db, T_UNDO))
		(void)db_exec(db, T_RELEASE);
	return r;
}

/* `guarded`: what fails is undone alone. Without, the caller rolls the transaction back. */
static int check_and_write(struct batch *b, bool guarded, struct err *e)
{
	int r = batch_alloc(b);

	if (!r)
		r = check_batch(b, e);
	if (!r)
		r = guarded ? write_in_savepoint(b) : write_batch(b);
	if (r < 0)
		return err_errno(e, r, "registering '%s%s'%s", b->db->prefix,
				 b->n ? b->v[0].info.path.base : "", b->n > 1 ? " and others" : "");
	return r;
}

static int register_inside(struct db *db, struct registration *v, size_t n, bool guarded,
			   struct err *e)
{
	_cleanup_(batch_done) struct batch b = { .db = db, .v = v, .n = n };

	if (sqlite3_get_autocommit(db->sql))
		return err_set(e, -EIO, "the database transaction was ended by an earlier error");
	return check_and_write(&b, guarded, e);
}

int db_register_bare(struct db *db, struct registration *v, size_t n, struct err *e)
{
	return n ? register_inside(db, v, n, false, e) : 0;
}

int db_register_many(struct db *db, struct registration *v, size_t n, struct err *e)
{
	int r;

	if (!n)
		return 0;
	if (db->in_txn)
		return register_inside(db, v, n, true, e);
	r = db_begin(db);
	if (r)
		return err_errno(e, r, "beginning a database transaction");
	r = register_inside(db, v, n, false, e);
	if (r) {
		db_rollback(db);
		return r;
	}
	r = db_commit(db);
	return r ? err_errno(e, r, "committing to the database") : 0;
}
