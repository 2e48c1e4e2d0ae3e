/* Replacing one digest by another in a byte stream: see refscan.h. Pure; no I/O.
 *
 * Matches do not overlap and the leftmost one wins. Up to 31 bytes are held back, since a digest
 * may begin in them; all else is handed on as slices of the input. Linked through libnar. */
#include "nar/refscan.h"

#include <errno.h>
#include <string.h>

#include "base/macro.h"

enum { DIGEST = 32, HOLD_MAX = DIGEST - 1 };

struct rewrite {
	uint8_t from[DIGEST], to[DIGEST];
	uint8_t hold[HOLD_MAX]; /* input that was taken but not handed on */
	size_t n_hold;
	uint64_t pos; /* bytes handed on */
	uint64_t *matches;
	size_t n, cap;
};

struct rewrite *rewrite_new(const char *from32, const char *to32)
{
	struct rewrite *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	memcpy(r->from, from32, DIGEST);
	memcpy(r->to, to32, DIGEST);
	return r;
}

void rewrite_free(struct rewrite *r)
{
	if (!r)
		return;
	free(r->matches);
	free(r);
}

static int emit(struct rewrite *r, const uint8_t *data, size_t len, rewrite_sink sink, void *ctx)
{
	if (len == 0)
		return 0;
	r->pos += len;
	return sink(ctx, data, len);
}

static int emit_match(struct rewrite *r, rewrite_sink sink, void *ctx)
{
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 16, size;
		uint64_t *p;

		if (mul_size(cap, sizeof(*p), &size) < 0)
			return -ENOMEM;
		p = realloc(r->matches, size);
		if (!p)
			return -ENOMEM;
		r->matches = p;
		r->cap = cap;
	}
	r->matches[r->n++] = r->pos;
	return emit(r, r->to, DIGEST, sink, ctx);
}

/* Deals with the bytes held back: a match that begins in them ends in the first bytes of the
 * input. `ret_used` says how much of the input is done with. */
static int feed_hold(struct rewrite *r, const uint8_t *data, size_t len, size_t *ret_used,
		     rewrite_sink sink, void *ctx)
{
	uint8_t joint[HOLD_MAX + HOLD_MAX];
	size_t head = len < HOLD_MAX ? len : HOLD_MAX, n = r->n_hold + head, done, before;
	const uint8_t *hit;
	int ret;

	memcpy(joint, r->hold, r->n_hold);
	memcpy(joint + r->n_hold, data, head);
	hit = memmem(joint, n, r->from, DIGEST);
	if (hit) {
		before = (size_t)(hit - joint);
		*ret_used = before + DIGEST - r->n_hold;
		r->n_hold = 0;
		ret = emit(r, joint, before, sink, ctx);
		return ret ? ret : emit_match(r, sink, ctx);
	}
	if (head == HOLD_MAX) {
		done = r->n_hold; /* nothing begins in the held bytes: go on with the input itself
				   */
		*ret_used = r->n_hold = 0;
		return emit(r, joint, done, sink, ctx);
	}
	done = n > HOLD_MAX ? n - HOLD_MAX : 0;
	memcpy(r->hold, joint + done, n - done);
	r->n_hold = n - done;
	*ret_used = len;
	return emit(r, joint, done, sink, ctx);
}

int rewrite_feed(struct rewrite *r, const uint8_t *data, size_t len, rewrite_sink sink, void *ctx)
{
	const uint8_t *hit;
	size_t used, keep;
	int ret;

	if (len == 0)
		return 0;
	if (r->n_hold) {
		ret = feed_hold(r, data, len, &used, sink, ctx);
		if (ret)
			return ret;
		data += used;
		len -= used;
	}
	while (len >= DIGEST && (hit = memmem(data, len, r->from, DIGEST))) {
		size_t before = (size_t)(hit - data);

		ret = emit(r, data, before, sink, ctx);
		if (ret == 0)
			ret = emit_match(r, sink, ctx);
		if (ret)
			return ret;
		data += before + DIGEST;
		len -= before + DIGEST;
	}
	if (len == 0)
		return 0;
	keep = len < HOLD_MAX ? len : HOLD_MAX;
	memcpy(r->hold, data + len - keep, keep);
	r->n_hold = keep;
	return emit(r, data, len - keep, sink, ctx);
}

int rewrite_end(struct rewrite *r, rewrite_sink sink, void *ctx)
{
	size_t n = r->n_hold;

	r->n_hold = 0;
	return emit(r, r->hold, n, sink, ctx);
}

const uint64_t *rewrite_matches(const struct rewrite *r, size_t *ret_n)
{
	*ret_n = r->n;
	return r->matches;
}
