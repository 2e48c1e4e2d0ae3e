/* A growable byte buffer with a hard limit. Appending beyond `max` fails with -E2BIG and leaves
 * the buffer as it was; out of memory is -ENOMEM. */
#pragma once

#include <string.h>

#include "base/macro.h"

struct buf {
	uint8_t *data;
	size_t len, cap, max; /* bytes */
};

#define BUF_INIT(limit) ((struct buf){ .max = (limit) })
#define _cleanup_buf_	_cleanup_(buf_done)

void buf_done(struct buf *b);
/* Makes room for `extra` more bytes; data + len may then be written and len advanced. */
int buf_reserve(struct buf *b, size_t extra);
int buf_append(struct buf *b, const void *data, size_t len);
int buf_append_str(struct buf *b, const char *s);
int buf_append_char(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...) _printf_(2, 3);
/* Drops the first `n` bytes. */
void buf_consume(struct buf *b, size_t n);
/* Writes a NUL behind the content (not counted in len) and hands the memory over; NULL on ENOMEM.
 */
char *buf_take_str(struct buf *b);

static inline void buf_clear(struct buf *b)
{
	b->len = 0;
}
