/* Deleting most of the rows at once, for the garbage collector. Linked by the core alone.
 *
 * Emptying a table frees its pages without looking at a row, and writes hardly anything; what stays
 * is written anew. That costs as much as what stays, where deleting a row costs several lookups in
 * indexes. All of it is one transaction, on a connection without foreign keys and triggers: what
 * the keys would say, the caller knows of each reference that stays (`refers`). */
#include <errno.h>

#include "store/internal.h"

struct bulk_table {
	const char *empty, *read, *write;
	int n_columns;
};

static const struct bulk_table tables[DB_BULK_TABLES] = {
	{ "delete from Refs", "select * from Refs where referrer between ? and ?",
	  "insert into Refs values (?, ?)", 2 },
	{ "delete from DerivationOutputs",
	  "select * from DerivationOutputs where drv between ? and ?",
	  "insert into DerivationOutputs values (?, ?, ?)", 3 },
	{ "delete from ValidPaths", "select * from ValidPaths where id between ? and ?",
	  "insert into ValidPaths values (?, ?, ?, ?, ?, ?, ?, ?, ?)", 9 },
};

struct db_bulk {
	struct db *sweep, *db;
	struct {
		sqlite3_stmt *read, *write;
	} table[DB_BULK_TABLES];
};

static void bulk_free(struct db_bulk *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < ELEMENTS(b->table); i++) {
		sqlite3_finalize(b->table[i].read);
		sqlite3_finalize(b->table[i].write);
	}
	free(b);
}

void db_bulk_abort(struct db_bulk *b)
{
	if (b)
		db_rollback(b->sweep);
	bulk_free(b);
}

int db_bulk_commit(struct db_bulk *b)
{
	int r = db_commit(b->sweep);

	bulk_free(b);
	return r;
}

/* Written from what is read, column by column. Tables with others than schema 10's are not known
 * well enough. */
static int prepare(struct db_bulk *b, size_t i)
{
	const struct bulk_table *t = &tables[i];
	int rc = sqlite3_prepare_v2(b->db->sql, t->read, -1, &b->table[i].read, NULL);

	if (rc != SQLITE_OK)
		return db_errno(rc);
	if (sqlite3_column_count(b->table[i].read) != t->n_columns)
		return DB_BAD;
	rc = sqlite3_prepare_v2(b->sweep->sql, t->write, -1, &b->table[i].write, NULL);
	return db_errno(rc);
}

static int number(struct db *db, const char *query, uint64_t arg, uint64_t *ret)
{
	sqlite3_stmt *st = NULL;
	int r = db_errno(sqlite3_prepare_v2(db->sql, query, -1, &st, NULL));

	if (r == 0) {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)arg); /* it may have none */
		r = db_step(st);
	}
	if (r == 1)
		*ret = (uint64_t)sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	return r == 1 ? 0 : r < 0 ? r : -EBADMSG;
}

/* Row ids are never given twice, so with the number the rows are known. Counting all is a walk over
 * pages, counting some one over rows: those above are few. */
static int check_rows(struct db *sweep, uint64_t max_id, uint64_t n_rows)
{
	uint64_t all = 0, above = 0;
	int r = number(sweep, "select count(*) from ValidPaths", 0, &all);

	if (r == 0)
		r = number(sweep, "select count(*) from ValidPaths where id > ?", max_id, &above);
	return r < 0 ? r : all - above == n_rows ? 0 : DB_BAD;
}

int db_bulk_begin(struct db *sweep, struct db *db, uint64_t max_id, uint64_t n_rows,
		  struct db_bulk **ret)
{
	struct db_bulk *b;
	int r = db_begin_delete(sweep);

	if (r < 0)
		return r;
	b = calloc(1, sizeof(*b));
	if (!b) {
		db_rollback(sweep);
		return -ENOMEM;
	}
	b->sweep = sweep;
	b->db = db;
	r = sweep->keys_off ? check_rows(sweep, max_id, n_rows) : DB_BAD;
	for (size_t i = 0; r == 0 && i < ELEMENTS(tables); i++)
		r = prepare(b, i);
	if (r != 0) {
		db_bulk_abort(b);
		return r;
	}
	*ret = b;
	return 0;
}

int db_bulk_empty(struct db_bulk *b, unsigned int table)
{
	return db_errno(sqlite3_exec(b->sweep->sql, tables[table].empty, NULL, NULL, NULL));
}

static int copy_row(sqlite3_stmt *from, sqlite3_stmt *to, int n_columns)
{
	for (int i = 0; i < n_columns; i++) {
		int rc = sqlite3_bind_value(to, i + 1, sqlite3_column_value(from, i));

		if (rc != SQLITE_OK)
			return db_errno(rc);
	}
	return db_run(to);
}

int db_bulk_keep(struct db_bulk *b, const struct db_run *run,
		 void (*refers)(void *ctx, uint64_t id), void *ctx)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTS(tables); i++) {
		_cleanup_reset_ sqlite3_stmt *st = b->table[i].read;

		sqlite3_bind_int64(st, 1, (sqlite3_int64)run->low);
		sqlite3_bind_int64(st, 2, (sqlite3_int64)run->high);
		while ((r = db_step(st)) == 1) {
			r = copy_row(st, b->table[i].write, tables[i].n_columns);
			if (r < 0)
				break;
			if (i == 0)
				refers(ctx, (uint64_t)sqlite3_column_int64(st, 1));
		}
	}
	return r;
}
