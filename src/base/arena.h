/* Memory that is freed all at once, with a hard limit: what one request or one derivation may use.
 */
#pragma once

#include "base/macro.h"

struct arena_block;

struct arena {
	struct arena_block *head;
	size_t used, max; /* bytes handed out, and the most that may be */
};

#define ARENA_INIT(limit) ((struct arena){ .max = (limit) })
#define _cleanup_arena_	  _cleanup_(arena_done)

void arena_done(struct arena *a);
/* Zeroed, 16-byte aligned memory; NULL when memory or the limit is exhausted. */
void *arena_alloc(struct arena *a, size_t size) _must_check_;
void *arena_array(struct arena *a, size_t n, size_t size) _must_check_;
void *arena_dup(struct arena *a, const void *data, size_t len) _must_check_;
/* A NUL-terminated copy of `len` bytes. */
char *arena_strndup(struct arena *a, const void *s, size_t len) _must_check_;
char *arena_strdup(struct arena *a, const char *s) _must_check_;
char *arena_printf(struct arena *a, const char *fmt, ...) _printf_(2, 3) _must_check_;
