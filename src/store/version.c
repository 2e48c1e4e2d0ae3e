/* The number of the schema, and the lock that whoever changes it holds. Linked by libdb.
 *
 * Upstream's rules: everybody who has the store open holds a shared flock(2) on big-lock, and who
 * changes the schema holds it alone. The number lies in a file beside the database; it is written
 * when the change has been committed, so whoever finds an old number may find new tables. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#include "base/fd.h"

enum { LOCK_TRIES = 600, LOCK_WAIT_MSEC = 100 };

/* The oldest that Nix 2.34 migrates. */
enum { OLDEST = 6, OLDEST_FLAT = 5 };

static int read_number(const char *db_dir, int dir_fd, const char *name, int *ret, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	char *end;
	long n;
	int r;

	r = read_file_at(dir_fd, name, 64, &text, NULL);
	if (r == -ENOENT) {
		*ret = 0;
		return 0;
	}
	if (r < 0 && r != -EFBIG)
		return err_errno(e, r, "reading '%s/%s'", db_dir, name);
	n = r ? 0 : strtol(text, &end, 10);
	if (r || end == text || end[strspn(end, "\n")] || n < 1 || n > 100000)
		return err_set(e, -EUCLEAN, "'%s/%s' is corrupt", db_dir, name);
	*ret = (int)n;
	return 0;
}

/* Written whole or not at all: an empty file would lock the stock tools out too. */
static int write_number(const char *db_dir, int dir_fd, const char *name, int number, struct err *e)
{
	static const char tmp[] = ".schema.new";
	_cleanup_close_ int fd = -1;
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", number), r;

	fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_errno(e, -errno, "creating '%s/%s'", db_dir, name);
	r = write_full(fd, text, (size_t)len);
	if (!r && (fsync(fd) || renameat(dir_fd, tmp, dir_fd, name) || fsync(dir_fd)))
		r = -errno;
	return r ? err_errno(e, r, "writing '%s/%s'", db_dir, name) : 0;
}

static int check_schema(int schema, enum db_mode mode, const char *db_dir, struct err *e)
{
	if (schema > DB_SCHEMA_VERSION)
		return err_set(e, -EPROTONOSUPPORT,
			       "current Nix store schema is version %d, but I only support %d",
			       schema, DB_SCHEMA_VERSION);
	if (mode == DB_READ && schema < DB_SCHEMA_VERSION)
		return err_set(e, schema ? -EPROTONOSUPPORT : -ENOENT, "the store in '%s': %s",
			       db_dir,
			       schema ? "database schema needs migrating, but this cannot be done "
					"in read-only mode"
				      : "database does not exist, and cannot be created in "
					"read-only mode");
	if (schema && schema < OLDEST)
		return err_set(e, -EPROTONOSUPPORT,
			       "Your Nix store has a database in %s format,\n"
			       "which is no longer supported. To convert to the new format,\n"
			       "please upgrade Nix to version %s first.",
			       schema < OLDEST_FLAT ? "Berkeley DB" : "flat file",
			       schema < OLDEST_FLAT ? "0.12" : "1.11");
	return 0;
}

/* Those who wait for more than they hold would wait for each other: so it is given up first, and
 * what is guarded has to be looked at again afterwards. */
static int lock(struct db *db, int how, const char *db_dir, struct err *e)
{
	const struct timespec pause = { .tv_nsec = LOCK_WAIT_MSEC * 1000 * 1000 };

	if (how == LOCK_EX)
		(void)flock(db->lock_fd, LOCK_UN); /* the next one tells */
	for (int i = 0; flock(db->lock_fd, how | LOCK_NB); i++) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return err_errno(e, -errno, "acquiring/releasing lock '%s/big-lock'",
					 db_dir);
		if (i == LOCK_TRIES)
			return err_set(e, -EAGAIN,
				       how == LOCK_SH
					       ? "another process holds '%s/big-lock' exclusively: "
						 "a schema migration is under way"
					       : "other processes hold '%s/big-lock': the database "
						 "cannot be migrated while they use the store",
				       db_dir);
		(void)nanosleep(&pause, NULL); /* shorter is fine */
	}
	return 0;
}

static int open_lock(struct db *db, const char *db_dir, int dir_fd, struct err *e)
{
	db->lock_fd = openat(dir_fd, "big-lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (db->lock_fd >= 0)
		return 0;
	if (errno == EACCES)
		return err_set(
			e, -EACCES,
			"lock file '%s/big-lock' belongs to another user: as root, 'airplant "
			"switch --to airplant' gives the store to the daemon",
			db_dir);
	return err_errno(e, -errno, "opening lock file '%s/big-lock'", db_dir);
}

static int look(struct db *db, const char *db_dir, int dir_fd, int *ret, struct err *e)
{
	int r = read_number(db_dir, dir_fd, "schema", ret, e);

	return r ? r : check_schema(*ret, db->mode, db_dir, e);
}

int schema_enter(struct db *db, const char *db_dir, int dir_fd, int *ret_schema, struct err *e)
{
	int r;

	if (db->mode == DB_READ)
		return look(db, db_dir, dir_fd, ret_schema, e);
	r = open_lock(db, db_dir, dir_fd, e);
	r = r ? r : lock(db, LOCK_SH, db_dir, e);
	r = r ? r : look(db, db_dir, dir_fd, ret_schema, e);
	if (r || *ret_schema == DB_SCHEMA_VERSION)
		return r;
	r = lock(db, LOCK_EX, db_dir, e);
	return r ? r : look(db, db_dir, dir_fd, ret_schema, e);
}

int schema_leave(struct db *db, const char *db_dir, int dir_fd, int schema, struct err *e)
{
	int r = 0;

	if (schema < DB_SCHEMA_VERSION)
		r = write_number(db_dir, dir_fd, "schema", DB_SCHEMA_VERSION, e);
	return r ? r : lock(db, LOCK_SH, db_dir, e);
}

int schema_ca_read(const char *db_dir, int dir_fd, int *ret, struct err *e)
{
	int r = read_number(db_dir, dir_fd, "ca-schema", ret, e);

	if (r == 0 && *ret > DB_CA_SCHEMA_VERSION)
		return err_set(e, -EPROTONOSUPPORT,
			       "current Nix store ca-schema is version %d, but I only support %d",
			       *ret, DB_CA_SCHEMA_VERSION);
	return r;
}

int schema_ca_write(const char *db_dir, int dir_fd, struct err *e)
{
	return write_number(db_dir, dir_fd, "ca-schema", DB_CA_SCHEMA_VERSION, e);
}

int schema_lock(struct db *db, bool alone, struct err *e)
{
	return lock(db, alone ? LOCK_EX : LOCK_SH, db->dir, e);
}
