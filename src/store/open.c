/* Opening the store database, and the statements everything else runs.
 *
 * The core opens it for writing; a session opens it read-only inside its jail, where nothing may
 * be created, forked or loaded: the file, its -wal and its -shm are all opened in db_open. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#include "base/buf.h"
#include "base/fd.h"

enum { BUSY_TIMEOUT_MSEC = 3 * 1000, RECOVERY_TRIES = 2000 };

static const char *const texts[DB_N_STMTS] = {
	[Q_INFO] = "select id, hash, registrationTime, deriver, narSize, ultimate, sigs, ca "
		   "from ValidPaths where path = ?",
	[Q_INFO_OF_ID] = "select id, hash, registrationTime, deriver, narSize, ultimate, sigs, ca "
			 "from ValidPaths where id = ?",
	[Q_ID] = "select id from ValidPaths where path = ?",
	[Q_DERIVERS] = "select v.path from DerivationOutputs d join ValidPaths v on d.drv = v.id "
		       "where d.path = ?",
	[Q_OUTPUTS] = "select id, path from DerivationOutputs where drv = ? order by id",
	/* A range over the index; `like` would read all of it. */
	[Q_DIGEST] = "select path from ValidPaths where path >= ? order by path limit 1",
	[Q_ALL] = "select path from ValidPaths order by path",
	[Q_ABOVE] = "select path from ValidPaths where id > ? order by id",
	[Q_MAX_ID] = "select max(id) from ValidPaths",
	[Q_REF_IDS] = "select reference from Refs where referrer = ?",
	[Q_PATH_OF_ID] = "select path from ValidPaths where id = ?",
	[Q_ID_REFERRERS] = "select referrer from Refs where reference = ?",
	/* Of this connection: another number when somebody else has committed. */
	[Q_DATA_VERSION] = "pragma data_version",
	[Q_REALISATION] = "select Realisations.id, Output.path, Realisations.signatures "
			  "from Realisations inner join ValidPaths as Output "
			  "on Output.id = Realisations.outputPath "
			  "where drvPath = ? and outputName = ?",
	/* What else depends on rows of ValidPaths: tables of a feature, or of another version. */
	[Q_FOREIGN] = "select 1 from sqlite_master where (type = 'table' and "
		      "sql like '%ValidPaths%' and "
		      "name not in ('ValidPaths', 'Refs', 'DerivationOutputs')) "
		      "or (type = 'trigger' and name <> 'DeleteSelfRefs') limit 1",
	[Q_RUN_REFERRED] = "select 1 from Refs where reference between ? and ? limit 1",
	[T_BEGIN_READ] = "begin",
	/* Immediate: a reader that turned writer could meet SQLITE_BUSY_SNAPSHOT, which no
	 * waiting cures. */
	[T_BEGIN_WRITE] = "begin immediate",
	[T_COMMIT] = "commit",
	[T_ROLLBACK] = "rollback",
	[T_SAVEPOINT] = "savepoint registration",
	[T_RELEASE] = "release registration",
	[T_UNDO] = "rollback to registration",
	[W_REGISTER] =
		"insert or ignore into ValidPaths (path, hash, registrationTime, deriver, narSize, "
		"ultimate, sigs, ca) values (?, ?, ?, ?, ?, ?, ?, ?)",
	[W_UPDATE] = "update ValidPaths set narSize = ?, hash = ?, ultimate = ?, sigs = ?, ca = ? "
		     "where id = ?",
	[W_ADD_REF] = "insert or ignore into Refs (referrer, reference) values (?, ?)",
	[W_ADD_OUTPUT] =
		"insert or replace into DerivationOutputs (drv, id, path) values (?, ?, ?)",
	[W_SIGS] = "update ValidPaths set sigs = ? where path = ?",
	[W_INVALIDATE] = "delete from ValidPaths where path = ?",
	[W_DELETE_ID] = "delete from ValidPaths where id = ?",
	[W_RUN_REFS] = "delete from Refs where referrer between ? and ?",
	[W_RUN_OUTPUTS] = "delete from DerivationOutputs where drv between ? and ?",
	[W_RUN_ROWS] = "delete from ValidPaths where id between ? and ?",
	[W_REALISE] = "insert into Realisations (drvPath, outputName, outputPath, signatures) "
		      "values (?, ?, (select id from ValidPaths where path = ?), ?)",
	[W_REALISE_SIGS] = "update Realisations set signatures = ? "
			   "where drvPath = ? and outputName = ?",
};

