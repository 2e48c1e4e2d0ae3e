/* Inside of libdb: the connection, its prepared statements, and the few helpers all files share.
 * Not for other folders. */
#pragma once

#include <sqlite3.h>

#include "base/macro.h"
#include "store/db.h"

/* The second: of the tables of realisations, the last that had a number. */
enum { DB_SCHEMA_VERSION = 10, DB_CA_SCHEMA_VERSION = 3 };

/* One row per statement in open.c. */
enum db_stmt {
	Q_INFO,
	Q_INFO_OF_ID,
	Q_ID,
	Q_DERIVERS,
	Q_OUTPUTS,
	Q_DIGEST,
	Q_ALL,
	Q_ABOVE,
	Q_MAX_ID,
	Q_REF_IDS,
	Q_PATH_OF_ID,
	Q_ID_REFERRERS,
	Q_DATA_VERSION,
	Q_REALISATION,
	Q_FOREIGN,
	Q_RUN_REFERRED,
	T_BEGIN_READ,
	T_BEGIN_WRITE,
	T_COMMIT,
	T_ROLLBACK,
	T_SAVEPOINT,
	T_RELEASE,
	T_UNDO,
	W_REGISTER,
	W_UPDATE,
	W_ADD_REF,
	W_ADD_OUTPUT,
	W_SIGS,
	W_INVALIDATE,
	W_DELETE_ID,
	W_RUN_REFS,
	W_RUN_OUTPUTS,
	W_RUN_ROWS,
	W_REALISE,
	W_REALISE_SIGS,
	DB_N_STMTS,
};

struct names;

struct db {
	sqlite3 *sql;
	sqlite3_stmt *stmts[DB_N_STMTS]; /* prepared on first use, kept for ever */
	enum db_mode mode;
	int lock_fd;	   /* big-lock, shared; -1 for readers */
	int shm_fd;	   /* blocked.c's, -1 until there was a need */
	bool in_snapshot;  /* between db_read_begin and db_read_end */
	bool realisations; /* their tables are there */
	bool in_txn;	   /* between db_begin and db_commit */
	bool keys_off;	   /* of db_open_sweep: neither foreign keys nor triggers, for now */
	char *dir;	   /* where db.sqlite lies */
	char *prefix;	   /* store_dir "/" */
	size_t prefix_len; /* bytes */
	/* Two texts bound at the same time: prefix and base name. Each has room for both. */
	char *full[2];
	db_blocked blocked;
	void *blocked_ctx;
	uint64_t busy_since;
	db_writes writes; /* told before each transaction that writes */
	void *writes_ctx;
	/* names.c's: */
	struct names *names;
	uint64_t data_version;
	uint32_t names_state;
	bool names_current; /* the state was looked at in this snapshot */
};

/* version.c: which schema a directory has, and who may change it. schema_enter takes big-lock,
 * shared, or exclusive when the schema is to be made or migrated, and says the number it found (0:
 * none); it refuses what neither we nor stock Nix can use. schema_leave writes our number down and
 * gives others the lock's other half back. For DB_READ there is no lock. */
int schema_enter(struct db *db, const char *db_dir, int dir_fd, int *ret_schema, struct err *e);
int schema_leave(struct db *db, const char *db_dir, int dir_fd, int schema, struct err *e);
/* The number of the tables of realisations, in a file of its own up to Nix 2.19; 0: none. */
int schema_ca_read(const char *db_dir, int dir_fd, int *ret, struct err *e);
int schema_ca_write(const char *db_dir, int dir_fd, struct err *e);
/* big-lock, alone or as everybody has it. What it guards must be looked at after this. */
int schema_lock(struct db *db, bool alone, struct err *e);

/* schema.c: makes what schema 10 has, where missing. */
int db_schema_create(sqlite3 *sql);
/* From an older one to schema 10, in one transaction. Nothing to do at 10. */
int db_schema_migrate(sqlite3 *sql, int from);
bool db_schema_has(sqlite3 *sql, const char *table, const char *column);

/* The same for realisations, with the mark that upstream's migration leaves. Tables of the first
 * form (Nix 2.4, rows without an id) are brought to the present one. */
int db_schema_realisations(sqlite3 *sql);

/* open.c. A reset statement without bindings, or NULL with *ret_err set to a negative errno. */
sqlite3_stmt *db_stmt(struct db *db, enum db_stmt which, int *ret_err);
int db_errno(int rc); /* sqlite result code -> negative errno */
/* 1: a row, 0: done, negative errno (the statement is reset then). */
int db_step(sqlite3_stmt *st);
/* Runs a statement that yields no row, and resets it. */
int db_run(sqlite3_stmt *st);
/* A statement without parameters, from begin to end. */
int db_exec(struct db *db, enum db_stmt which);
/* The base name within a path of a row, or NULL when it is none of this store's. */
const char *db_base_of(const struct db *db, const char *full);
/* Binds the full path of `base` through slot 0 or 1; the text must stay until the reset. */
int db_bind_path(struct db *db, sqlite3_stmt *st, int column, int slot, const char *base);

static inline void db_resetp(sqlite3_stmt **st)
{
	if (*st)
		sqlite3_reset(*st);
}
/* Resets on the way out: a statement left in mid-row would pin a snapshot. */
#define _cleanup_reset_ _cleanup_(db_resetp)

/* query.c: the row id of a path, DB_ABSENT, or a negative errno. */
int db_id_of(struct db *db, const char *base, uint64_t *ret);

/* names.c: the base name of a row. DB_ABSENT; -EUCLEAN: it is none of this store's. */
int db_name_of(struct db *db, uint64_t id, struct arena *a, char **ret);
/* Those of several, added to a list; rows that are not there are left out. */
int db_names_of_all(struct db *db, const uint64_t *ids, size_t n, struct arena *a,
		    struct strv *ret);
/* The other way: the row of a path, where it is remembered; DB_ABSENT says nothing about the path.
 */
int db_names_find(struct db *db, const char *base, uint64_t *ret);
int db_names_keep(struct db *db, uint64_t id, const char *base);
void db_names_done(struct db *db);

/* The words of a text that is separated by spaces. */
int db_split_words(const char *s, struct arena *a, struct strv *ret);

/* blocked.c: `db` waits as `other` does, a connection of the same process to the same file. */
void db_wait_like(struct db *db, struct db *other);

/* delete.c: before a transaction of db_open_sweep's. Keys and triggers are off while nothing but
 * the tables of schema 10 hangs on paths. */
int db_choose_keys(struct db *db);

/* write.c: sorted, separated by spaces; NULL when there are none. -EINVAL for one with a space. */
int db_bind_sigs(sqlite3_stmt *st, int column, const struct strv *sigs);

/* cycle.c: looks for a cycle among the batch. `target[i]` lists n_targets[i] indexes that v[i]
 * refers to inside the batch. 0, 1 (with the two ends of the closing edge), -ENOMEM. */
struct db_edges {
	size_t *target, n;
};
int db_find_cycle(const struct db_edges *v, size_t n, size_t *ret_path, size_t *ret_parent);
