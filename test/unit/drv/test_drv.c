/* The derivation codec on texts made here: escapes, kinds, look-ups that fail, limits. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "drv/drv.h"

#define DIR	 "/nix/store"
#define DIGEST	 "00000000000000000000000000000000"
#define DEFERRED "Derive([(\"out\",\"\",\"\",\"\")],"
#define REST	 "[],\"sys\",\"/bin/sh\",[],[(\"out\",\"\")])"

static int parse(struct arena *a, const char *text, struct drv *d, struct err *e)
{
	struct store_path p;

	assert_int_equal(store_path_parse_base(DIGEST "-n-1.drv", &p, NULL), 0);
	return drv_parse(DIR, &p, text, strlen(text), a, d, e);
}

static void assert_prints(const struct drv *d, const char *text)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 16);
	_cleanup_free_ char *s = NULL;

	assert_int_equal(drv_print(d, &b), 0);
	s = buf_take_str(&b);
	assert_string_equal(s, text);
}

static void fields(void **state)
{
	static const char text[] =
		"Derive([(\"dev\",\"\",\"\",\"\"),(\"out\",\"\",\"\",\"\")],"
		"[(\"/nix/store/" DIGEST "-i.drv\",[\"bin\",\"out\"])],[\"/nix/store/" DIGEST
		"-s\"],\"x86_64-linux\",\"/bin/sh\",[\"-c\",\"\"],[(\"\",\"\"),(\"a\",\"1\"),"
		"(\"b\",\"2\")])";
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct drv d;

	(void)state;
	assert_int_equal(parse(&a, text, &d, NULL), 0);
	assert_string_equal(d.name, "n-1");
	assert_int_equal(d.kind, DRV_DEFERRED);
	assert_int_equal(d.outputs.n, 2);
	assert_string_equal(drv_output_get(&d, "out")->name, "out");
	assert_null(drv_output_get(&d, "lib"));
	assert_int_equal(d.inputs.n, 1);
	assert_string_equal(d.inputs.v[0].path, "/nix/store/" DIGEST "-i.drv");
	assert_int_equal(d.inputs.v[0].outputs.n, 2);
	assert_string_equal(d.srcs.v[0], "/nix/store/" DIGEST "-s");
	assert_string_equal(d.platform, "x86_64-linux");
	assert_string_equal(d.builder, "/bin/sh");
	assert_int_equal(d.args.n, 2);
	assert_string_equal(drv_env_get(&d, "b"), "2");
	assert_string_equal(drv_env_get(&d, ""), "");
	assert_null(drv_env_get(&d, "c"));
	assert_prints(&d, text);
}

static void escapes(void **state)
{
	static const char text[] = DEFERRED "[],[],\"sys\",\"b\\\"\\\\\\n\\r\\t\",[\"\\\\n\"],"
					    "[(\"k\\n\",\"\001 \xff'\")])";
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct drv d;

	(void)state;
	assert_int_equal(parse(&a, text, &d, NULL), 0);
	assert_string_equal(d.builder, "b\"\\\n\r\t");
	assert_string_equal(d.args.v[0], "\\n");
	assert_string_equal(drv_env_get(&d, "k\n"), "\001 \xff'");
	assert_prints(&d, text);
}

/* As upstream: an unknown escape is the character itself, and raw control characters may stand in
 * a string. Both print in the usual form. */
static void unusual_escapes(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct drv d;

	(void)state;
	assert_int_equal(parse(&a, DEFERRED "[],[],\"s\\ys\",\"\\x\n\\'\",[],[])", &d, NULL), 0);
	assert_string_equal(d.builder, "x\n'");
	assert_prints(&d, DEFERRED "[],[],\"sys\",\"x\\n'\",[],[])");
}

static void fixed_hashes_in_any_base(void **state)
{
	static const char hex[] = "a9993e364706816aba3e25717850c26c9cd0d89d";
	static const char *const forms[] = { hex, "A9993E364706816ABA3E25717850C26C9CD0D89D",
					     "kpcd173cq987hw957sx6m0868wv3x6d9",
					     "qZk+NkcGgWq6PiVxeFDCbJzQ2J0=" };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(forms); i++) {
		_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
		char text[512];
		struct drv d;

		snprintf(text, sizeof(text),
			 "Derive([(\"out\",\"/nix/store/" DIGEST "-x\",\"r:sha1\",\"%s\")],[],[],"
			 "\"\",\"\",[],[])",
			 forms[i]);
		assert_int_equal(parse(&a, text, &d, NULL), 0);
		assert_int_equal(d.kind, DRV_FIXED);
		assert_int_equal(d.fixed.method, CA_NAR);
		assert_int_equal(d.fixed.hash.algo, HASH_SHA1);
		assert_string_equal(d.outputs.v[0].hash, hex);
	}
}

