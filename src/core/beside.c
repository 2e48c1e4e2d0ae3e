/* See beside.h. Linked by airplantd. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <time.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/unix.h"
#include "core/beside_int.h"
#include "core/gc.h"
#include "core/goals.h"
#include "core/place.h"
#include "core/sessions.h"
#include "core/spool.h"

enum {
	TICK_USEC = 500 * 1000,
	ANSWER_MSEC = 30 * 1000, /* the other collector may be deleting a large tree */
	START_TRIES = 200,	 /* it has the lock before it listens */
	LOCKS_MAX = 4 << 20,
	FILE_MAX = 1 << 30,
};

static void tick(void *ctx);

/* ---- our file ---- */

static int add_line(void *ctx, const char *base, pid_t pid)
{
	struct beside *b = ctx;
	_cleanup_free_ char *text = NULL;
	int len = asprintf(&text, "%s/%s", b->core->store_dir, base);

	(void)pid;
	if (len < 0) {
		text = NULL;
		return -ENOMEM;
	}
	return write_full(b->file_fd, text, (size_t)len + 1);
}

struct lines {
	const char *store_dir;
	struct buf buf;
	int r;
};

static int line_of_session(void *ctx, const char *base, pid_t pid)
{
	struct lines *l = ctx;

	(void)pid;
	if (l->r == 0)
		l->r = buf_printf(&l->buf, "%s/%s", l->store_dir, base);
	if (l->r == 0)
		l->r = buf_append_char(&l->buf, 0);
	return l->r;
}

static void line_of_goal(void *ctx, const char *base)
{
	(void)line_of_session(ctx, base, 0); /* it keeps the error */
}

static bool works_in_store(const struct core *core)
{
	const char *dir = spool_dir(core->spool);
	size_t len = strlen(core->store_dir);

	return !strncmp(dir, core->store_dir, len) && dir[len] == '/';
}

/* Everything that is promised now, instead of what stands there. The lock keeps readers away. */
static int publish(struct beside *b)
{
	struct core *core = b->core;
	struct lines l = { .store_dir = core->store_dir, .buf = BUF_INIT(FILE_MAX) };
	int r;

	if (core->place)
		place_flush(core->place);
	if (works_in_store(core))
		(void)line_of_session(&l, SPOOL_IN_STORE, 0); /* it keeps the error */
	if (core->sessions)
		(void)sessions_temp_roots(core->sessions, line_of_session, &l);
	if (core->goals)
		goals_pins(core->goals, line_of_goal, &l);
	r = l.r;
	if (r == 0 && b->file_fd < 0)
		r = -EBADF;
	if (r == 0 && (ftruncate(b->file_fd, 0) < 0 || lseek(b->file_fd, 0, SEEK_SET) < 0))
		r = -errno;
	if (r == 0)
		r = write_full(b->file_fd, l.buf.data, l.buf.len);
	buf_done(&l.buf);
	if (r < 0)
		log_warn("noting what clients need in '%s': %s", b->file, strerror(-r));
	return r;
}

static int promised(void *ctx, const char *base, pid_t pid)
{
	(void)ctx;
	(void)base;
	(void)pid;
	return 1;
}

static bool any_promise(const struct core *core)
{
	return (core->goals && goals_any(core->goals)) ||
	       (core->sessions && sessions_temp_roots(core->sessions, promised, NULL) != 0);
}

/* ---- the lock ---- */

/* Another way of having it: the kernel lets go of the old one first. */
static bool lock(struct beside *b, int how)
{
	int r;

	do
		r = flock(b->lock_fd, how | LOCK_NB);
	while (r < 0 && errno == EINTR);
	return r == 0;
}

static void tick_later(struct beside *b)
{
	if (!b->timer && loop_timer(b->core->loop, TICK_USEC, tick, b, &b->timer) < 0)
		b->timer = NULL; /* the next promise tries again */
}

static void be_shared(struct beside *b)
{
	close_fdp(&b->teller);
	b->mode = BESIDE_SHARED;
	tick_later(b);
}

