/* Writing the strings of a NAR into a buffer: see nar.h for the grammar. Pure; no I/O.
 *
 * It never checks the order of entries: whoever walks a tree sorts it. Linked through libnar. */
#include "nar/nar.h"

#include <errno.h>

static void put_u64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

int nar_put_str(struct buf *b, const void *s, size_t len)
{
	size_t padding = -len & 7, need;
	uint8_t *p;
	int r;

	if (add_size(len, 8 + padding, &need) < 0)
		return -E2BIG;
	r = buf_reserve(b, need);
	if (r < 0)
		return r;
	p = b->data + b->len;
	put_u64(p, len);
	if (len)
		memcpy(p + 8, s, len);
	memset(p + 8 + len, 0, padding);
	b->len += need;
	return 0;
}

/* Appends several strings of the grammar, or nothing. */
static int put_strs(struct buf *b, const char *const *strs, size_t n)
{
	size_t before = b->len;

	for (size_t i = 0; i < n; i++) {
		int r = nar_put_str(b, strs[i], strlen(strs[i]));

		if (r < 0) {
			b->len = before;
			return r;
		}
	}
	return 0;
}

#define PUT(b, ...)                                                                                \
	({                                                                                         \
		const char *const _strs[] = { __VA_ARGS__ };                                       \
		put_strs((b), _strs, sizeof(_strs) / sizeof(*_strs));                              \
	})

int nar_put_begin(struct buf *b)
{
	return PUT(b, "nix-archive-1");
}

int nar_put_file_begin(struct buf *b, bool executable, uint64_t size)
{
	size_t before = b->len;
	uint8_t head[8];
	int r;

	if (executable)
		r = PUT(b, "(", "type", "regular", "executable", "", "contents");
	else
		r = PUT(b, "(", "type", "regular", "contents");
	if (r < 0)
		return r;
	put_u64(head, size);
	r = buf_append(b, head, sizeof(head));
	if (r < 0)
		b->len = before;
	return r;
}

int nar_put_file_end(struct buf *b, uint64_t size)
{
	static const uint8_t zeros[8];
	size_t before = b->len;
	int r = buf_append(b, zeros, (size_t)(-size & 7));

	if (r < 0)
		return r;
	r = PUT(b, ")");
	if (r < 0)
		b->len = before;
	return r;
}

int nar_put_symlink(struct buf *b, const char *target)
{
	return PUT(b, "(", "type", "symlink", "target", target, ")");
}

int nar_put_dir_begin(struct buf *b)
{
	return PUT(b, "(", "type", "directory");
}

int nar_put_entry_begin(struct buf *b, const char *name)
{
	return PUT(b, "entry", "(", "name", name, "node");
}

int nar_put_entry_end(struct buf *b)
{
	return PUT(b, ")");
}

int nar_put_dir_end(struct buf *b)
{
	return PUT(b, ")");
}
