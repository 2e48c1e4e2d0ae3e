/* The store database: Nix's SQLite schema 10 (feature rows A1 to A10), nothing else.
 *
 * The core opens it for writing, sessions read-only. Store paths are base names on this side and
 * full paths in the tables. Every function: 0, negative errno, or the outcome named here. */
#pragma once

#include "base/arena.h"
#include "base/err.h"
#include "base/strv.h"
#include "path/path.h"

enum { DB_ABSENT = 1, DB_BAD = 2 };
enum db_mode { DB_READ, DB_WRITE };

struct db;

struct path_info {
	struct store_path path;
	uint8_t nar_hash[32]; /* sha256 */
	uint64_t nar_size;
	int64_t registration_time; /* seconds since the epoch */
	char *deriver;		   /* base name, or "" */
	bool ultimate;
	struct strv sigs;
	char *ca;	  /* or "" */
	struct strv refs; /* base names, sorted */
	uint64_t id;	  /* row id; filled by queries */
};

/* `db_dir` holds db.sqlite, schema and big-lock. DB_WRITE makes schema 10 in an empty directory
 * (created when missing), migrates schemas 6 to 9 as upstream does (alone on the lock, in one
 * transaction), refuses newer and older ones with upstream's sentence, and holds a shared lock on
 * big-lock as upstream does. `sync_full`: fsync-metadata's value. */
int db_open(const char *db_dir, enum db_mode mode, const char *store_dir, bool sync_metadata,
	    struct db **ret, struct err *e);
void db_close(struct db *db);
static inline void db_closep(struct db **db)
{
	if (*db)
		db_close(*db);
}

/* While the writer waits for a lock: who has it. `fn` may be called again and again, until it is
 * free, or the transaction is given up. */
typedef void (*db_blocked)(void *ctx, pid_t pid);
void db_on_blocked(struct db *db, db_blocked fn, void *ctx);

/* Before anything is written by way of `db`: another connection of this process may have to give
 * up its transaction. */
typedef void (*db_writes)(void *ctx);
void db_on_write(struct db *db, db_writes fn, void *ctx);

/* A read snapshot over several queries (cheaper: one lock). Optional. Nested calls are errors. */
int db_read_begin(struct db *db);
void db_read_end(struct db *db);

int db_path_valid(struct db *db, const struct store_path *p); /* 0 valid, DB_ABSENT */
int db_path_info(struct db *db, const struct store_path *p, struct arena *a, struct path_info *ret);
int db_referrers(struct db *db, const struct store_path *p, struct arena *a, struct strv *ret);
int db_valid_derivers(struct db *db, const struct store_path *p, struct arena *a, struct strv *ret);
/* Outputs recorded for a .drv: names and base names, in the same order. DB_ABSENT: drv not valid.
 */
int db_drv_outputs(struct db *db, const struct store_path *drv, struct arena *a,
		   struct strv *ret_names, struct strv *ret_paths);
/* The valid path whose digest begins with `prefix` (32 characters). DB_ABSENT. */
int db_path_from_digest(struct db *db, const char *prefix, struct store_path *ret);
int db_all_paths(struct db *db, struct arena *a, struct strv *ret);
/* Closure over references of `roots` (all must be valid: else DB_ABSENT with ret_missing), sorted.
 */
int db_closure(struct db *db, const struct strv *roots, struct arena *a, struct strv *ret,
	       struct store_path *ret_missing);
/* Rows with id above `id`, for the check after an unclean stop. */
int db_paths_above(struct db *db, uint64_t id, struct arena *a, struct strv *ret);
int db_max_id(struct db *db, uint64_t *ret);

/* Realisations: which path an output of a derivation turned out to be (feature row A4). The key is
 * the derivation's hash modulo, own outputs masked. */
struct realisation {
	uint8_t drv_hash[32]; /* sha256 */
	char *output;	      /* "out" */
	struct store_path path;
	struct strv sigs;
};
/* The tables are there: the feature ca-derivations is, or was, on. */
bool db_has_realisations(const struct db *db);
/* DB_ABSENT: not known, or its path is not valid any more, or there are no tables. */
int db_realisation(struct db *db, const uint8_t drv_hash[32], const char *output, struct arena *a,
		   struct realisation *ret);

