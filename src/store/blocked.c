/* A writer that finds the database locked waits, and finds out who is in its way. Linked by the
 * core.
 *
 * Readers hold locks of the same file, and the kernel does not ask what for: one that was taken
 * over can hold the writer's. Ours never do for longer than a moment. */
#include "store/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

enum {
	WAIT_USEC = 3 * 1000 * 1000, /* for a stock tool's transaction, say */
	PATIENCE_USEC = 150 * 1000,  /* then it is somebody's intention */
	/* Bytes of the WAL-index that stand for the locks of the writer, of checkpoints and of
	 * recovery: a file format, which does not change. */
	WAL_LOCKS = 120,
	WAL_N_LOCKS = 3,
};

/* It stays open until the connection is closed: closing any descriptor of a file gives up all the
 * locks that this process has on it. */
static int shm_fd(struct db *db)
{
	_cleanup_free_ char *path = NULL;

	if (db->shm_fd >= 0)
		return db->shm_fd;
	if (asprintf(&path, "%s-shm", sqlite3_db_filename(db->sql, "main")) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	db->shm_fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	return db->shm_fd;
}

static void tell_who(struct db *db)
{
	struct flock l = { .l_type = F_WRLCK, .l_start = WAL_LOCKS, .l_len = WAL_N_LOCKS };
	int fd = shm_fd(db);

	if (fd >= 0 && fcntl(fd, F_GETLK, &l) == 0 && l.l_type != F_UNLCK && l.l_pid > 0)
		db->blocked(db->blocked_ctx, l.l_pid);
}

static int on_busy(void *ctx, int n)
{
	const struct timespec pause = { .tv_nsec = 1000 * 1000 };
	struct db *db = ctx;
	uint64_t waited;

	if (n == 0)
		db->busy_since = now_usec();
	waited = now_usec() - db->busy_since;
	if (waited > WAIT_USEC)
		return 0;
	if (db->blocked && waited > PATIENCE_USEC)
		tell_who(db);
	(void)nanosleep(&pause, NULL); /* shorter is fine */
	return 1;
}

void db_on_blocked(struct db *db, db_blocked fn, void *ctx)
{
	db->blocked = fn;
	db->blocked_ctx = ctx;
	(void)sqlite3_busy_handler(db->sql, on_busy, db); /* replaces the timeout */
}

/* Through the other's descriptor, which stays open when this connection is closed. */
void db_wait_like(struct db *db, struct db *other)
{
	if (other->blocked)
		(void)sqlite3_busy_handler(db->sql, on_busy, other);
}
