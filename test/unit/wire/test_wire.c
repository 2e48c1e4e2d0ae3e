/* The worker protocol's codec: primitives with hostile lengths, frames, gates, typed values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "hash/hash.h"
#include "wire/derived.h"
#include "wire/frames.h"
#include "wire/handshake.h"
#include "wire/info.h"
#include "wire/limits.h"
#include "wire/reader.h"
#include "wire/result.h"

#define STORE  "/nix/store"
#define DIGEST "00000000000000000000000000000000"

/* Hands out a buffer in pieces of `step` bytes. */
struct source {
	struct wire_in in;
	const uint8_t *data;
	size_t len, at, step;
	struct err e;
	struct arena a;
};

static int more(struct wire_in *in)
{
	struct source *s = in->ctx;
	size_t n = s->len - s->at < s->step ? s->len - s->at : s->step;

	if (n == 0)
		return WIRE_EOF;
	in->p = s->data + s->at;
	in->end = in->p + n;
	s->at += n;
	return 0;
}

static void source_init(struct source *s, const void *data, size_t len, size_t step)
{
	*s = (struct source){ .data = data, .len = len, .step = step, .a = ARENA_INIT(1 << 20) };
	s->in = (struct wire_in){ .more = more, .ctx = s, .e = &s->e };
}

static void source_done(struct source *s)
{
	arena_done(&s->a);
	err_done(&s->e);
}

static struct wire_out new_out(void)
{
	return (struct wire_out){ .b = BUF_INIT(1 << 20), .store_dir = STORE };
}

static void test_strings_in_any_pieces(void **state)
{
	static const char *const texts[] = { "", "a", "1234567", "12345678", "123456789" };
	struct wire_out out = new_out();

	(void)state;
	for (size_t i = 0; i < ELEMENTS(texts); i++)
		wire_put_str(&out, texts[i]);
	assert_int_equal(out.b.len, 8 + 16 + 16 + 16 + 24);
	for (size_t step = 1; step < 20; step++) {
		struct source s;
		source_init(&s, out.b.data, out.b.len, step);
		for (size_t i = 0; i < ELEMENTS(texts); i++) {
			char *t;
			assert_int_equal(wire_str(&s.in, &s.a, 100, &t), 0);
			assert_string_equal(t, texts[i]);
		}
		assert_int_equal(s.in.more(&s.in), WIRE_EOF);
		source_done(&s);
	}
	buf_done(&out.b);
}

static const uint64_t hostile[] = {
	(1ull << 31) - 1, 1ull << 31,	    (1ull << 31) + 1, (1ull << 32) - 1,
	1ull << 32,	  (1ull << 32) + 1, (1ull << 63) - 1, 1ull << 63,
	(1ull << 63) + 1, UINT64_MAX,	    UINT64_MAX - 1,   UINT64_MAX - 6,
	UINT64_MAX - 7,	  UINT64_MAX - 8,   UINT64_MAX - 14,  UINT64_MAX - 15,
};

static void test_hostile_lengths(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTS(hostile); i++) {
		struct wire_out out = new_out();
		struct strv list = {};
		struct source s;
		uint8_t *blob;
		size_t len;
		char *t;

		wire_put_u64(&out, hostile[i]);
		wire_put_raw(&out, "abcdefgh", 8);
		source_init(&s, out.b.data, out.b.len, 64);
		assert_int_equal(wire_str(&s.in, &s.a, WIRE_STR_MAX, &t), WIRE_BAD);
		assert_string_equal(s.e.msg, "string is too long");
		assert_int_equal(s.a.used, 0); /* nothing was reserved on its word */
		source_done(&s);

		source_init(&s, out.b.data, out.b.len, 64);
		assert_int_equal(wire_blob(&s.in, &s.a, SIZE_MAX, &blob, &len), WIRE_BAD);
		source_done(&s);

		source_init(&s, out.b.data, out.b.len, 64);
		assert_int_equal(wire_strv(&s.in, &s.a, WIRE_LIST_MAX, 100, &list), WIRE_BAD);
		source_done(&s);

		source_init(&s, out.b.data, out.b.len, 64);
		assert_int_equal(wire_skip_str(&s.in), WIRE_EOF);
		source_done(&s);
		buf_done(&out.b);
	}
}

