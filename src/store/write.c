/* Transactions, signatures and invalidation. Linked by the core alone. */
#include "store/internal.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"

void db_on_write(struct db *db, db_writes fn, void *ctx)
{
	db->writes = fn;
	db->writes_ctx = ctx;
}

int db_begin(struct db *db)
{
	int r;

	if (db->mode != DB_WRITE)
		return -EROFS;
	if (db->in_txn || db->in_snapshot)
		return -EALREADY;
	if (db->writes)
		db->writes(db->writes_ctx);
	r = db_exec(db, T_BEGIN_WRITE);
	if (!r)
		db->in_txn = true;
	return r;
}

int db_commit(struct db *db)
{
	int r;

	if (!db->in_txn)
		return -EINVAL;
	/* SQLite ends a transaction by itself after some errors (disk full, for one): what was
	 * registered in it is gone, and the caller must hear of it. */
	if (sqlite3_get_autocommit(db->sql)) {
		db->in_txn = false;
		return -EIO;
	}
	r = db_exec(db, T_COMMIT);
	if (r)
		db_rollback(db);
	db->in_txn = false;
	return r;
}

void db_rollback(struct db *db)
{
	if (!db->in_txn)
		return;
	db->in_txn = false;
	if (!sqlite3_get_autocommit(db->sql))
		(void)db_exec(db, T_ROLLBACK); /* can fail only when already rolled back */
}

int db_bind_sigs(sqlite3_stmt *st, int column, const struct strv *sigs)
{
	_cleanup_buf_ struct buf b = BUF_INIT(DB_SIGS_MAX);
	_cleanup_free_ char **sorted = NULL;
	struct strv list;
	int r = 0;

	if (!sigs->n)
		return db_errno(sqlite3_bind_null(st, column));
	sorted = reallocarray(NULL, sigs->n, sizeof(*sorted));
	if (!sorted)
		return -ENOMEM;
	memcpy(sorted, sigs->v, sigs->n * sizeof(*sorted));
	list = (struct strv){ .v = sorted, .n = sigs->n };
	strv_sort_uniq(&list, false);
	for (size_t i = 0; !r && i < list.n; i++) {
		/* The separator inside a signature would make two of it. */
		if (!*list.v[i] || strpbrk(list.v[i], " \t\n"))
			return -EINVAL;
		if (i)
			r = buf_append_char(&b, ' ');
		if (!r)
			r = buf_append_str(&b, list.v[i]);
	}
	if (r)
		return r;
	return db_errno(sqlite3_bind_text(st, column, (char *)b.data, b.len, SQLITE_TRANSIENT));
}

static int write_sigs(struct db *db, const struct store_path *p, const struct strv *sigs)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, W_SIGS, &r);

	if (!st)
		return r;
	r = db_bind_sigs(st, 1, sigs);
	if (!r)
		r = db_bind_path(db, st, 2, 0, p->base);
	return r ? r : db_run(st);
}

static size_t text_size(const struct strv *sigs)
{
	size_t size = 0;

	for (size_t i = 0; i < sigs->n; i++)
		size += strlen(sigs->v[i]) + 1;
	return size;
}

static int merge_sigs(struct db *db, const struct store_path *p, const struct strv *sigs,
		      size_t max)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(16 * 1024 * 1024);
	struct path_info info;
	size_t had;
	int r = db_path_info(db, p, &a, &info);

	if (r)
		return r;
	strv_sort_uniq(&info.sigs, false);
	had = info.sigs.n;
	/* Before anything that takes time: there may be millions. */
	if (text_size(sigs) > max)
		return -E2BIG;
	for (size_t i = 0; i < sigs->n; i++)
		if (strv_add_arena(&info.sigs, &a, sigs->v[i]) < 0)
			return -ENOMEM;
	strv_sort_uniq(&info.sigs, false);
	if (info.sigs.n == had)
		return 0;
	return text_size(&info.sigs) > max ? -E2BIG : write_sigs(db, p, &info.sigs);
}

int db_add_sigs(struct db *db, const struct store_path *p, const struct strv *sigs, size_t max)
{
	/* Read and write in one transaction: another process may add one meanwhile. */
	bool own = !db->in_txn;
	int r = own ? db_begin(db) : 0;

	if (r)
		return r;
	r = merge_sigs(db, p, sigs, max);
	if (!own)
		return r;
	if (!r)
		return db_commit(db);
	db_rollback(db);
	return r;
}

int db_delete_id(struct db *db, uint64_t id)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, W_DELETE_ID, &r);

	if (!st)
		return r;
	sqlite3_bind_int64(st, 1, (sqlite3_int64)id);
	r = db_run(st);
	return r == -EEXIST ? -EBUSY : r;
}

int db_invalidate(struct db *db, const struct store_path *p)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, W_INVALIDATE, &r);

	if (!st)
		return r;
	if (db->writes && !db->in_txn)
		db->writes(db->writes_ctx);
	r = db_bind_path(db, st, 1, 0, p->base);
	if (!r)
		r = db_run(st);
	/* The only constraint a delete can break is "on delete restrict" of Refs.reference. */
	return r == -EEXIST ? -EBUSY : r;
}
