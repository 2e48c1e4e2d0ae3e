/* See used.h. Linked by airplantd. */
#include "core/used.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/strv.h"
#include "core/core.h"
#include "core/store_open.h"
#include "store/graph.h"

enum {
	RECORD = STORE_DIGEST_LEN + 8,
	WRITE_USEC = 5 * 1000 * 1000,
	PENDING_MAX = 1 << 20,	  /* bytes that wait to be written */
	FILE_MAX = 256 << 20,	  /* then another is begun */
	CHUNK = 1024 * RECORD,	  /* read at once */
	NOTED_FREELY = 64 * 1024, /* in an hour; beyond that, valid paths alone */
	SPARE = 1 << 20,	  /* not worth writing a file anew */
};

struct used {
	struct core *core;
	struct smap noted; /* digest -> user + 1, in the hour `hour` */
	uint32_t hour;
	struct buf pending;
	struct loop_timer *timer;
	bool told; /* that it cannot be written */
};

struct used_reader {
	int dir, fd;
	unsigned int file; /* of names */
	uint64_t bytes;
	uint32_t start; /* the hour in which the machine was started */
	char buf[CHUNK];
};

static const char *const names[] = { "used-by.1", "used-by" };

uint32_t used_now(void)
{
	return (uint32_t)(time(NULL) / 3600);
}

static void put_number(char *to, uint32_t n)
{
	for (int i = 0; i < 4; i++)
		to[i] = (char)(n >> 8 * i);
}

static uint32_t take_number(const char *from)
{
	uint32_t n = 0;

	for (int i = 0; i < 4; i++)
		n |= (uint32_t)(uint8_t)from[i] << 8 * i;
	return n;
}

static void put_record(char to[static RECORD], const char *base, uint32_t hours, uint32_t user)
{
	memcpy(to, base, STORE_DIGEST_LEN);
	put_number(to + STORE_DIGEST_LEN, hours);
	put_number(to + STORE_DIGEST_LEN + 4, user);
}

/* ---- writing ---- */

