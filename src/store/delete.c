/* Deleting many rows at once, for the garbage collector. Linked by the core alone.
 *
 * A row costs several times more when it is deleted by itself: SQLite runs a program for each
 * foreign key and looks each index up anew. So runs of row ids are deleted table by table, and
 * while nothing but the two tables of schema 10 refers to paths, the keys' work is done here, once
 * for a run. */
#include <errno.h>
#include <string.h>

#include "store/internal.h"

int db_open_sweep(struct db *db, const char *db_dir, bool sync_metadata, struct db **ret,
		  struct err *e)
{
	_cleanup_(db_closep) struct db *sweep = NULL;
	_cleanup_free_ char *store_dir = strndup(db->prefix, db->prefix_len - 1);
	int r;

	if (!store_dir)
		return err_errno(e, -ENOMEM, "opening the database");
	r = db_open(db_dir, DB_WRITE, store_dir, sync_metadata, &sweep, e);
	if (r != 0)
		return r;
	/* Pages are met once, in the order of the file nearly: the page cache is enough. */
	r = db_errno(sqlite3_exec(sweep->sql,
				  "pragma cache_size = -16384; pragma mmap_size = 1073741824", NULL,
				  NULL, NULL));
	if (r < 0)
		return err_errno(e, r, "opening the database");
	db_wait_like(sweep, db);
	*ret = TAKE_PTR(sweep);
	return 0;
}

static int set_keys(struct db *db, bool off)
{
	/* Within a transaction it would do nothing. */
	int rc = sqlite3_exec(db->sql,
			      off ? "pragma foreign_keys = off" : "pragma foreign_keys = on", NULL,
			      NULL, NULL);

	/* DeleteSelfRefs: a lookup for each row, for what a run has deleted already. */
	if (rc == SQLITE_OK)
		rc = sqlite3_db_config(db->sql, SQLITE_DBCONFIG_ENABLE_TRIGGER, !off, NULL);
	if (rc == SQLITE_OK)
		db->keys_off = off;
	return db_errno(rc);
}

int db_choose_keys(struct db *db)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_FOREIGN, &r);

	if (!st)
		return r;
	r = db_step(st);
	if (r < 0)
		return r;
	sqlite3_reset(st);
	/* Changing it makes all statements be prepared anew. */
	return (r == 0) == db->keys_off ? 0 : set_keys(db, r == 0);
}

int db_begin_delete(struct db *sweep)
{
	int r = sweep->in_txn ? -EALREADY : db_choose_keys(sweep);

	return r < 0 ? r : db_begin(sweep);
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

int db_delete_runs(struct db *sweep, const struct db_run *runs, size_t n)
{
	static const enum db_stmt order[] = { W_RUN_REFS, W_RUN_OUTPUTS, Q_RUN_REFERRED,
					      W_RUN_ROWS };
	int r = sweep->in_txn ? 0 : -EINVAL;

	for (size_t i = 0; r == 0 && i < n; i++)
		for (size_t k = 0; r == 0 && k < ELEMENTS(order); k++)
			r = step_run(sweep, order[k], &runs[i]);
	/* A row: something else refers to one of them. */
	return r == 1 || r == -EEXIST ? -EBUSY : r;
}
