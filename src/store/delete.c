/* Deleting many rows at once, for the garbage collector. Linked by the core alone.
 *
 * A row costs several times more when it is deleted by itself: SQLite runs a program for each
 * foreign key and looks each index up anew. So runs of row ids are deleted table by table, and
 * while nothing but the two tables of schema 10 refers to paths, the keys' work is done here, once
 * for a run. */
#include <errno.h>

#include "store/internal.h"

int db_begin_delete(struct db *db)
{
	int r = 0, foreign;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_FOREIGN, &r);

	if (!st)
		return r;
	if (db->in_txn || db->in_snapshot)
		return -EALREADY;
	foreign = db_step(st);
	if (foreign < 0)
		return foreign;
	sqlite3_reset(st);
	if (foreign == 0) {
		/* Within a transaction it would do nothing. */
		r = db_errno(sqlite3_exec(db->sql, "pragma foreign_keys = off", NULL, NULL, NULL));
		if (r < 0)
			return r;
		db->keys_off = true;
	}
	r = db_begin_bare(db);
	if (r < 0)
		(void)db_keys_on(db); /* db_begin tries again */
	return r;
}

int db_keys_on(struct db *db)
{
	int rc = db->keys_off ? sqlite3_exec(db->sql, "pragma foreign_keys = on", NULL, NULL, NULL)
			      : SQLITE_OK;

	if (rc == SQLITE_OK)
		db->keys_off = false;
	return db_errno(rc);
}

static int step_run(struct db *db, enum db_stmt which, const struct db_run *run)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, which, &r);

	if (!st)
		return r;
	sqlite3_bind_int64(st, 1, (sqlite3_int64)run->low);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)run->high);
	return db_step(st);
}

int db_delete_runs(struct db *db, const struct db_run *runs, size_t n)
{
	static const enum db_stmt order[] = { W_RUN_REFS, W_RUN_OUTPUTS, Q_RUN_REFERRED,
					      W_RUN_ROWS };
	int r = db->in_txn ? 0 : -EINVAL;

	for (size_t i = 0; r == 0 && i < n; i++)
		for (size_t k = 0; r == 0 && k < ELEMENTS(order); k++)
			r = step_run(db, order[k], &runs[i]);
	/* A row: something else refers to one of them. */
	return r == 1 || r == -EEXIST ? -EBUSY : r;
}