static int no_such_input(void *ctx, const char *drv_path, struct drv_hash *ret, struct err *e)
{
	(void)ret;
	return err_set(e, *(int *)ctx, "cannot read '%s'", drv_path);
}

static int same_for_all(void *ctx, const char *drv_path, struct drv_hash *ret, struct err *e)
{
	(void)drv_path;
	(void)e;
	*ret = *(struct drv_hash *)ctx;
	return 0;
}

static const char one_input[] =
	DEFERRED "[(\"/nix/store/" DIGEST "-i.drv\",[\"bin\",\"out\"])]," REST;
static const char two_inputs[] =
	DEFERRED "[(\"/nix/store/" DIGEST "-i.drv\",[\"out\"]),"
		 "(\"/nix/store/" DIGEST "-j.drv\",[\"bin\",\"out\"])]," REST;

static void outputs_are_limited(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(64 << 20);
	_cleanup_err_ struct err e = {};
	struct drv d;

	(void)state;
	for (int n = DRV_OUTPUTS_MAX; n <= DRV_OUTPUTS_MAX + 1; n++) {
		_cleanup_buf_ struct buf text = BUF_INIT(1 << 20);

		assert_int_equal(buf_append_str(&text, "Derive(["), 0);
		for (int i = 0; i < n; i++)
			assert_int_equal(buf_printf(&text, "%s(\"o%05d\",\"\",\"\",\"\")",
						    i ? "," : "", i),
					 0);
		assert_int_equal(buf_append_str(&text, "],[]," REST), 0);
		assert_int_equal(buf_append_char(&text, 0), 0);
		assert_int_equal(parse(&a, (char *)text.data, &d, &e), n > DRV_OUTPUTS_MAX);
	}
	assert_non_null(strstr(err_msg(&e), "more than 1024 outputs"));
}

static void failed_lookups_keep_their_error(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	static const int codes[] = { -EIO, 42 };
	struct drv d;

	(void)state;
	assert_int_equal(parse(&a, one_input, &d, NULL), 0);
	for (size_t i = 0; i < ELEMENTS(codes); i++) {
		_cleanup_err_ struct err e = {};
		struct drv_hash h;
		int code = codes[i];

		assert_int_equal(drv_hash_modulo(&d, true, no_such_input, &code, &h, &e), code);
		assert_string_equal(err_msg(&e), "cannot read '/nix/store/" DIGEST "-i.drv'");
		assert_int_equal(drv_check(DIR, &d, no_such_input, &code, &h, NULL), code);
	}
}

/* Inputs whose hashes coincide count as one with all their outputs. */
static void equal_inputs_are_one(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct drv_hash same = { .bytes = { 7 } }, h1, h2, expected;
	struct drv d1, d2;
	char text[512], hex[65];

	(void)state;
	assert_int_equal(parse(&a, one_input, &d1, NULL), 0);
	assert_int_equal(parse(&a, two_inputs, &d2, NULL), 0);
	assert_int_equal(drv_hash_modulo(&d1, false, same_for_all, &same, &h1, NULL), 0);
	assert_int_equal(drv_hash_modulo(&d2, false, same_for_all, &same, &h2, NULL), 0);
	base16_encode(same.bytes, 32, hex);
	snprintf(text, sizeof(text), DEFERRED "[(\"%s\",[\"bin\",\"out\"])]," REST, hex);
	sha256(text, strlen(text), expected.bytes);
	assert_memory_equal(h1.bytes, expected.bytes, 32);
	assert_memory_equal(h2.bytes, expected.bytes, 32);
}

static void inputs_without_outputs_leave_no_trace(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct drv_hash same = { .bytes = { 7 } }, h1, h2;
	struct drv d1, d2;

	(void)state;
	assert_int_equal(
		parse(&a, DEFERRED "[(\"/nix/store/" DIGEST "-i.drv\",[])]," REST, &d1, NULL), 0);
	assert_int_equal(parse(&a, DEFERRED "[]," REST, &d2, NULL), 0);
	assert_int_equal(drv_hash_modulo(&d1, true, same_for_all, &same, &h1, NULL), 0);
	assert_int_equal(drv_hash_modulo(&d2, true, same_for_all, &same, &h2, NULL), 0);
	assert_memory_equal(h1.bytes, h2.bytes, 32);
}

static void fixed_inputs_have_only_out(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	_cleanup_err_ struct err e = {};
	struct drv_hash fixed = { .fixed = true }, h;
	struct drv d;

	(void)state;
	assert_int_equal(parse(&a, one_input, &d, NULL), 0);
	assert_int_equal(drv_hash_modulo(&d, false, same_for_all, &fixed, &h, &e), DRV_BAD);
	assert_string_equal(err_msg(&e),
			    "no hash for output 'bin' of derivation '/nix/store/" DIGEST "-i.drv'");
}