/* Writing. Calls between begin and commit are one transaction; a failed register inside it is
 * undone alone (savepoint), the others stay. */
int db_begin(struct db *db);
int db_commit(struct db *db);
void db_rollback(struct db *db);

struct drv_row {
	char *output, *path; /* "out", base name */
};
/* Registers or (already valid) updates one path. All refs must be valid or be in the same
 * transaction: register in any order within one db_register_many. `rows` are the outputs of a .drv.
 */
struct registration {
	struct path_info info;
	struct {
		struct drv_row *v;
		size_t n;
	} outputs;
};
/* All or nothing. DB_BAD with a sentence: a reference that is not valid ("cannot register path
 * '…' because it requires the invalid path '…'"-like), or a cycle ("cycle detected in …"). */
int db_register_many(struct db *db, struct registration *v, size_t n, struct err *e);
/* The same between db_begin and db_commit without the savepoint, which costs as much as the rows:
 * after a negative result the whole transaction must be rolled back. */
int db_register_bare(struct db *db, struct registration *v, size_t n, struct err *e);
/* Makes the tables of realisations as upstream's migration of that name does, where missing. */
int db_realisations_create(struct db *db, struct err *e);
/* Adds one; signatures are merged into those of an equal one. Its path must be valid. DB_BAD with
 * upstream's sentence: another path is recorded for that output. */
int db_register_realisation(struct db *db, const struct realisation *r, struct err *e);
/* Bytes of signatures that a path may have, some hundred. What clients without trust add fills one
 * half: everybody who asks for the path is sent all of them, and there is to be room for good ones. */
enum { DB_SIGS_MAX = 64 * 1024, DB_SIGS_FOREIGN = DB_SIGS_MAX / 2 };
/* DB_ABSENT; -E2BIG when there would be more than `max` bytes. */
int db_add_sigs(struct db *db, const struct store_path *p, const struct strv *sigs, size_t max);
int db_invalidate(struct db *db, const struct store_path *p); /* -EBUSY when it has referrers */
int db_delete_id(struct db *db, uint64_t id);		      /* the same by row id */
/* A second connection of the writer's process, for deleting many rows: `db` goes on reading what was
 * committed. Nothing else may be done with it. */
int db_open_sweep(struct db *db, const char *db_dir, bool sync_metadata, struct db **ret,
		  struct err *e);
/* Rows by and by, on that connection: db_begin_delete, db_delete_runs, db_commit. A run is a range of
 * row ids, ends included, all of whose rows go. -EBUSY: a path that stays until then (of no run up
 * to this one) refers to one of them; the whole transaction must be rolled back then, as after any
 * other failure. */
struct db_run {
	uint64_t low, high;
};
int db_begin_delete(struct db *sweep);
int db_delete_runs(struct db *sweep, const struct db_run *runs, size_t n);

/* All at once, when less stays than goes (store/bulk.c): the tables are emptied, and what stays is
 * written anew, in one transaction of `sweep` that may be spread over many calls. Until its commit
 * everybody else, `db` too, reads what was there before, and nobody can write. */
struct db_bulk;
/* `n_rows`: as many paths are known up to row `max_id`. DB_BAD when this cannot be done here: that
 * number is another by now, or there are other tables that hang on paths. */
int db_bulk_begin(struct db *sweep, struct db *db, uint64_t max_id, uint64_t n_rows,
		  struct db_bulk **ret);
enum { DB_BULK_TABLES = 3 };
int db_bulk_empty(struct db_bulk *b, unsigned int table); /* once for each table, then copies */
/* The rows of a run stay: of the paths, of their references and outputs. `refers` is told each
 * reference's row id; it may not fail. */
int db_bulk_keep(struct db_bulk *b, const struct db_run *run,
		 void (*refers)(void *ctx, uint64_t id), void *ctx);
int db_bulk_commit(struct db_bulk *b); /* frees it, as the next does; nothing is changed on failure */
void db_bulk_abort(struct db_bulk *b); /* NULL is fine */