/* Lines of "1: -> FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF": the arrow is who waits. The inode
 * alone is compared, since some file systems show another device there. */
static bool is_waited_for(const struct beside *b)
{
	_cleanup_free_ char *text = NULL;
	char inode[32];
	int r = read_file_at(AT_FDCWD, "/proc/locks", LOCKS_MAX, &text, NULL);

	snprintf(inode, sizeof(inode), ":%llu ", b->lock_ino);
	for (char *line = r < 0 ? NULL : text; line && *line;) {
		char *end = strchrnul(line, '\n');
		bool last = !*end;

		*end = 0;
		if (strstr(line, "-> FLOCK") && strstr(line, inode))
			return true;
		line = last ? NULL : end + 1;
	}
	return false;
}

/* Nothing may stand in the file then that is not promised any more. */
static void let_go(struct beside *b)
{
	(void)publish(b);	/* told */
	(void)lock(b, LOCK_UN); /* cannot fail */
	b->mode = BESIDE_IDLE;
}

static void tick(void *ctx)
{
	struct beside *b = ctx;

	b->timer = NULL;
	if (b->mode == BESIDE_FOREIGN && lock(b, LOCK_SH))
		be_shared(b);
	if (b->mode == BESIDE_SHARED) {
		if (!any_promise(b->core)) {
			let_go(b);
		} else if (is_waited_for(b) && publish(b) == 0) {
			/* What cannot be written down keeps the collector waiting. */
			(void)lock(b, LOCK_UN); /* cannot fail */
			b->mode = BESIDE_FOREIGN;
		}
	}
	if (b->mode == BESIDE_SHARED || b->mode == BESIDE_FOREIGN)
		tick_later(b);
}

bool beside_promise(struct core *core)
{
	struct beside *b = core->beside;

	if (!b || b->mode == BESIDE_SHARED || b->mode == BESIDE_ALONE)
		return false;
	if (lock(b, LOCK_SH)) {
		be_shared(b);
		return false;
	}
	b->mode = BESIDE_FOREIGN;
	tick_later(b);
	return true;
}

/* ---- telling another collector ---- */

static void pause_briefly(void)
{
	const struct timespec t = { .tv_nsec = 5 * 1000 * 1000 };

	(void)nanosleep(&t, NULL); /* shorter is fine */
}

/* One question and its answer. -EPIPE: it is no longer there. */
static int ask(struct beside *b, const char *base)
{
	_cleanup_free_ char *text = NULL;
	int len = asprintf(&text, "%s/%s\n", b->core->store_dir, base);
	struct pollfd p = { .fd = b->teller, .events = POLLIN };
	char answer;

	if (len < 0) {
		text = NULL;
		return -ENOMEM;
	}
	if (send(b->teller, text, (size_t)len, MSG_NOSIGNAL) != len)
		return -EPIPE;
	if (poll(&p, 1, ANSWER_MSEC) == 0)
		return -ETIMEDOUT;
	return recv(b->teller, &answer, 1, 0) == 1 ? 0 : -EPIPE;
}

int beside_tell(struct core *core, const char *base)
{
	struct beside *b = core->beside;
	int r = -EPIPE;

	for (int i = 0; beside_promise(core) && r == -EPIPE && i < START_TRIES; i++) {
		if (b->teller < 0)
			b->teller = unix_connect(b->socket, SOCK_STREAM);
		r = b->teller < 0 ? -EPIPE : ask(b, base);
		if (r == -EPIPE) {
			close_fdp(&b->teller);
			pause_briefly();
		}
	}
	if (!b || b->mode != BESIDE_FOREIGN)
		return 0;
	if (r == 0) /* a collector after this one reads it there */
		r = add_line(b, base, 0);
	if (r < 0) {
		close_fdp(&b->teller);
		log_warn("another garbage collector (of a command that root runs without the "
			 "daemon) cannot be told that '%s' is needed: %s",
			 base, strerror(-r));
	}
	return r;
}

/* ---- a collection of ours ---- */

