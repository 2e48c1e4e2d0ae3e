/* The reference scanner and the rewriter, against the simplest thing that could be right. */
#include "helper.h"

#include <string.h>

static const char base32[] = "0123456789abcdfghijklmnpqrsvwxyz";

static uint32_t seed = 1;

static uint32_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed;
}

static void digest(char *ret)
{
	for (int i = 0; i < 32; i++)
		ret[i] = base32[rnd() % 32];
}

static void feed_pieces(struct refscan *s, const uint8_t *data, size_t len, size_t piece)
{
	for (size_t at = 0; at < len; at += piece)
		refscan_feed(s, data + at, len - at < piece ? len - at : piece);
}

static void test_split_anywhere(void **state)
{
	uint8_t text[200];
	char d[32];

	(void)state;
	digest(d);
	for (size_t piece = 1; piece <= sizeof(text); piece++)
		for (size_t at = 0; at + 32 <= sizeof(text); at += 7) {
			struct refscan *s = refscan_new();

			memset(text, at & 1 ? 'e' : 'z', sizeof(text));
			memcpy(text + at, d, 32);
			assert_int_equal(refscan_add(s, d), 0);
			feed_pieces(s, text, sizeof(text), piece);
			assert_true(refscan_found(s, d));
			refscan_free(s);
		}
}

static void test_not_there(void **state)
{
	struct refscan *s = refscan_new();
	char d[32], other[32];

	(void)state;
	digest(d);
	memcpy(other, d, 32);
	other[31] = other[31] == 'a' ? 'b' : 'a';
	assert_false(refscan_found(s, d)); /* nothing added yet */
	refscan_add(s, d);
	refscan_feed(s, (uint8_t *)other, 32);
	refscan_feed(s, (uint8_t *)" ", 1);
	refscan_feed(s, (uint8_t *)d, 31);
	assert_false(refscan_found(s, d));
	assert_false(refscan_found(s, other)); /* there, but not a candidate */
	refscan_feed(s, (uint8_t *)d + 31, 1);
	assert_true(refscan_found(s, d));
	refscan_free(s);
}

static void test_many_against_memmem(void **state)
{
	enum { N = 500, LEN = 60000 };
	static char d[N][32];
	static uint8_t text[LEN];
	size_t n_there = 0;

	(void)state;
	for (int round = 0; round < 4; round++) {
		struct refscan *s = refscan_new();

		for (size_t i = 0; i < LEN; i++)
			text[i] = round & 1 ? (uint8_t)base32[rnd() % 32] : (uint8_t)rnd();
		for (size_t i = 0; i < N; i++) {
			digest(d[i]);
			assert_int_equal(refscan_add(s, d[i]), 0);
			assert_int_equal(refscan_add(s, d[i]), 0); /* twice is once */
			if (i % 3 == 0)
				memcpy(text + rnd() % (LEN - 32), d[i], 32);
		}
		feed_pieces(s, text, LEN, round < 2 ? 4096 : 13);
		for (size_t i = 0; i < N; i++) {
			bool there = memmem(text, LEN, d[i], 32);

			assert_int_equal(refscan_found(s, d[i]), there);
			n_there += there;
		}
		refscan_free(s);
	}
	assert_true(n_there > N / 2);
}

/* Replaces without streaming. */
static size_t naive(uint8_t *text, size_t len, const char *from, const char *to, uint64_t *pos)
{
	size_t n = 0;

	for (size_t i = 0; i + 32 <= len; i++)
		if (!memcmp(text + i, from, 32)) {
			memcpy(text + i, to, 32);
			pos[n++] = i;
			i += 31;
		}
	return n;
}

static void compare_rewrite(const uint8_t *text, size_t len, const char *from, const char *to,
			    size_t piece)
{
	_cleanup_buf_ struct buf out = BUF_INIT(ANY_SIZE), want = BUF_INIT(ANY_SIZE);
	struct rewrite *r = rewrite_new(from, to);
	uint64_t pos[64];
	size_t n, n_want;
	const uint64_t *got;

	buf_append(&want, text, len);
	n_want = naive(want.data, len, from, to, pos);
	for (size_t at = 0; at < len; at += piece)
		assert_int_equal(rewrite_feed(r, text + at, len - at < piece ? len - at : piece,
					      to_buf, &out),
				 0);
	assert_int_equal(rewrite_end(r, to_buf, &out), 0);
	assert_buf_equal(&out, &want);
	got = rewrite_matches(r, &n);
	assert_int_equal(n, n_want);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(got[i], pos[i]);
	rewrite_free(r);
}

static void test_rewrite(void **state)
{
	static const char zeros[32];
	uint8_t text[400];
	char d[32];

	(void)state;
	digest(d);
	for (size_t piece = 1; piece < 100; piece++)
		for (size_t at = 0; at + 96 <= sizeof(text); at += 11) {
			memset(text, d[0], sizeof(text));
			memcpy(text + at, d, 32);
			memcpy(text + at + 32, d, 32); /* two in a row */
			memcpy(text + sizeof(text) - 32, d, 32);
			compare_rewrite(text, sizeof(text), d, zeros, piece);
			compare_rewrite(text, sizeof(text) - 1, d, zeros, piece);
		}
}

static void test_rewrite_overlapping(void **state)
{
	char a[32], to[32];
	uint8_t text[100];

	(void)state;
	memset(a, 'a', 32);
	memset(to, 'b', 32);
	memset(text, 'a', sizeof(text));
	for (size_t piece = 1; piece <= 100; piece++)
		compare_rewrite(text, sizeof(text), a, to, piece);
}

static int refuse(void *ctx, const uint8_t *data, size_t len)
{
	(void)ctx;
	(void)data;
	(void)len;
	return 7;
}

static void test_rewrite_passes_the_sinks_answer_on(void **state)
{
	struct rewrite *r = rewrite_new(base32, base32);
	uint8_t text[100] = { 0 };

	(void)state;
	assert_int_equal(rewrite_feed(r, text, sizeof(text), refuse, NULL), 7);
	rewrite_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_split_anywhere),
		cmocka_unit_test(test_not_there),
		cmocka_unit_test(test_many_against_memmem),
		cmocka_unit_test(test_rewrite),
		cmocka_unit_test(test_rewrite_overlapping),
		cmocka_unit_test(test_rewrite_passes_the_sinks_answer_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