int db_errno(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_PROTOCOL:
		return -EAGAIN;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_SCHEMA:
		return -EUCLEAN;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_PERM:
	case SQLITE_AUTH:
		return -EACCES;
	case SQLITE_CANTOPEN:
		return -ENOENT;
	case SQLITE_TOOBIG:
		return -E2BIG;
	case SQLITE_CONSTRAINT:
		return -EEXIST;
	case SQLITE_MISUSE:
	case SQLITE_RANGE:
		return -EINVAL;
	default:
		return -EIO;
	}
}

/* A step, and where the machine has refused something, its own word for it. (SQLite keeps that word
 * for some failures, but not for those of a commit.) */
static int step(sqlite3_stmt *st, int *ret_err)
{
	int rc;

	errno = 0;
	rc = sqlite3_step(st);
	*ret_err = db_errno(rc);
	if (*ret_err < 0 && ((rc & 0xff) == SQLITE_IOERR || (rc & 0xff) == SQLITE_CANTOPEN))
		switch (errno) {
		case ENOSPC:
		case EDQUOT:
		case EROFS:
		case EMFILE:
		case ENFILE:
		case ENOMEM:
		case EACCES:
			*ret_err = -errno;
		}
	return rc;
}

sqlite3_stmt *db_stmt(struct db *db, enum db_stmt which, int *ret_err)
{
	if (!db->stmts[which]) {
		int rc = sqlite3_prepare_v3(db->sql, texts[which], -1, SQLITE_PREPARE_PERSISTENT,
					    &db->stmts[which], NULL);

		if (rc != SQLITE_OK) {
			/* The texts are right: it is the tables that are not what they were. */
			*ret_err = rc == SQLITE_ERROR ? -EUCLEAN : db_errno(rc);
			return NULL;
		}
	}
	return db->stmts[which];
}

int db_step(sqlite3_stmt *st)
{
	const struct timespec pause = { .tv_nsec = 1000 * 1000 };
	int r, rc = step(st, &r);

	/* A reader that meets the writer in the middle of an update of -shm may not mend it, and
	 * need not: the writer is done in a moment. Nothing was read yet, so it can be repeated. */
	for (int i = 0; rc == SQLITE_READONLY_RECOVERY && i < RECOVERY_TRIES; i++) {
		(void)sqlite3_reset(st);       /* repeats the error of the step */
		(void)nanosleep(&pause, NULL); /* shorter is fine */
		rc = step(st, &r);
	}
	return rc == SQLITE_ROW ? 1 : r;
}

int db_run(sqlite3_stmt *st)
{
	int r;

	(void)step(st, &r);
	(void)sqlite3_reset(st); /* repeats the error of the step */
	return r;
}

int db_exec(struct db *db, enum db_stmt which)
{
	int r = 0;
	sqlite3_stmt *st = db_stmt(db, which, &r);

	return st ? db_run(st) : r;
}

const char *db_base_of(const struct db *db, const char *full)
{
	const char *base;
	size_t len;

	if (!full || strncmp(full, db->prefix, db->prefix_len))
		return NULL;
	base = full + db->prefix_len;
	len = strlen(base);
	if (len < STORE_DIGEST_LEN + 2 || len > STORE_BASE_MAX || strchr(base, '/'))
		return NULL;
	return base[STORE_DIGEST_LEN] == '-' ? base : NULL;
}

int db_bind_path(struct db *db, sqlite3_stmt *st, int column, int slot, const char *base)
{
	size_t len = strnlen(base, STORE_BASE_MAX + 1);
	char *full = db->full[slot];

	if (len > STORE_BASE_MAX)
		return -EINVAL;
	memcpy(full + db->prefix_len, base, len + 1);
	return db_errno(sqlite3_bind_text(st, column, full, db->prefix_len + len, SQLITE_STATIC));
}

/* The file URI of <db_dir>/db.sqlite: what a URI gives a meaning to is escaped. */
static char *make_uri(const char *db_dir, enum db_mode mode)
{
	_cleanup_buf_ struct buf b = BUF_INIT(64 * 1024);
	int r = buf_append_str(&b, "file:");

	for (const char *p = db_dir; !r && *p; p++)
		if (strchr("%?#", *p))
			r = buf_printf(&b, "%%%02x", (unsigned char)*p);
		else
			r = buf_append_char(&b, *p);
	if (!r)
		r = buf_append_str(&b, "/db.sqlite");
	/* readonly_shm: without it SQLite makes or writes -shm even for a reader that may. */
	if (!r && mode == DB_READ)
		r = buf_append_str(&b, "?mode=ro&readonly_shm=1");
	return r ? NULL : buf_take_str(&b);
}