/* A length within the limits whose bytes never come must not be believed either. */
static void test_truncated(void **state)
{
	struct wire_out out = new_out();
	struct source s;
	char *t;

	(void)state;
	wire_put_u64(&out, 1 << 19);
	wire_put_raw(&out, "abc", 3);
	source_init(&s, out.b.data, out.b.len, 64);
	assert_int_equal(wire_str(&s.in, &s.a, WIRE_STR_MAX, &t), WIRE_EOF);
	assert_int_equal(s.a.used, 0);
	source_done(&s);
	for (size_t cut = 0; cut < 8; cut++) {
		uint64_t v;
		source_init(&s, out.b.data, cut, 64);
		assert_int_equal(wire_u64(&s.in, &v), WIRE_EOF);
		source_done(&s);
	}
	buf_done(&out.b);
}

static void test_padding_and_nul(void **state)
{
	struct wire_out out = new_out();
	struct source s;
	char *t;

	(void)state;
	wire_put_str(&out, "abc");
	for (size_t i = 11; i < 16; i++) { /* each byte of the padding counts */
		out.b.data[i] = 1;
		source_init(&s, out.b.data, out.b.len, 64);
		assert_int_equal(wire_str(&s.in, &s.a, 100, &t), WIRE_BAD);
		assert_string_equal(s.e.msg, "non-zero padding");
		source_done(&s);
		out.b.data[i] = 0;
	}
	out.b.data[9] = 0;
	source_init(&s, out.b.data, out.b.len, 64);
	assert_int_equal(wire_str(&s.in, &s.a, 100, &t), WIRE_BAD);
	source_done(&s);
	buf_done(&out.b);
}

static void test_framed(void **state)
{
	(void)state;
	for (size_t step = 1; step < 40; step += 3) {
		struct wire_out out = new_out();
		struct wire_framed f;
		struct source s;
		uint8_t got[10];
		uint64_t after;
		bool end;

		wire_put_u64(&out, 3);
		wire_put_raw(&out, "abc", 3);
		wire_put_u64(&out, 7);
		wire_put_raw(&out, "defghij", 7);
		wire_put_u64(&out, 0);
		wire_put_u64(&out, 4711);
		source_init(&s, out.b.data, out.b.len, step);
		wire_framed_init(&f, &s.in);
		assert_int_equal(wire_bytes(&f.in, got, 10), 0);
		assert_memory_equal(got, "abcdefghij", 10);
		assert_int_equal(wire_framed_next(&f, &end), 0);
		assert_true(end);
		assert_int_equal(wire_bytes(&f.in, got, 1), WIRE_BAD);
		assert_int_equal(wire_framed_end(&f, 0), 0);
		assert_int_equal(wire_u64(&s.in, &after), 0);
		assert_int_equal(after, 4711);
		source_done(&s);
		/* Stopping anywhere and reading to the end leaves the stream in step. */
		for (size_t n = 0; n <= 10; n++) {
			source_init(&s, out.b.data, out.b.len, step);
			wire_framed_init(&f, &s.in);
			assert_int_equal(wire_bytes(&f.in, got, n), 0);
			assert_int_equal(wire_framed_end(&f, 100), 0);
			assert_int_equal(wire_u64(&s.in, &after), 0);
			assert_int_equal(after, 4711);
			source_done(&s);
		}
		buf_done(&out.b);
	}
}

static void test_framed_hostile(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTS(hostile); i++) {
		struct wire_out out = new_out();
		struct wire_framed f;
		struct source s;
		uint8_t b[100];

		wire_put_u64(&out, hostile[i]);
		wire_put_raw(&out, "abc", 3);
		source_init(&s, out.b.data, out.b.len, 64);
		wire_framed_init(&f, &s.in);
		assert_int_equal(wire_bytes(&f.in, b, sizeof(b)), WIRE_EOF);
		source_done(&s);
		source_init(&s, out.b.data, out.b.len, 64);
		wire_framed_init(&f, &s.in);
		assert_int_equal(wire_bytes(&f.in, b, 1), 0);
		assert_int_equal(wire_framed_end(&f, 1000), WIRE_BAD);
		source_done(&s);
		buf_done(&out.b);
	}
}