/* What a crash or a full disk left of a record is cut off. */
static int append(const struct used *u)
{
	_cleanup_close_ int dir = store_own_dir(u->core), fd = -1;
	struct stat st;

	if (dir < 0)
		return dir;
	fd = openat(dir, names[1], O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size >= FILE_MAX) {
		if (renameat(dir, names[1], dir, names[0]) < 0)
			return -errno;
		close(fd);
		fd = openat(dir, names[1], O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
		st.st_size = 0;
	}
	return pwrite_full(fd, u->pending.data, u->pending.len, st.st_size - st.st_size % RECORD);
}

static void write_pending(struct used *u)
{
	int r = u->pending.len ? append(u) : 0;

	u->pending.len = 0;
	if (r < 0 && !u->told)
		log_warn("noting in '%s/airplant/used-by' which paths are used: %s",
			 u->core->state_dir, strerror(-r));
	u->told = r < 0;
}

static void on_timer(void *ctx)
{
	struct used *u = ctx;

	u->timer = NULL;
	write_pending(u);
}

/* Who stands in the record to be written, or false when nothing new is to be said. */
static bool is_new(const struct used *u, const char *digest, uint32_t *user)
{
	uintptr_t had = (uintptr_t)smap_get(&u->noted, digest);
	uint32_t before = (uint32_t)(had - 1);

	if (had == 0)
		return true;
	if (before == *user || before == USED_BY_SEVERAL || *user == USED_BY_NOBODY)
		return false;
	if (before != USED_BY_NOBODY)
		*user = USED_BY_SEVERAL; /* or two who take turns would fill the file */
	return true;
}

/* Anybody may hold what does not exist. There are only so many that do. */
static bool is_one_too_many(const struct used *u, const char *base)
{
	struct store_path path;

	return u->noted.n >= NOTED_FREELY && u->core->db &&
	       (store_path_parse_base(base, &path, NULL) != 0 ||
		db_path_valid(u->core->db, &path) != 0);
}

void used_note(struct core *core, uint32_t user, const char *base)
{
	char digest[STORE_DIGEST_LEN + 1] = {}, record[RECORD];
	struct used *u = core->used;
	uint32_t now = used_now();

	if (!u || strnlen(base, STORE_DIGEST_LEN) < STORE_DIGEST_LEN)
		return;
	if (now != u->hour) {
		smap_done(&u->noted);
		u->noted = (struct smap){};
		u->hour = now;
	}
	memcpy(digest, base, STORE_DIGEST_LEN);
	if (!is_new(u, digest, &user) || is_one_too_many(u, base))
		return;
	put_record(record, base, now, user);
	/* Without memory it is not noted: it looks older. */
	if (smap_put(&u->noted, digest, (void *)((uintptr_t)user + 1)) < 0 ||
	    buf_append(&u->pending, record, sizeof(record)) < 0)
		return;
	if (u->pending.len > PENDING_MAX / 2)
		write_pending(u);
	else if (!u->timer && core->loop &&
		 loop_timer(core->loop, WRITE_USEC, on_timer, u, &u->timer) < 0)
		u->timer = NULL;
}

struct used *used_new(struct core *core)
{
	struct used *u = calloc(1, sizeof(*u));

	if (u)
		*u = (struct used){ .core = core, .pending = BUF_INIT(PENDING_MAX) };
	return u;
}

void used_free(struct used *u)
{
	if (!u)
		return;
	loop_timer_cancel(u->timer);
	write_pending(u);
	smap_done(&u->noted);
	buf_done(&u->pending);
	free(u);
}

/* ---- reading, in steps ---- */

static uint32_t hour_of_start(void)
{
	struct timespec up = {};

	(void)clock_gettime(CLOCK_BOOTTIME, &up); /* cannot fail; 0 would be the start of time */
	return (uint32_t)((time(NULL) - up.tv_sec) / 3600);
}

int used_read_open(struct core *core, struct used_reader **ret, struct err *e)
{
	struct used_reader *r = malloc(sizeof(*r));
	int dir;

	if (!r)
		return err_errno(e, -ENOMEM, "reading when paths were used");
	write_pending(core->used);
	dir = store_own_dir(core);
	if (dir < 0) {
		free(r);
		return err_errno(e, dir, "opening '%s/airplant'", core->state_dir);
	}
	*r = (struct used_reader){ .dir = dir, .fd = -1, .start = hour_of_start() };
	*ret = r;
	return 0;
}

/* Whatever stands there, a stamp cannot be worth more than now. */
static void take(const struct used_reader *r, struct graph *g, const char *record, uint32_t now)
{
	uint32_t v = graph_find_digest(g, record);
	uint32_t t = take_number(record + STORE_DIGEST_LEN);
	uint32_t user = take_number(record + STORE_DIGEST_LEN + 4);

	if (v == GRAPH_NONE || t > now)
		return;
	if (t > g->hours[v])
		g->hours[v] = t;
	/* Before the machine's start there was no process. */
	if (t >= r->start && user != USED_BY_NOBODY)
		g->user[v] =
			g->user[v] == USED_BY_NOBODY || g->user[v] == user ? user : USED_BY_SEVERAL;
}

static int next_file(struct used_reader *r)
{
	close_fdp(&r->fd);
	while (r->fd < 0 && r->file < ELEMENTS(names)) {
		r->fd = openat(r->dir, names[r->file++], O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (r->fd < 0 && errno != ENOENT)
			return -errno;
	}
	return r->fd >= 0;
}

static ssize_t read_chunk(int fd, char *to, size_t size)
{
	size_t n = 0;

	while (n < size) {
		ssize_t got = read(fd, to + n, size - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	return (ssize_t)n;
}

static int make_users(struct graph *g)
{
	if (g->user)
		return 0;
	g->user = reallocarray(NULL, g->n ? g->n : 1, sizeof(*g->user));
	if (!g->user)
		return -ENOMEM;
	for (uint32_t v = 0; v < g->n; v++)
		g->user[v] = USED_BY_NOBODY;
	return 0;
}

int used_read_step(struct used_reader *r, struct graph *g, uint64_t until_usec)
{
	uint32_t now = used_now();
	int more = make_users(g);

	if (more == 0)
		more = r->fd >= 0 ? 1 : next_file(r);

	while (more == 1) {
		ssize_t n = read_chunk(r->fd, r->buf, sizeof(r->buf));

		if (n < 0)
			return (int)n;
		r->bytes += (uint64_t)n;
		for (ssize_t i = 0; i + RECORD <= n; i += RECORD)
			take(r, g, r->buf + i, now);
		if (n < (ssize_t)sizeof(r->buf))
			more = next_file(r);
		if (more == 1 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	return more;
}

static int write_anew(int dir, const struct graph *g)
{
	_cleanup_buf_ struct buf b = BUF_INIT(SIZE_MAX);
	_cleanup_close_ int fd = openat(
		dir, "used-by.new", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	char record[RECORD];
	int r = fd < 0 ? -errno : 0;

	for (uint32_t v = 0; r == 0 && v < g->n; v++) {
		put_record(record, graph_name(g, v), g->hours[v], g->user[v]);
		r = buf_append(&b, record, sizeof(record));
	}
	if (r == 0)
		r = write_full(fd, b.data, b.len);
	if (r == 0 && renameat(dir, "used-by.new", dir, names[1]) < 0)
		r = -errno;
	if (r == 0)
		(void)unlinkat(dir, names[0], 0); /* older than all of it */
	return r;
}

void used_compact(struct used_reader *r, const struct graph *g)
{
	int err;

	if (r->bytes < SPARE + 2 * (uint64_t)g->n * RECORD)
		return;
	err = write_anew(r->dir, g);
	if (err < 0)
		log_warn("writing the list of used paths anew: %s", strerror(-err));
}

void used_read_close(struct used_reader *r)
{
	if (!r)
		return;
	close_fdp(&r->fd);
	close_fdp(&r->dir);
	free(r);
}