/* What every refusal of the library comes out as. */
static int fail(struct db *db, int rc, const char *db_dir, struct err *e)
{
	int code = rc == SQLITE_ERROR ? -EUCLEAN : db_errno(rc);
	const char *text = db->sql ? sqlite3_errmsg(db->sql) : sqlite3_errstr(rc);

	if (code == -EUCLEAN)
		return err_set(
			e, code,
			"the database '%s/db.sqlite' is damaged or not a Nix store database: %s. "
			"Stop the daemon, keep a copy of the directory, and put a backup back or "
			"mend it with 'sqlite3 db.sqlite .recover'",
			db_dir, text);
	if (code == -EAGAIN)
		return err_set(e, code, "SQLite database '%s/db.sqlite' is busy", db_dir);
	/* "unable to open database file" says nothing of a limit on open files, say. */
	if (db->sql && sqlite3_system_errno(db->sql) &&
	    sqlite3_system_errno(db->sql) != ENOENT &&
	    ((rc & 0xff) == SQLITE_CANTOPEN || (rc & 0xff) == SQLITE_IOERR))
		return err_errno(e, -sqlite3_system_errno(db->sql),
				 "cannot open SQLite database '%s/db.sqlite'", db_dir);
	if (code == -ENOENT && db->mode == DB_WRITE)
		return err_set(
			e, code,
			"cannot open SQLite database '%s/db.sqlite': %s ('%s/schema' is there: put "
			"the database back, or delete that as well to begin with an empty one)",
			db_dir, text, db_dir);
	return err_set(e, code, "cannot open SQLite database '%s/db.sqlite': %s", db_dir, text);
}