static void test_gates(void **state)
{
	(void)state;
	assert_false(wire_gate(1 << 8 | 19, GATE_ACTIVITIES));
	assert_true(wire_gate(1 << 8 | 20, GATE_ACTIVITIES));
	assert_false(wire_gate(1 << 8 | 37, GATE_FEATURES));
	assert_true(wire_gate(1 << 8 | 38, GATE_FEATURES));
	for (int g = 0; g < N_WIRE_GATES; g++) {
		assert_false(wire_gate(WIRE_VERSION_MIN, g));
		assert_true(wire_gate(WIRE_VERSION, g));
	}
}

/* One greeting; `version` is the client's. Gives what the server wrote. */
static int greet(uint64_t magic, uint64_t version, bool features, struct wire_out *out,
		 unsigned *ret_version, char sentence[100])
{
	struct wire_hello hello = { .daemon_version = "9.8.7", .trusted = true };
	struct wire_out client = new_out();
	struct source s;
	unsigned features_of_both;

	wire_put_u64(&client, magic);
	wire_put_u64(&client, version);
	if (features) {
		wire_put_u64(&client, 1);
		wire_put_str(&client, "something-new");
	}
	wire_put_u64(&client, 1); /* affinity */
	wire_put_u64(&client, 3);
	wire_put_u64(&client, 0);
	source_init(&s, client.b.data, client.b.len, 5);
	int r = wire_handshake(&s.in, out, &s.a, &hello, ret_version, &features_of_both);
	if (!r)
		assert_int_equal(s.at, s.len);
	(void)snprintf(sentence, 100, "%s", s.e.msg ? s.e.msg : "");
	source_done(&s);
	buf_done(&client.b);
	return r;
}

static void test_handshake(void **state)
{
	static const struct {
		unsigned version;
		bool features;
		size_t len; /* of the answer */
	} rows[] = {
		{ 1 << 8 | 18, false, 16 },
		{ 1 << 8 | 33, false, 16 + 16 },
		{ 1 << 8 | 34, false, 16 + 16 },
		{ 1 << 8 | 35, false, 16 + 16 + 8 },
		/* with three names of features */
		{ 1 << 8 | 38, true, 16 + (8 + 40 + 40 + 24) + 16 + 8 },
		{ 1 << 8 | 77, true, 16 + (8 + 40 + 40 + 24) + 16 + 8 },
	};
	char sentence[100];
	unsigned version;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		struct wire_out out = new_out();
		assert_int_equal(greet(0x6e697863, rows[i].version, rows[i].features, &out,
				       &version, sentence),
				 0);
		assert_int_equal(out.b.len, rows[i].len);
		assert_memory_equal(out.b.data, "oixd\0\0\0\0\x26\x01\0\0\0\0\0\0", 16);
		assert_int_equal(version,
				 rows[i].version < WIRE_VERSION ? rows[i].version : WIRE_VERSION);
		buf_done(&out.b);
	}
	struct wire_out out = new_out();
	assert_int_equal(greet(0x6e697864, WIRE_VERSION, true, &out, &version, sentence), WIRE_BAD);
	assert_string_equal(sentence, "protocol mismatch");
	assert_int_equal(greet(0x6e697863, 1 << 8 | 17, false, &out, &version, sentence), WIRE_BAD);
	assert_string_equal(sentence, "the Nix client version is too old");
	assert_int_equal(greet(0x6e697863, 1ull << 32, false, &out, &version, sentence), WIRE_BAD);
	buf_done(&out.b);
}

