/* The checked reader: see reader.h. */
#include "wire/reader.h"

#include <errno.h>

enum { PULL_SIZE = 64 * 1024, STEP = 64 * 1024 };

static int bad(struct wire_in *in, const char *sentence)
{
	return err_set(in->e, WIRE_BAD, "%s", sentence);
}

static int need(struct wire_in *in)
{
	return in->p < in->end ? 0 : in->more(in);
}

int wire_bytes(struct wire_in *in, void *ret, size_t len)
{
	uint8_t *to = ret;

	while (len > 0) {
		int r = need(in);
		if (r)
			return r;
		size_t n = wire_avail(in) < len ? wire_avail(in) : len;
		memcpy(to, in->p, n);
		in->p += n;
		to += n;
		len -= n;
	}
	return 0;
}

int wire_skip(struct wire_in *in, uint64_t len)
{
	while (len > 0) {
		int r = need(in);
		if (r)
			return r;
		size_t n = wire_avail(in) < len ? wire_avail(in) : (size_t)len;
		in->p += n;
		len -= n;
	}
	return 0;
}

int wire_u64(struct wire_in *in, uint64_t *ret)
{
	uint8_t b[8];
	uint64_t v = 0;

	int r = wire_bytes(in, b, sizeof(b));
	if (r)
		return r;
	for (int i = 7; i >= 0; i--)
		v = v << 8 | b[i];
	*ret = v;
	return 0;
}

int wire_number(struct wire_in *in, uint64_t max, uint64_t *ret)
{
	uint64_t v;

	int r = wire_u64(in, &v);
	if (r)
		return r;
	if (v > max)
		return err_set(in->e, WIRE_BAD, "serialised integer %llu is too large",
			       (unsigned long long)v);
	*ret = v;
	return 0;
}

int wire_bool(struct wire_in *in, bool *ret)
{
	uint64_t v;

	/* Old clients send any non-zero number for true. */
	int r = wire_u64(in, &v);
	if (r)
		return r;
	*ret = v != 0;
	return 0;
}

int wire_padding(struct wire_in *in, uint64_t len)
{
	uint8_t zero[8];

	if (len % 8 == 0)
		return 0;
	size_t n = 8 - len % 8;
	int r = wire_bytes(in, zero, n);
	if (r)
		return r;
	for (size_t i = 0; i < n; i++)
		if (zero[i])
			return bad(in, "non-zero padding");
	return 0;
}

/* Copies a string of `len` bytes. What is at hand is copied at once; a longer one grows with the
 * bytes that really come, so that a false length costs nothing. */
static int copy_content(struct wire_in *in, struct arena *a, size_t len, uint8_t **ret)
{
	_cleanup_buf_ struct buf b = BUF_INIT(SIZE_MAX / 2);
	int r;

	if (len <= STEP) {
		uint8_t *to = arena_alloc(a, len + 1);
		if (!to)
			return bad(in, "the request is too large");
		r = wire_bytes(in, to, len);
		*ret = to;
		return r;
	}
	if (len > a->max - a->used)
		return bad(in, "the request is too large");
	while (b.len < len) {
		size_t n = len - b.len < STEP ? len - b.len : STEP;
		r = buf_reserve(&b, n);
		if (r < 0)
			return r;
		r = wire_bytes(in, b.data + b.len, n);
		if (r)
			return r;
		b.len += n;
	}
	uint8_t *to = arena_alloc(a, len + 1);
	if (!to)
		return bad(in, "the request is too large");
	memcpy(to, b.data, len);
	*ret = to;
	return 0;
}

int wire_blob(struct wire_in *in, struct arena *a, size_t max, uint8_t **ret, size_t *ret_len)
{
	uint64_t len;
	uint8_t *data = NULL;

	int r = wire_u64(in, &len);
	if (r)
		return r;
	if (len > max)
		return bad(in, "string is too long");
	r = copy_content(in, a, (size_t)len, &data);
	if (r)
		return r;
	r = wire_padding(in, len);
	if (r)
		return r;
	*ret = data;
	*ret_len = (size_t)len;
	return 0;
}

