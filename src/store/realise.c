/* Realisations: asked by the core and by sessions, written by the core alone. The tables are there
 * only when the feature ca-derivations was on once; without them nothing is known. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "store/internal.h"

enum { KEY_LEN = 7 + 64, ROW_MEMORY = 1 << 20 };

bool db_has_realisations(const struct db *db)
{
	return db->realisations;
}

/* Up to Nix 2.19 these tables had a number of their own, in a file; where it is there it is kept
 * right, for those who read it. */
static int make_tables(struct db *db, int dir_fd, struct err *e)
{
	int number, r = schema_ca_read(db->dir, dir_fd, &number, e);

	if (r)
		return r;
	r = db_schema_realisations(db->sql);
	if (r < 0)
		return err_errno(e, r, "making the tables of realisations in the store database");
	return number && number < DB_CA_SCHEMA_VERSION ? schema_ca_write(db->dir, dir_fd, e) : 0;
}

int db_realisations_create(struct db *db, struct err *e)
{
	_cleanup_close_ int dir_fd = open(db->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool old = db_schema_has(db->sql, "Realisations", "drvPath") &&
		   !db_schema_has(db->sql, "Realisations", "id");
	int r;

	if (dir_fd < 0)
		return err_errno(e, -errno, "opening the database directory '%s'", db->dir);
	r = old ? schema_lock(db, true, e) : 0;
	r = r ? r : make_tables(db, dir_fd, e);
	if (old && r == 0)
		r = schema_lock(db, false, e);
	if (r == 0)
		db->realisations = true;
	return r;
}

static void bind_key(sqlite3_stmt *st, int column, const uint8_t drv_hash[32], const char *output)
{
	char key[KEY_LEN + 1];

	memcpy(key, "sha256:", 7);
	base16_encode(drv_hash, 32, key + 7);
	sqlite3_bind_text(st, column, key, KEY_LEN, SQLITE_TRANSIENT);
	sqlite3_bind_text(st, column + 1, output, -1, SQLITE_STATIC);
}

int db_realisation(struct db *db, const uint8_t drv_hash[32], const char *output, struct arena *a,
		   struct realisation *ret)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = NULL;
	struct realisation found = {};
	const char *base;

	if (!db->realisations)
		return DB_ABSENT;
	st = db_stmt(db, Q_REALISATION, &r);
	if (!st)
		return r;
	bind_key(st, 1, drv_hash, output);
	r = db_step(st);
	if (r <= 0)
		return r ? r : DB_ABSENT;
	base = db_base_of(db, (const char *)sqlite3_column_text(st, 1));
	if (!base || store_path_parse_base(base, &found.path, NULL))
		return -EUCLEAN;
	memcpy(found.drv_hash, drv_hash, sizeof(found.drv_hash));
	found.output = arena_strdup(a, output);
	if (!found.output)
		return -ENOMEM;
	r = db_split_words((const char *)sqlite3_column_text(st, 2), a, &found.sigs);
	if (!r)
		*ret = found;
	return r;
}

/* Upstream writes an empty text where there is no signature. */
static int bind_sigs(sqlite3_stmt *st, int column, const struct strv *sigs)
{
	return sigs->n ? db_bind_sigs(st, column, sigs)
		       : db_errno(sqlite3_bind_text(st, column, "", 0, SQLITE_STATIC));
}

static int insert(struct db *db, const struct realisation *row)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, W_REALISE, &r);

	if (!st)
		return r;
	bind_key(st, 1, row->drv_hash, row->output);
	r = db_bind_path(db, st, 3, 0, row->path.base);
	if (!r)
		r = bind_sigs(st, 4, &row->sigs);
	return r ? r : db_run(st);
}

static int merge(struct db *db, const struct realisation *row, struct realisation *old,
		 struct arena *a)
{
	size_t had = old->sigs.n;
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = NULL;

	for (size_t i = 0; i < row->sigs.n; i++)
		if (!strv_has(&old->sigs, row->sigs.v[i]) &&
		    strv_add_arena(&old->sigs, a, row->sigs.v[i]) < 0)
			return -ENOMEM;
	if (old->sigs.n == had)
		return 0;
	st = db_stmt(db, W_REALISE_SIGS, &r);
	if (!st)
		return r;
	r = bind_sigs(st, 1, &old->sigs);
	bind_key(st, 2, row->drv_hash, row->output);
	return r ? r : db_run(st);
}

static int write_row(struct db *db, const struct realisation *row, struct arena *a, struct err *e)
{
	char hex[64 + 1];
	struct realisation old;
	int r = db_path_valid(db, &row->path);

	if (r == DB_ABSENT)
		return err_set(e, DB_BAD, "path '%s%s' is not valid", db->prefix, row->path.base);
	if (r == 0)
		r = db_realisation(db, row->drv_hash, row->output, a, &old);
	if (r == DB_ABSENT)
		return insert(db, row);
	if (r)
		return r;
	if (!strcmp(old.path.base, row->path.base))
		return merge(db, row, &old, a);
	base16_encode(row->drv_hash, 32, hex);
	return err_set(e, DB_BAD,
		       "Trying to register a realisation of 'sha256:%s!%s', but we already have "
		       "another one locally.\nLocal:  %s%s\nRemote: %s%s",
		       hex, row->output, db->prefix, old.path.base, db->prefix, row->path.base);
}

int db_register_realisation(struct db *db, const struct realisation *row, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(ROW_MEMORY);
	bool own = !db->in_txn;
	int r;

	if (!db->realisations)
		return err_set(e, -ENOENT, "the store database has no tables of realisations");
	r = own ? db_begin(db) : 0;
	if (r == 0) {
		r = write_row(db, row, &a, e);
		if (own && r == 0)
			r = db_commit(db);
		else if (own)
			db_rollback(db);
	}
	return r < 0 ? err_errno(e, r, "registering a realisation of '%s%s'", db->prefix,
				 row->path.base)
		     : r;
}