static void test_error_frames(void **state)
{
	struct wire_out out = new_out();

	(void)state;
	wire_put_error(&out, 1 << 8 | 25, LVL_ERROR, "no");
	assert_memory_equal(out.b.data,
			    "ptxc\0\0\0\0\2\0\0\0\0\0\0\0no\0\0\0\0\0\0\1\0\0\0\0\0\0\0", 32);
	assert_int_equal(out.b.len, 32);
	buf_clear(&out.b);
	wire_put_error(&out, 1 << 8 | 26, LVL_ERROR, "no");
	assert_int_equal(out.b.len, 8 + 16 + 8 + 16 + 16 + 8 + 8);
	assert_memory_equal(out.b.data + 48, "\2\0\0\0\0\0\0\0no\0\0\0\0\0\0", 16);
	buf_done(&out.b);
}

static void test_old_clients_hear_text(void **state)
{
	struct wire_start start = { .id = 1, .type = ACT_BUILD, .text = "building" };
	struct wire_out out = new_out();

	(void)state;
	wire_put_start(&out, 1 << 8 | 19, &start);
	wire_put_result(&out, 1 << 8 | 19, 1, RES_PROGRESS, NULL, 0);
	wire_put_stop(&out, 1 << 8 | 19, 1);
	assert_int_equal(out.b.len, 8 + 8 + 16);
	assert_memory_equal(out.b.data + 16, "building...\n", 12);
	buf_done(&out.b);
}

static void put_info(struct wire_out *out, const char *deriver, const char *hash, const char *ref,
		     const char *sig)
{
	wire_put_str(out, deriver);
	wire_put_str(out, hash);
	wire_put_u64(out, 1);
	wire_put_str(out, ref);
	wire_put_u64(out, 5);
	wire_put_u64(out, 120);
	wire_put_u64(out, 1);
	wire_put_u64(out, 1);
	wire_put_str(out, sig);
	wire_put_str(out, "");
}

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_info_round_trip(void **state)
{
	struct wire_out out = new_out(), again = new_out();
	struct wire_info info = {};
	struct source s;

	(void)state;
	put_info(&out, STORE "/" DIGEST "-d.drv", HEX, STORE "/" DIGEST "-r", "k:sig");
	source_init(&s, out.b.data, out.b.len, 7);
	assert_int_equal(wire_get_info(&s.in, STORE, &s.a, &info), 0);
	assert_string_equal(info.deriver, DIGEST "-d.drv");
	assert_string_equal(info.refs.v[0], DIGEST "-r");
	assert_int_equal(info.nar_size, 120);
	assert_true(info.ultimate);
	wire_put_info(&again, &info);
	assert_int_equal(again.b.len, out.b.len);
	assert_memory_equal(again.b.data, out.b.data, out.b.len);
	source_done(&s);
	buf_done(&out.b);
	buf_done(&again.b);
}