int wire_str(struct wire_in *in, struct arena *a, size_t max, char **ret)
{
	uint8_t *data = NULL;
	size_t len;

	int r = wire_blob(in, a, max, &data, &len);
	if (r)
		return r;
	if (memchr(data, 0, len))
		return bad(in, "a string contains a NUL byte");
	*ret = (char *)data;
	return 0;
}

int wire_skip_str(struct wire_in *in)
{
	uint64_t len;

	int r = wire_u64(in, &len);
	if (!r)
		r = wire_skip(in, len);
	return r ?: wire_padding(in, len);
}

int wire_strv(struct wire_in *in, struct arena *a, size_t max_items, size_t max, struct strv *ret)
{
	struct strv list = {};
	uint64_t n;

	int r = wire_u64(in, &n);
	if (r)
		return r;
	if (n > max_items)
		return bad(in, "a list is too long");
	for (uint64_t i = 0; i < n; i++) {
		char *s;
		r = wire_str(in, a, max, &s);
		if (r)
			return r;
		if (strv_add_arena(&list, a, s) < 0)
			return bad(in, "the request is too large");
	}
	*ret = list;
	return 0;
}

/* Opens the next chunk. */
static int next_chunk(struct wire_framed *f)
{
	uint64_t n;
	int r;

	if (f->pulled) {
		r = f->open ? wire_padding(f->parent, f->chunk) : 0;
		f->open = false; /* whatever comes now, that padding is read */
		if (!r)
			r = f->ask(f, PULL_SIZE);
		if (r)
			return r;
	}
	r = wire_u64(f->parent, &n);
	if (r)
		return r;
	if (f->pulled && (n == 0 || n > PULL_SIZE))
		return bad(f->parent, n ? "string is too long" : "unexpected end-of-file");
	f->open = true;
	f->left = f->chunk = n;
	f->ended = n == 0;
	return 0;
}

int wire_framed_next(struct wire_framed *f, bool *ret_end)
{
	int r = 0;

	*ret_end = false;
	if (f->in.p < f->in.end)
		return 0;
	if (!f->ended && f->left == 0)
		r = next_chunk(f);
	*ret_end = f->ended;
	if (r || f->ended)
		return r;
	r = need(f->parent);
	if (r)
		return r;
	size_t n = wire_avail(f->parent) < f->left ? wire_avail(f->parent) : (size_t)f->left;
	f->in.p = f->parent->p;
	f->in.end = f->in.p + n;
	f->parent->p += n; /* the window is ours until the next call */
	f->left -= n;
	return 0;
}

static int framed_more(struct wire_in *in)
{
	bool end;

	int r = wire_framed_next(in->ctx, &end);
	return !r && end ? err_set(in->e, WIRE_BAD, "reached end of FramedSource") : r;
}

void wire_framed_init(struct wire_framed *f, struct wire_in *parent)
{
	*f = (struct wire_framed){ .parent = parent };
	f->in = (struct wire_in){ .more = framed_more, .ctx = f, .e = parent->e };
}

void wire_pulled_init(struct wire_framed *f, struct wire_in *parent,
		      int (*ask)(struct wire_framed *f, size_t len), void *ask_ctx)
{
	wire_framed_init(f, parent);
	f->pulled = true;
	f->ask = ask;
	f->ask_ctx = ask_ctx;
}

int wire_framed_end(struct wire_framed *f, uint64_t max)
{
	uint64_t dropped = wire_avail(&f->in);

	f->in.p = f->in.end;
	if (f->pulled) { /* the last answer is the end; its padding is left */
		if (f->ended)
			return 0;
		int r = wire_skip(f->parent, f->left);
		f->ended = true;
		return r ?: (f->open ? wire_padding(f->parent, f->chunk) : 0);
	}
	while (!f->ended) {
		dropped += f->left;
		if (dropped > max)
			return bad(f->parent, "too much data behind the end of the request");
		int r = wire_skip(f->parent, f->left);
		f->left = 0;
		if (!r)
			r = next_chunk(f);
		if (r)
			return r;
	}
	return 0;
}