static int connection_limits(sqlite3 *sql)
{
	/* The file may have been put there by someone else: its schema is data, not code. */
	sqlite3_db_config(sql, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(sql, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	sqlite3_extended_result_codes(sql, 1);
	return sqlite3_busy_timeout(sql, BUSY_TIMEOUT_MSEC);
}

static int setup_writer(struct db *db, bool sync_metadata)
{
	int one = 1, rc;

	rc = sqlite3_exec(
		db->sql, sync_metadata ? "pragma synchronous = normal" : "pragma synchronous = off",
		NULL, NULL, NULL);
	/* The limit makes SQLite truncate the WAL when it is done with it; upstream's values. */
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db->sql,
				  "pragma main.journal_mode = wal;"
				  "pragma main.journal_size_limit = 1099511627776;"
				  "pragma wal_autocheckpoint = 40000;"
				  "pragma foreign_keys = on;"
				  "pragma secure_delete = off;"
				  "pragma cache_size = -65536;",
				  NULL, NULL, NULL);
	/* Readers without write permission need -wal and -shm to be there after we are gone. */
	if (rc == SQLITE_OK)
		rc = sqlite3_file_control(db->sql, NULL, SQLITE_FCNTL_PERSIST_WAL, &one);
	return rc;
}

/* The cache grows with use alone, and a session that falls idle closes the database. What has left
 * the log is read through a mapping: the page cache's own memory, once for all sessions. */
static int setup_reader(struct db *db)
{
	return sqlite3_exec(db->sql, "pragma cache_size = -8192; pragma mmap_size = 1073741824",
			    NULL, NULL, NULL);
}

/* Statements that name every table: a file that is no store database fails here, not later. */
static int check_tables(struct db *db)
{
	static const enum db_stmt probe[] = { Q_INFO, Q_REF_IDS, Q_DERIVERS };
	int r = 0;

	for (size_t i = 0; i < ELEMENTS(probe); i++)
		if (!db_stmt(db, probe[i], &r))
			return sqlite3_errcode(db->sql);
	return SQLITE_OK;
}

static int connect_db(struct db *db, const char *db_dir, bool sync_metadata, int schema,
		      struct err *e)
{
	const bool create = schema == 0;
	_cleanup_free_ char *uri = make_uri(db_dir, db->mode);
	int flags = SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
	int rc, r;

	if (!uri)
		return err_errno(e, -ENOMEM, "opening the database");
	flags |= db->mode == DB_READ ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
	if (create)
		flags |= SQLITE_OPEN_CREATE;
	rc = sqlite3_open_v2(uri, &db->sql, flags, NULL);
	if (rc == SQLITE_OK)
		rc = connection_limits(db->sql);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(db->sql, "pragma temp_store = memory", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = db->mode == DB_WRITE ? setup_writer(db, sync_metadata) : setup_reader(db);
	if (rc == SQLITE_OK && db->mode == DB_WRITE) {
		r = create ? db_schema_create(db->sql) : db_schema_migrate(db->sql, schema);
		if (r)
			return fail(db, sqlite3_extended_errcode(db->sql), db_dir, e);
	}
	if (rc == SQLITE_OK)
		rc = check_tables(db);
	return rc == SQLITE_OK ? 0 : fail(db, rc, db_dir, e);
}

static int set_store_dir(struct db *db, const char *store_dir)
{
	size_t room;

	if (asprintf(&db->prefix, "%s/", store_dir) < 0) {
		db->prefix = NULL;
		return -ENOMEM;
	}
	db->prefix_len = strlen(db->prefix);
	room = db->prefix_len + STORE_BASE_MAX + 1;
	for (size_t i = 0; i < ELEMENTS(db->full); i++) {
		db->full[i] = malloc(room);
		if (!db->full[i])
			return -ENOMEM;
		memcpy(db->full[i], db->prefix, db->prefix_len + 1);
	}
	return 0;
}

/* SQLite would make an empty -wal even for a reader, where the directory lets it. */
static int check_wal_files(int dir_fd, const char *db_dir, struct err *e)
{
	if (!faccessat(dir_fd, "db.sqlite-wal", F_OK, 0) &&
	    !faccessat(dir_fd, "db.sqlite-shm", F_OK, 0))
		return 0;
	return err_set(e, -ENOENT,
		       "the database in '%s' cannot be read before a daemon has opened it: "
		       "db.sqlite-wal and db.sqlite-shm are missing (if one is running, they were "
		       "deleted under it: restart it)",
		       db_dir);
}

static int open_all(struct db *db, const char *db_dir, bool sync_metadata, struct err *e)
{
	_cleanup_close_ int dir_fd = -1;
	int schema = 0, r;

	if (db->mode == DB_WRITE) {
		r = mkdir_p(db_dir, 0755);
		if (r < 0)
			return err_errno(e, r, "creating directory '%s'", db_dir);
	}
	dir_fd = open(db_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return err_errno(e, -errno, "opening the database directory '%s'", db_dir);
	r = schema_enter(db, db_dir, dir_fd, &schema, e);
	if (!r && db->mode == DB_READ)
		r = check_wal_files(dir_fd, db_dir, e);
	if (!r)
		r = connect_db(db, db_dir, sync_metadata, schema, e);
	if (!r && db->mode == DB_WRITE)
		r = schema_leave(db, db_dir, dir_fd, schema, e);
	return r;
}

int db_open(const char *db_dir, enum db_mode mode, const char *store_dir, bool sync_metadata,
	    struct db **ret, struct err *e)
{
	_cleanup_(db_closep) struct db *db = calloc(1, sizeof(*db));
	uint64_t id;
	int r;

	if (!db)
		return err_errno(e, -ENOMEM, "opening the database");
	db->mode = mode;
	db->lock_fd = db->shm_fd = -1;
	db->dir = strdup(db_dir);
	r = db->dir ? set_store_dir(db, store_dir) : -ENOMEM;
	if (r)
		return err_errno(e, r, "opening the database");
	r = open_all(db, db_dir, sync_metadata, e);
	if (r)
		return r;
	/* The first read opens -wal and -shm: a session does it before it seals itself. */
	if (db_max_id(db, &id) < 0)
		return fail(db, sqlite3_extended_errcode(db->sql), db_dir, e);
	db->realisations = db_schema_has(db->sql, "Realisations", "id");
	*ret = TAKE_PTR(db);
	return 0;
}

void db_close(struct db *db)
{
	if (!db)
		return;
	for (size_t i = 0; i < DB_N_STMTS; i++)
		sqlite3_finalize(db->stmts[i]);
	sqlite3_close(db->sql);
	db_names_done(db);
	close_fdp(&db->lock_fd);
	close_fdp(&db->shm_fd);
	free(db->dir);
	free(db->prefix);
	for (size_t i = 0; i < ELEMENTS(db->full); i++)
		free(db->full[i]);
	free(db);
}