int beside_collect(struct core *core, struct err *e)
{
	struct beside *b = core->beside;
	int r;

	if (!b || b->mode == BESIDE_ALONE)
		return 0;
	/* Who waits for it may be first, and then reads the file. */
	r = publish(b);
	if (r < 0 && is_waited_for(b))
		return err_errno(e, r, "noting what clients need in '%s'", b->file);
	if (!lock(b, LOCK_EX)) {
		b->mode = BESIDE_FOREIGN;
		tick_later(b);
		return 1;
	}
	close_fdp(&b->teller);
	b->mode = BESIDE_ALONE;
	r = beside_serve(b, e);
	if (r < 0)
		beside_collected(core);
	return r;
}

void beside_collected(struct core *core)
{
	struct beside *b = core->beside;

	if (!b || b->mode != BESIDE_ALONE)
		return;
	beside_serve_stop(b);
	(void)publish(b); /* told; and a collector that is first then has to be told each path */
	b->mode = BESIDE_FOREIGN;
	if (lock(b, LOCK_SH))
		be_shared(b);
	tick_later(b);
}

/* ---- the beginning and the end ---- */

/* A collector that finds the file without a lock deletes it, and writes into it that it is gone. */
static int open_file(struct beside *b)
{
	for (int i = 0; i < START_TRIES; i++) {
		struct stat st;

		(void)unlink(b->file); /* of an earlier process with this number */
		close_fdp(&b->file_fd);
		b->file_fd = open(b->file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (b->file_fd < 0 && errno != EEXIST)
			break;
		if (b->file_fd < 0 || flock(b->file_fd, LOCK_EX | LOCK_NB) < 0 ||
		    fstat(b->file_fd, &st) < 0 || st.st_size != 0 || st.st_nlink != 1)
			continue;
		return 0;
	}
	return -1; /* errno says why */
}

static int open_lock(struct beside *b, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;

	if (asprintf(&path, "%s/gc.lock", b->core->state_dir) < 0) {
		path = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	b->lock_fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (b->lock_fd < 0 && errno == EACCES)
		return err_set(e, -EACCES,
			       "lock file '%s' belongs to another user: as root, 'airplant switch "
			       "--to airplant' gives the store to the daemon",
			       path);
	if (b->lock_fd < 0 || fstat(b->lock_fd, &st) < 0)
		return err_errno(e, -errno, "opening lock file '%s'", path);
	b->lock_ino = st.st_ino;
	return 0;
}

int beside_open(struct core *core, struct beside **ret, struct err *e)
{
	_cleanup_(freep) struct beside *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return err_set(e, -ENOMEM, "out of memory");
	*b = (struct beside){
		.core = core, .lock_fd = -1, .file_fd = -1, .teller = -1, .listener = -1
	};
	if (asprintf(&b->file, "%s/temproots/%d", core->state_dir, (int)getpid()) < 0)
		b->file = NULL;
	if (asprintf(&b->socket, "%s/gc-socket/socket", core->state_dir) < 0)
		b->socket = NULL;
	r = b->file && b->socket ? open_lock(b, e) : err_set(e, -ENOMEM, "out of memory");
	if (r == 0 && open_file(b) < 0) /* a full disk: it must be possible to collect */
		log_warn("opening '%s': %s. Garbage collectors that root runs without the daemon "
			 "wait until it needs nothing",
			 b->file, strerror(errno));
	if (r < 0) {
		beside_close(TAKE_PTR(b));
		return r;
	}
	if (b->file_fd >= 0)
		(void)publish(b); /* told. Where we work in the store is promised always */
	*ret = TAKE_PTR(b);
	return 0;
}

void beside_close(struct beside *b)
{
	if (!b)
		return;
	beside_serve_stop(b);
	loop_timer_cancel(b->timer);
	if (b->file_fd >= 0)
		(void)unlink(b->file); /* gone with its directory: the same */
	close_fdp(&b->file_fd);
	close_fdp(&b->lock_fd);
	close_fdp(&b->teller);
	free(b->file);
	free(b->socket);
	free(b);
}