/* An output path cannot be known before those of the inputs are. */
static void deferral_is_inherited(void **state)
{
	static const char text[] =
		"Derive([(\"out\",\"/nix/store/" DIGEST "-n-1\",\"\",\"\")],"
		"[(\"/nix/store/" DIGEST "-i.drv\",[\"out\"])],[],\"\",\"\",[],[])";
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	_cleanup_err_ struct err e = {};
	struct drv_hash deferred = { .deferred = true }, h;
	struct drv d;

	(void)state;
	assert_int_equal(parse(&a, text, &d, NULL), 0);
	assert_int_equal(drv_check(DIR, &d, same_for_all, &deferred, &h, &e), DRV_BAD);
	assert_non_null(strstr(err_msg(&e), "should be deferred"));
	assert_int_equal(parse(&a, one_input, &d, NULL), 0);
	assert_int_equal(drv_check(DIR, &d, same_for_all, &deferred, &h, NULL), 0);
	assert_true(h.deferred);
	assert_int_equal(parse(&a, "Derive([(\"out\",\"\",\"sha1\",\"\")],[]," REST, &d, NULL), 0);
	assert_int_equal(d.kind, DRV_FLOATING);
	assert_int_equal(drv_check(DIR, &d, NULL, NULL, &h, NULL), 0);
	assert_true(h.deferred);
}

static void masking_blanks_outputs_only(void **state)
{
	static const char form[] = "Derive([(\"out\",\"/nix/store/%s-x\",\"\",\"\")],[],[],\"\","
				   "\"\",[],[(\"a\",\"%s\"),(\"out\",\"%s\")])";
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct drv_hash h[4];
	static const char *const digests[] = { DIGEST, "11111111111111111111111111111111" };
	char text[512];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(h); i++) {
		struct drv d;

		snprintf(text, sizeof(text), form, digests[i & 1], i == 2 ? "other" : "same",
			 digests[i & 1]);
		assert_int_equal(parse(&a, text, &d, NULL), 0);
		assert_int_equal(drv_hash_modulo(&d, i < 3, NULL, NULL, &h[i], NULL), 0);
	}
	assert_memory_equal(h[0].bytes, h[1].bytes, 32);     /* masked: the paths do not count */
	assert_memory_not_equal(h[0].bytes, h[2].bytes, 32); /* other variables do */
	assert_memory_not_equal(h[1].bytes, h[3].bytes, 32); /* unmasked: they do */
}

static void only_drv_paths_name_derivations(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	_cleanup_err_ struct err e = {};
	static const char text[] = DEFERRED "[]," REST;
	struct store_path p;
	struct drv d;

	(void)state;
	assert_int_equal(store_path_parse_base(DIGEST "-x", &p, NULL), 0);
	assert_int_equal(drv_parse(DIR, &p, text, strlen(text), &a, &d, &e), DRV_BAD);
	assert_int_equal(drv_parse(DIR, NULL, text, strlen(text), &a, &d, NULL), 0);
	assert_string_equal(d.name, "");
}

/* Every prefix of a derivation, in memory of exactly its size: none parses, none is read behind
 * its end (the sanitizer build sees that). */
static void every_prefix_fails(void **state)
{
	(void)state;
	for (size_t len = 0; len < sizeof(two_inputs) - 1; len++) {
		_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
		_cleanup_free_ char *copy = malloc(len + !len);
		_cleanup_err_ struct err e = {};
		struct drv d;

		memcpy(copy, two_inputs, len);
		assert_int_equal(drv_parse(DIR, NULL, copy, len, &a, &d, &e), DRV_BAD);
		assert_non_null(strstr(err_msg(&e), "at byte"));
	}
}

#define DYNAMIC(node)                                                                              \
	"DrvWithVersion(\"xp-dyn-drv\",[(\"out\",\"\",\"\",\"\")],[(\"/nix/store/" DIGEST          \
	"-i.drv\"," node ")]," REST

