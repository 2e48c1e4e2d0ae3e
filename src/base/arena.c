/* See arena.h. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct arena_block {
	struct arena_block *next;
	size_t size, used;
	_Alignas(16) uint8_t data[];
};

/* The first one with its header is what malloc keeps in reserve for the next request; most requests
 * need no other. */
enum { FIRST_BLOCK = 960, BIGGEST_BLOCK = 1 << 20 };

void arena_done(struct arena *a)
{
	struct arena_block *b = a->head;

	while (b) {
		struct arena_block *next = b->next;

		free(b);
		b = next;
	}
	a->head = NULL;
	a->used = 0;
}

void *arena_alloc(struct arena *a, size_t size)
{
	struct arena_block *b = a->head;
	size_t rounded, total;
	void *p;

	if (add_size(size, 15, &rounded) < 0)
		return NULL;
	rounded &= ~(size_t)15;
	if (add_size(a->used, rounded, &total) < 0 || total > a->max)
		return NULL;
	if (!b || b->size - b->used < rounded) {
		size_t want = b ? b->size * 2 : FIRST_BLOCK, bytes;

		if (want > BIGGEST_BLOCK)
			want = BIGGEST_BLOCK;
		if (want < rounded)
			want = rounded;
		if (add_size(sizeof(*b), want, &bytes) < 0)
			return NULL;
		b = malloc(bytes);
		if (!b)
			return NULL;
		b->next = a->head;
		b->size = want;
		b->used = 0;
		a->head = b;
	}
	p = b->data + b->used;
	b->used += rounded;
	a->used = total;
	memset(p, 0, rounded);
	return p;
}

void *arena_array(struct arena *a, size_t n, size_t size)
{
	size_t bytes;

	return mul_size(n, size, &bytes) < 0 ? NULL : arena_alloc(a, bytes);
}

void *arena_dup(struct arena *a, const void *data, size_t len)
{
	void *p = arena_alloc(a, len);

	if (p && len)
		memcpy(p, data, len);
	return p;
}

char *arena_strndup(struct arena *a, const void *s, size_t len)
{
	char *p;
	size_t bytes;

	if (add_size(len, 1, &bytes) < 0)
		return NULL;
	p = arena_alloc(a, bytes);
	if (p && len)
		memcpy(p, s, len);
	return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
	return arena_strndup(a, s, strlen(s));
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list ap, ap2;
	char *p = NULL;
	int n;

	va_start(ap, fmt);
	va_copy(ap2, ap);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n >= 0)
		p = arena_alloc(a, (size_t)n + 1);
	if (p)
		vsnprintf(p, (size_t)n + 1, fmt, ap2);
	va_end(ap2);
	return p;
}
