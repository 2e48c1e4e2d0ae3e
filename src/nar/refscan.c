/* Finding store path digests in a byte stream: see refscan.h. Pure; no I/O.
 *
 * A window of 32 bytes is read from its end: the first byte that is no base-32 character moves the
 * window behind it, so most of the input is never looked at. Inside a run of base-32 characters
 * the window moves by one and only its new last byte is checked. Linked through libnar. */
#include "nar/refscan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DIGEST = 32, FIRST_SLOTS = 64, FILTER_BITS = 16 };

struct candidate {
	char digest[DIGEST];
	bool used, found;
};

struct refscan {
	struct candidate *slots; /* open addressing, at most half full */
	size_t n_slots, n, n_found;
	/* One bit per hash of the first 8 bytes of a candidate: small enough for the first cache,
	 * and nearly always enough to dismiss a window. */
	uint64_t filter[(1 << FILTER_BITS) / 64];
	uint8_t tail[DIGEST -
		     1]; /* the end of what was fed, for a digest split between two calls */
	size_t tail_len;
};

/* 1 for "0123456789abcdfghijklmnpqrsvwxyz". */
static const uint8_t base32_char[256] = {
	['0' ... '9'] = 1, ['a' ... 'd'] = 1, ['f' ... 'n'] = 1,
	['p' ... 's'] = 1, ['v' ... 'z'] = 1,
};

struct refscan *refscan_new(void)
{
	return calloc(1, sizeof(struct refscan));
}

void refscan_free(struct refscan *s)
{
	if (!s)
		return;
	free(s->slots);
	free(s);
}

static size_t filter_bit(const void *digest)
{
	uint64_t w;

	memcpy(&w, digest, sizeof(w));
	return (size_t)(w * 0x9e3779b97f4a7c15ULL >> (64 - FILTER_BITS));
}

static size_t digest_hash(const void *digest)
{
	uint64_t w[4], h;

	memcpy(w, digest, sizeof(w));
	h = (w[0] ^ (w[1] << 29 | w[1] >> 35)) * 0x9e3779b97f4a7c15ULL;
	h ^= (w[2] ^ (w[3] << 31 | w[3] >> 33)) * 0xc2b2ae3d27d4eb4fULL;
	return (size_t)(h ^ h >> 32);
}

/* The slot that holds the digest, or the free one where it would go. */
static struct candidate *slot_of(struct candidate *slots, size_t n_slots, const void *digest)
{
	size_t i = digest_hash(digest) & (n_slots - 1);

	while (slots[i].used && memcmp(slots[i].digest, digest, DIGEST) != 0)
		i = (i + 1) & (n_slots - 1);
	return &slots[i];
}

static int grow(struct refscan *s)
{
	size_t n_slots = s->n_slots ? s->n_slots * 2 : FIRST_SLOTS;
	struct candidate *slots = calloc(n_slots, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < s->n_slots; i++)
		if (s->slots[i].used)
			*slot_of(slots, n_slots, s->slots[i].digest) = s->slots[i];
	free(s->slots);
	s->slots = slots;
	s->n_slots = n_slots;
	return 0;
}

int refscan_add(struct refscan *s, const char *digest32)
{
	struct candidate *c;

	if (s->n * 2 >= s->n_slots && grow(s) < 0)
		return -ENOMEM;
	c = slot_of(s->slots, s->n_slots, digest32);
	if (c->used)
		return 0;
	memcpy(c->digest, digest32, DIGEST);
	c->used = true;
	s->filter[filter_bit(digest32) / 64] |= 1ULL << filter_bit(digest32) % 64;
	s->n++;
	return 0;
}

static void look_up(struct refscan *s, const uint8_t *window)
{
	size_t bit = filter_bit(window);
	struct candidate *c;

	if (!(s->filter[bit / 64] >> bit % 64 & 1))
		return;
	c = slot_of(s->slots, s->n_slots, window);
	if (c->used && !c->found) {
		c->found = true;
		s->n_found++;
	}
}

static void scan(struct refscan *s, const uint8_t *data, size_t len)
{
	/* `known`: how many bytes at the start of the window are known to be base 32. */
	size_t i = 0, known = 0;

	while (len - i >= DIGEST) {
		size_t j = DIGEST;

		while (j > known && base32_char[data[i + j - 1]])
			j--;
		if (j > known) {
			i += j;
			known = 0;
			continue;
		}
		look_up(s, data + i);
		i++;
		known = DIGEST - 1;
	}
}

static void keep_tail(struct refscan *s, const uint8_t *data, size_t len)
{
	size_t keep, max = sizeof(s->tail);

	if (len >= max) {
		memcpy(s->tail, data + len - max, max);
		s->tail_len = max;
		return;
	}
	keep = s->tail_len;
	if (keep > max - len)
		keep = max - len;
	memmove(s->tail, s->tail + s->tail_len - keep, keep);
	memcpy(s->tail + keep, data, len);
	s->tail_len = keep + len;
}

void refscan_feed(struct refscan *s, const uint8_t *data, size_t len)
{
	if (s->n == s->n_found) {
		s->tail_len = 0; /* nothing left to find */
		return;
	}
	if (len == 0)
		return;
	if (s->tail_len) {
		uint8_t joint[2 * (DIGEST - 1)];
		size_t head = len < DIGEST - 1 ? len : DIGEST - 1;

		memcpy(joint, s->tail, s->tail_len);
		memcpy(joint + s->tail_len, data, head);
		scan(s, joint, s->tail_len + head);
	}
	scan(s, data, len);
	keep_tail(s, data, len);
}

bool refscan_found(const struct refscan *s, const char *digest32)
{
	const struct candidate *c;

	if (!s->n_slots)
		return false;
	c = slot_of(s->slots, s->n_slots, digest32);
	return c->used && c->found;
}