static void outputs_of_outputs(void **state)
{
	static const char *const good[] = {
		DYNAMIC("([],[(\"out\",[\"out\"])])"),
		DYNAMIC("([\"dev\",\"out\"],[(\"a\",[\"x\"]),(\"b\",([\"y\"],[(\"c\",[]),(\"d\",["
			"\"z\"])"
			"])),(\"e\",[])])"),
		DYNAMIC("([],[(\"a\",([],[(\"b\",([],[(\"c\",[\"out\"])]))]))])"),
	};
	static const char *const bad[] = {
		DYNAMIC("([],[(\"b\",[]),(\"a\",[])])"),
		DYNAMIC("([],[(\"a\",[]),(\"a\",[])])"),
		DYNAMIC("([],[(\"a/b\",[])])"),
		DYNAMIC("([],[(\"a\",[])]"),
		DYNAMIC("([],[(\"a\",([],[(\"a\",([],[(\"a\",([],[(\"a\",([],[(\"a\",([],[(\"a\",(["
			"],["
			"(\"a\",([],[(\"a\",([],[(\"a\",([],[(\"a\",([],[(\"a\",([],[(\"a\",([],[("
			"\"a\","
			"([],[(\"a\",([],[(\"a\",([],[(\"a\",([],[(\"a\",[])"),
	};
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct drv d;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(good); i++) {
		assert_int_equal(parse(&a, good[i], &d, NULL), 0);
		assert_true(drv_has_dynamic_input(&d));
		assert_prints(&d, good[i]);
	}
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(parse(&a, bad[i], &d, NULL), DRV_BAD);
	/* The old form may not have them. */
	assert_int_equal(
		parse(&a, DEFERRED "[(\"/nix/store/" DIGEST "-i.drv\",([],[]))]," REST, &d, NULL),
		DRV_BAD);
}

static int find_by_name(void *ctx, const struct drv_input *in, const char *const *chain,
			size_t depth, const char *output, char **ret, struct err *e)
{
	(void)ctx;
	(void)in;
	(void)e;
	*ret = depth ? (char *)"/nix/store/33333333333333333333333333333333-deep"
		     : (char *)"/nix/store/22222222222222222222222222222222-shallow";
	assert_true(depth == 0 || !strcmp(chain[0], "out"));
	return strcmp(output, "out") ? DRV_BAD : 0;
}

/* The placeholders are those of upstream's test of downstream placeholders (2.34). */
static void resolving(void **state)
{
	static const char text[] =
		"DrvWithVersion(\"xp-dyn-drv\",[(\"out\",\"\",\"\",\"\")],"
		"[(\"/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo.drv\",[\"out\"]),"
		"(\"/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo.drv.drv\",([],[(\"out\",["
		"\"out\"])]))],[],\"sys\",\"/bin/sh\","
		"[\"/0c6rn30q4frawknapgwq386zq358m8r6msvywcvc89n6m5p2dgbz\"],"
		"[(\"a\",\"x/0gn6agqxjyyalf0dpihgyf49xq5hqxgw100f0wydnj6yqrhqsb3w/y\"),"
		"(\"z\",\"\")])";
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	_cleanup_err_ struct err e = {};
	struct drv d, out;

	(void)state;
	assert_int_equal(parse(&a, text, &d, &e), 0);
	assert_int_equal(drv_resolve(DIR, &d, find_by_name, NULL, &a, &out, &e), 0);
	assert_int_equal(out.kind, DRV_INPUT_ADDRESSED);
	assert_int_equal(out.inputs.n, 0);
	assert_int_equal(out.srcs.n, 2);
	assert_string_equal(out.args.v[0], "/nix/store/22222222222222222222222222222222-shallow");
	assert_string_equal(drv_env_get(&out, "a"),
			    "x/nix/store/33333333333333333333333333333333-deep/y");
	/* The output's path follows from the inputs now, and its variable is there. */
	assert_string_equal(drv_env_get(&out, "out"), out.outputs.v[0].path);
	assert_int_equal(drv_check(DIR, &out, NULL, NULL, NULL, &e), 0);
	assert_prints(&d, text);
}

static void limits(void **state)
{
	_cleanup_arena_ struct arena small = ARENA_INIT(64);
	_cleanup_err_ struct err e = {};
	_cleanup_buf_ struct buf tiny = BUF_INIT(16);
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct drv d;

	(void)state;
	assert_int_equal(parse(&small, one_input, &d, &e), -ENOMEM);
	/* Too large is told from the length alone. */
	assert_int_equal(drv_parse(DIR, NULL, "", (size_t)DRV_MAX + 1, &a, &d, &e), DRV_BAD);
	assert_non_null(strstr(err_msg(&e), "too large"));
	assert_int_equal(parse(&a, one_input, &d, NULL), 0);
	assert_int_equal(drv_print(&d, &tiny), -E2BIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fields),
		cmocka_unit_test(escapes),
		cmocka_unit_test(unusual_escapes),
		cmocka_unit_test(fixed_hashes_in_any_base),
		cmocka_unit_test(outputs_are_limited),
		cmocka_unit_test(failed_lookups_keep_their_error),
		cmocka_unit_test(equal_inputs_are_one),
		cmocka_unit_test(inputs_without_outputs_leave_no_trace),
		cmocka_unit_test(fixed_inputs_have_only_out),
		cmocka_unit_test(deferral_is_inherited),
		cmocka_unit_test(masking_blanks_outputs_only),
		cmocka_unit_test(only_drv_paths_name_derivations),
		cmocka_unit_test(every_prefix_fails),
		cmocka_unit_test(outputs_of_outputs),
		cmocka_unit_test(resolving),
		cmocka_unit_test(limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