static void test_info_hostile(void **state)
{
	static const struct {
		const char *deriver, *hash, *ref, *sig;
	} rows[] = {
		{ "/etc/passwd", HEX, STORE "/" DIGEST "-r", "k:s" },
		{ "", "00", STORE "/" DIGEST "-r", "k:s" },
		{ "", "sha1:0000000000000000000000000000000000000000", STORE "/" DIGEST "-r",
		  "k:s" },
		{ "", HEX, STORE "/" DIGEST "-r/../x", "k:s" },
		{ "", HEX, STORE "/../" DIGEST "-r", "k:s" },
		{ "", HEX, "", "k:s" },
		{ "", HEX, STORE "/" DIGEST "-r", "two words" },
		{ "", HEX, STORE "/" DIGEST "-r", "" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		struct wire_out out = new_out();
		struct wire_info info = {};
		struct source s;

		put_info(&out, rows[i].deriver, rows[i].hash, rows[i].ref, rows[i].sig);
		source_init(&s, out.b.data, out.b.len, 64);
		assert_int_equal(wire_get_info(&s.in, STORE, &s.a, &info), WIRE_BAD);
		assert_non_null(s.e.msg);
		source_done(&s);
		buf_done(&out.b);
	}
}

static int parse_derived(struct source *s, unsigned version, const char *text,
			 struct derived_path *ret)
{
	return derived_path_parse(STORE, version, &s->a, arena_strdup(&s->a, text), ret, &s->e);
}

static void test_derived(void **state)
{
	static const struct {
		unsigned minor;
		const char *text, *base; /* base NULL: refused */
	} rows[] = {
		{ 38, STORE "/" DIGEST "-x.drv", DIGEST "-x.drv" },
		{ 29, STORE "/" DIGEST "-x.drv", DIGEST "-x.drv!*" },
		{ 38, STORE "/" DIGEST "-x", DIGEST "-x" },
		{ 29, STORE "/" DIGEST "-x", DIGEST "-x" },
		{ 38, STORE "/" DIGEST "-x.drv!*", DIGEST "-x.drv!*" },
		{ 38, STORE "/" DIGEST "-x.drv!out", DIGEST "-x.drv!out" },
		{ 38, STORE "/" DIGEST "-x.drv!out,dev,out", DIGEST "-x.drv!dev,out" },
		{ 29, STORE "/" DIGEST "-x.drv!out,dev", DIGEST "-x.drv!dev,out" },
		{ 38, STORE "/" DIGEST "-x.drv!out!dev,out", DIGEST "-x.drv!out!dev,out" },
		{ 38, STORE "/" DIGEST "-x.drv!a!b!*", DIGEST "-x.drv!a!b!*" },
		{ 38, STORE "/" DIGEST "-x.drv!!out", NULL },
		{ 38, STORE "/" DIGEST "-x.drv!*!out", NULL },
		{ 38, STORE "/" DIGEST "-x.drv!a!a!a!a!a!a!a!a!a!a!a!a!a!a!a!a!a!a", NULL },
		{ 38, STORE "/" DIGEST "-x.drv!", NULL },
		{ 38, STORE "/" DIGEST "-x.drv!a,,b", NULL },
		{ 38, STORE "/" DIGEST "-x.drv!a/b", NULL },
		{ 38, "!out", NULL },
		{ 38, "", NULL },
		{ 38, "/etc/passwd!out", NULL },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		struct derived_path d;
		struct source s;
		source_init(&s, "", 0, 1);
		int r = parse_derived(&s, 1u << 8 | rows[i].minor, rows[i].text, &d);
		assert_int_equal(r, rows[i].base ? 0 : WIRE_BAD);
		if (rows[i].base) {
			assert_string_equal(derived_path_base(&s.a, &d), rows[i].base);
			assert_string_equal(d.text, rows[i].text);
		}
		source_done(&s);
	}
}

static void test_result_versions(void **state)
{
	struct wire_built_output o = { "out", DIGEST "-x" };
	struct wire_build_result r = {
		.error = "", .cpu_known = true, .outputs = &o, .n_outputs = 1
	};
	static const struct {
		unsigned minor;
		size_t extra;
	} rows[] = {
		{ 27, 0 }, { 28, 1 }, { 29, 1 + 32 }, { 37, 1 + 32 + 32 }, { 38, 1 + 32 + 32 }
	};
	size_t outputs = 0;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		struct wire_out out = new_out();
		wire_put_build_result(&out, 1u << 8 | rows[i].minor, 0, &r);
		assert_int_equal(out.rc, 0);
		size_t got = out.b.len - 16; /* status, error */
		if (rows[i].minor == 28)
			outputs = got;
		if (rows[i].minor >= 28)
			assert_int_equal(got, outputs + rows[i].extra - 1);
		else
			assert_int_equal(got, 0);
		if (rows[i].minor == 38)
			assert_non_null(
				memmem(out.b.data, out.b.len, "\"outPath\":\"" DIGEST "-x\"", 46));
		buf_done(&out.b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_strings_in_any_pieces),
		cmocka_unit_test(test_hostile_lengths),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_padding_and_nul),
		cmocka_unit_test(test_framed),
		cmocka_unit_test(test_framed_hostile),
		cmocka_unit_test(test_gates),
		cmocka_unit_test(test_handshake),
		cmocka_unit_test(test_error_frames),
		cmocka_unit_test(test_old_clients_hear_text),
		cmocka_unit_test(test_info_round_trip),
		cmocka_unit_test(test_info_hostile),
		cmocka_unit_test(test_derived),
		cmocka_unit_test(test_result_versions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
