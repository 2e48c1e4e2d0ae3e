/* See logfile.h. Linked by airplant-build alone. Never interprets what a builder wrote. */
#include "build/logfile.h"

#include <bzlib.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

enum {
	LINE_MAX_BYTES = 16 * 1024,
	TAIL_MAX_LINES = 10000,
	/* Logs up to this size fit one block of bzip2's level 1. They are compressed at the end,
	 * with that level: the result is the same size as level 9's, for a tenth of the memory. */
	HELD_MAX = 90 * 1000,
};

struct logfile {
	int fd, zfd;
	uint64_t size;
	int error; /* the first one; later writes of that kind are not tried again */
	bool z_on, z_failed;
	bz_stream z;
	char *held; /* not compressed yet */
	size_t held_len, held_cap;
	/* the line that grows, and the ring of those before it */
	char *line;
	size_t pos, len; /* a carriage return moves `pos` back, as a terminal would */
	char **tail;
	size_t tail_cap, tail_first, tail_n;
};

/* An empty stream of level 9, so that a silent build costs no compressor. */
static const uint8_t empty_bzip2[] = { 'B',  'Z',  'h',	 '9', 0x17, 0x72, 0x45,
				       0x38, 0x50, 0x90, 0,   0,    0,	  0 };

struct logfile *logfile_new(int fd, int zfd, uint64_t tail_lines)
{
	struct logfile *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->fd = fd;
	l->zfd = zfd;
	l->tail_cap = tail_lines > TAIL_MAX_LINES ? TAIL_MAX_LINES : (size_t)tail_lines;
	l->line = malloc(LINE_MAX_BYTES + 1);
	if (l->tail_cap)
		l->tail = calloc(l->tail_cap, sizeof(*l->tail));
	if (!l->line || (l->tail_cap && !l->tail)) {
		logfile_free(l);
		return NULL;
	}
	return l;
}

void logfile_free(struct logfile *l)
{
	if (!l)
		return;
	if (l->z_on)
		BZ2_bzCompressEnd(&l->z);
	for (size_t i = 0; l->tail && i < l->tail_cap; i++)
		free(l->tail[i]);
	free(l->tail);
	free(l->line);
	free(l->held);
	free(l);
}

uint64_t logfile_size(const struct logfile *l)
{
	return l->size;
}

/* Lines that are messages to the client ("@nix {…}") are not quoted, as upstream does not. */
static bool is_message(const char *line, size_t len)
{
	return len > 6 && !memcmp(line, "@nix {", 6) && line[len - 1] == '}';
}

static void end_line(struct logfile *l)
{
	/* What a carriage return left behind `pos` is cut off, as upstream cuts it. */
	size_t len = l->pos;

	l->pos = l->len = 0;
	if (!l->tail_cap || is_message(l->line, len))
		return;
	char *copy = malloc(len + 1);

	if (!copy)
		return; /* one line fewer in an error sentence */
	memcpy(copy, l->line, len);
	copy[len] = 0;
	for (size_t i = 0; i < len; i++)
		if (!copy[i])
			copy[i] = ' '; /* the sentence is a C string */
	size_t slot = (l->tail_first + l->tail_n) % l->tail_cap;

	if (l->tail_n == l->tail_cap) {
		free(l->tail[slot]);
		l->tail_first = (l->tail_first + 1) % l->tail_cap;
	} else {
		l->tail_n++;
	}
	l->tail[slot] = copy;
}

static void feed_lines(struct logfile *l, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (data[i] == '\n') {
			end_line(l);
		} else if (data[i] == '\r') {
			l->pos = 0;
		} else if (l->pos < LINE_MAX_BYTES) {
			l->line[l->pos++] = data[i];
			if (l->len < l->pos)
				l->len = l->pos;
		}
	}
}

static int z_step(struct logfile *l, int action, const char *data, size_t len)
{
	char out[16 * 1024];
	int r;

	l->z.next_in = (char *)(uintptr_t)data;
	l->z.avail_in = (unsigned int)len;
	do {
		l->z.next_out = out;
		l->z.avail_out = sizeof(out);
		r = BZ2_bzCompress(&l->z, action);
		if (r < 0)
			return -EIO;
		int w = write_full(l->zfd, out, sizeof(out) - l->z.avail_out);

		if (w < 0)
			return w;
	} while (l->z.avail_in > 0 || (action == BZ_FINISH && r != BZ_STREAM_END));
	return 0;
}

static int z_start(struct logfile *l, int level)
{
	if (BZ2_bzCompressInit(&l->z, level, 0, 0) != BZ_OK)
		return -ENOMEM;
	l->z_on = true;
	return l->held_len ? z_step(l, BZ_RUN, l->held, l->held_len) : 0;
}

static int hold(struct logfile *l, const char *data, size_t len)
{
	if (l->held_len + len > l->held_cap) {
		size_t cap = l->held_cap ? HELD_MAX : 4096;
		char *p;

		if (cap < l->held_len + len)
			cap = HELD_MAX;
		p = realloc(l->held, cap);
		if (!p)
			return -ENOMEM;
		l->held = p;
		l->held_cap = cap;
	}
	memcpy(l->held + l->held_len, data, len);
	l->held_len += len;
	return 0;
}

static int z_write(struct logfile *l, const char *data, size_t len)
{
	if (!l->z_on) {
		if (len <= HELD_MAX - l->held_len)
			return hold(l, data, len);
		int r = z_start(l, 9);

		if (r < 0)
			return r;
	}
	return z_step(l, BZ_RUN, data, len);
}

int logfile_write(struct logfile *l, const void *data, size_t len)
{
	int r = 0;

	feed_lines(l, data, len);
	if (l->fd >= 0 && !l->error) {
		r = write_full(l->fd, data, len);
		if (r == 0)
			l->size += len;
		else
			l->error = r;
	}
	if (l->zfd >= 0 && !l->z_failed && len > 0) {
		int z = z_write(l, data, len);

		if (z < 0) {
			l->z_failed = true;
			r = r ? r : z;
		}
	}
	return r;
}

int logfile_finish(struct logfile *l)
{
	if (l->len > 0)
		end_line(l);
	if (l->zfd < 0 || l->z_failed)
		return 0;
	if (!l->z_on && !l->held_len)
		return write_full(l->zfd, empty_bzip2, sizeof(empty_bzip2));
	int r = l->z_on ? 0 : z_start(l, 1);

	return r < 0 ? r : z_step(l, BZ_FINISH, NULL, 0);
}

int logfile_quote(const struct logfile *l, struct buf *b)
{
	if (!l->tail_n)
		return 0;
	int r = buf_printf(b, "\nLast %zu log lines:\n", l->tail_n);

	for (size_t i = 0; r == 0 && i < l->tail_n; i++)
		r = buf_printf(b, "> %s\n", l->tail[(l->tail_first + i) % l->tail_cap]);
	return r < 0 ? r : 1;
}
