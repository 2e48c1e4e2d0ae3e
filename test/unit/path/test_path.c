/* Store paths: hostile texts, and computed paths against what the stock nix computed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "path/path.h"

#define DIR    "/nix/store"
#define DIGEST "00000000000000000000000000000000"

static void good_paths(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(4096);
	struct store_path p, q;

	(void)state;
	assert_int_equal(store_path_parse(DIR, DIR "/" DIGEST "-a+-._?=Z9", &p, NULL), 0);
	assert_string_equal(p.base, DIGEST "-a+-._?=Z9");
	assert_string_equal(store_path_name(&p), "a+-._?=Z9");
	assert_string_equal(store_path_full(&a, DIR, &p), DIR "/" DIGEST "-a+-._?=Z9");
	assert_int_equal(store_path_of_subpath(DIR, DIR "/" DIGEST "-x/bin/../y", &q, NULL), 0);
	assert_string_equal(q.base, DIGEST "-x");
	assert_int_equal(store_path_of_subpath(DIR, DIR "/" DIGEST "-x", &q, NULL), 0);
	assert_int_equal(store_path_of_subpath(DIR, DIR "/" DIGEST "-x/", &q, NULL), 0);
}

static void derivations_by_name(void **state)
{
	struct store_path p;

	(void)state;
	assert_int_equal(store_path_parse_base(DIGEST "-a.drv", &p, NULL), 0);
	assert_true(store_path_is_drv(&p));
	assert_int_equal(store_path_parse_base(DIGEST "-a.drv2", &p, NULL), 0);
	assert_false(store_path_is_drv(&p));
	assert_int_equal(store_path_parse_base(DIGEST "-drv", &p, NULL), 0);
	assert_false(store_path_is_drv(&p));
}

static void bad_paths_say_why(void **state)
{
	static const struct {
		const char *full, *why;
	} bad[] = {
		{ "", "path '' is not in the Nix store" },
		{ DIR, "is not in the Nix store" },
		{ DIR "/", "is not in the Nix store" },
		{ DIR "2/" DIGEST "-x", "is not in the Nix store" },
		{ "/nix/stor/" DIGEST "-x", "is not in the Nix store" },
		{ DIR "//" DIGEST "-x", "is not in the Nix store" },
		{ DIR "/" DIGEST "-x/", "is not in the Nix store" },
		{ DIR "/" DIGEST "-x/bin", "is not in the Nix store" },
		{ DIR "/../etc/passwd", "is not in the Nix store" },
		{ DIR "/..", "'..' is too short to be a valid store path" },
		{ DIR "/.links", "'.links' is too short" },
		{ DIR "/" DIGEST, "is too short" },
		{ DIR "/" DIGEST "-", "name must not be empty" },
		{ DIR "/" DIGEST "xname", "no '-' between" },
		{ DIR "/e0000000000000000000000000000000-x",
		  "store path 'e0000000000000000000000000000000-x' contains illegal base-32 "
		  "character 'e'" },
		{ DIR "/0000000000000000000000000000000A-x", "illegal base-32 character 'A'" },
		{ DIR "/0000000000000000000000000000000\xff-x", "illegal base-32 character" },
		{ DIR "/" DIGEST "-a b", "contains illegal character ' '" },
		{ DIR "/" DIGEST "-a\nb", "contains illegal character '\n'" },
		{ DIR "/" DIGEST "-\xc3\xa4", "contains illegal character" },
		{ DIR "/" DIGEST "-.", "name '.' is not valid" },
		{ DIR "/" DIGEST "-..", "name '..' is not valid" },
		{ DIR "/" DIGEST "-.-x", "first dash-separated component must not be '.'" },
		{ DIR "/" DIGEST "-..-x", "first dash-separated component must not be '..'" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++) {
		_cleanup_err_ struct err e = {};
		struct store_path p = { .base = "untouched" };

		assert_int_equal(store_path_parse(DIR, bad[i].full, &p, &e), PATH_BAD);
		if (!strstr(err_msg(&e), bad[i].why))
			fail_msg("'%s' gave: %s", bad[i].full, err_msg(&e));
		assert_string_equal(p.base, "untouched");
		assert_int_equal(store_path_parse(DIR, bad[i].full, &p, NULL), PATH_BAD);
	}
}

static void bad_subpaths(void **state)
{
	static const char *const bad[] = { "",
					   DIR,
					   DIR "/",
					   DIR "//" DIGEST "-x",
					   "/etc/passwd",
					   DIR "/short/x",
					   DIR "/../" DIGEST "-x" };
	char text[600];
	struct store_path p;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(store_path_of_subpath(DIR, bad[i], &p, NULL), PATH_BAD);
	/* A component that is too long must not become a valid one by being cut. */
	memset(text, 'x', sizeof(text));
	memcpy(text, DIR "/" DIGEST "-", sizeof(DIR "/" DIGEST "-") - 1);
	text[sizeof(text) - 1] = 0;
	for (size_t len = STORE_NAME_MAX + 1; len < 400; len++) {
		size_t at = sizeof(DIR "/" DIGEST "-") - 1 + len;

		text[at] = '/';
		assert_int_equal(store_path_of_subpath(DIR, text, &p, NULL), PATH_BAD);
		text[at] = 'x';
	}
	text[sizeof(DIR "/" DIGEST "-") - 1 + STORE_NAME_MAX] = '/';
	assert_int_equal(store_path_of_subpath(DIR, text, &p, NULL), 0);
}

static void names(void **state)
{
	_cleanup_err_ struct err e = {};
	static const char *const good[] = { "...", "...-", ".x", "..x", "-", ".x-", "a.drv" };
	char longest[STORE_NAME_MAX + 2];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(good); i++)
		assert_int_equal(store_name_check(good[i], NULL), 0);
	memset(longest, 'a', sizeof(longest));
	longest[STORE_NAME_MAX] = 0;
	assert_int_equal(store_name_check(longest, NULL), 0);
	longest[STORE_NAME_MAX] = 'a';
	longest[STORE_NAME_MAX + 1] = 0;
	assert_int_equal(store_name_check(longest, &e), PATH_BAD);
	assert_non_null(strstr(err_msg(&e), "must be no longer than 211 characters"));
}

/* nix-store --print-fixed-path ALGO HASH name-1, for the hash of "x". */
static void fixed_paths_as_the_stock_nix(void **state)
{
	static const struct {
		enum hash_algo algo;
		enum ca_method method;
		const char *base;
	} known[] = {
		{ HASH_MD5, CA_FLAT, "4cbz12yyvmgpq30pfvpnfvwr8mm5yzhq-name-1" },
		{ HASH_MD5, CA_NAR, "68asrg83ya9r2ck2l2fqlrrvmsgq3as4-name-1" },
		{ HASH_SHA1, CA_FLAT, "q07c6zhsg6ih6n4mzvkf2r5w12pmymgn-name-1" },
		{ HASH_SHA1, CA_NAR, "hpyfvpmz7psvcxa2aw1r6jpx3sxnrqrz-name-1" },
		{ HASH_SHA256, CA_FLAT, "j3v8n0vyb52f4mb5rwfvxl371q5bvx0q-name-1" },
		{ HASH_SHA256, CA_NAR, "8pa618hmpld91x2bxm9vypc0sp2w40q0-name-1" },
		{ HASH_SHA512, CA_FLAT, "shbyallslx1mbwn0l4h32y1iscg988vd-name-1" },
		{ HASH_SHA512, CA_NAR, "zkx466zpfgsyjr3mh8pi3njpl4cqjfvb-name-1" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(known); i++) {
		struct ca ca = { .method = known[i].method };
		struct store_path p;

		hash_buffer(known[i].algo, "x", 1, &ca.hash);
		assert_int_equal(store_path_for_ca(DIR, "name-1", &ca, NULL, false, &p, NULL), 0);
		assert_string_equal(p.base, known[i].base);
	}
}

/* builtins.toFile "a" "x", and one that refers to it. */
static void text_paths_as_the_stock_nix(void **state)
{
	char *dep = (char *)"12wigjpizrn8axaqxj288q1b751qmwya-a";
	struct strv refs = { .v = &dep, .n = 1 };
	struct ca ca = { .method = CA_TEXT };
	static const char text[] = "see /nix/store/12wigjpizrn8axaqxj288q1b751qmwya-a";
	struct store_path p;

	(void)state;
	hash_buffer(HASH_SHA256, "x", 1, &ca.hash);
	assert_int_equal(store_path_for_ca(DIR, "a", &ca, NULL, false, &p, NULL), 0);
	assert_string_equal(p.base, dep);
	hash_buffer(HASH_SHA256, text, strlen(text), &ca.hash);
	assert_int_equal(store_path_for_ca(DIR, "b", &ca, &refs, false, &p, NULL), 0);
	assert_string_equal(p.base, "m5gl096fdzlmvp69v4iqgikbjnsz9ai9-b");
}

/* From `nix store make-content-addressed`: a reference, and one to itself. */
static void source_paths_with_references(void **state)
{
	char *dep = (char *)"8zw1g5l1xmf76pi5lhqh7nzv5xraacmh-dep";
	struct strv refs = { .v = &dep, .n = 1 };
	struct store_path p;
	struct ca ca;

	(void)state;
	assert_int_equal(
		ca_parse("fixed:r:sha256:00frwg0rn4vm6l1cjxirpal9a0kjsaycv2a9mzhcvpz5v10csb5i", &ca,
			 NULL),
		0);
	assert_int_equal(store_path_for_ca("/tmp/ap/store", "self-1", &ca, &refs, true, &p, NULL),
			 0);
	assert_string_equal(p.base, "hk7qylk63kbmi33q7y6w09cd45iszip8-self-1");
	assert_int_equal(store_path_for_ca("/tmp/ap/store", "self-1", &ca, &refs, false, &p, NULL),
			 0);
	assert_string_not_equal(p.base, "hk7qylk63kbmi33q7y6w09cd45iszip8-self-1");
}

static void references_where_none_may_be(void **state)
{
	_cleanup_err_ struct err e = {};
	char *dep = (char *)DIGEST "-dep";
	struct strv refs = { .v = &dep, .n = 1 };
	struct ca ca = { .method = CA_FLAT, .hash = { .algo = HASH_SHA256 } };
	struct store_path p;

	(void)state;
	assert_int_equal(store_path_for_ca(DIR, "x", &ca, &refs, false, &p, &e), PATH_BAD);
	assert_non_null(strstr(err_msg(&e), "fixed output derivation 'x' is not allowed to refer"));
	assert_int_equal(store_path_for_ca(DIR, "x", &ca, NULL, true, &p, NULL), PATH_BAD);
	ca.method = CA_NAR;
	ca.hash.algo = HASH_SHA1;
	assert_int_equal(store_path_for_ca(DIR, "x", &ca, &refs, false, &p, NULL), PATH_BAD);
	ca = (struct ca){ .method = CA_TEXT, .hash = { .algo = HASH_SHA256 } };
	assert_int_equal(store_path_for_ca(DIR, "x", &ca, NULL, true, &p, NULL), PATH_BAD);
	ca.hash.algo = HASH_MD5;
	assert_int_equal(store_path_for_ca(DIR, "x", &ca, NULL, false, &p, NULL), PATH_BAD);
	ca.hash.algo = HASH_SHA256;
	assert_int_equal(store_path_for_ca(DIR, "a/b", &ca, NULL, false, &p, NULL), PATH_BAD);
	assert_int_equal(store_path_for_ca(DIR, "", &ca, NULL, false, &p, NULL), PATH_BAD);
}

static void output_names(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(4096);
	uint8_t hash[32] = { 1 };
	char name[STORE_NAME_MAX + 1] = {};
	struct store_path p, q;

	(void)state;
	assert_string_equal(output_object_name(&a, "hello-1", "out"), "hello-1");
	assert_string_equal(output_object_name(&a, "hello-1", "dev"), "hello-1-dev");
	assert_int_equal(store_path_for_output(DIR, "hello-1", "out", hash, &p, NULL), 0);
	assert_string_equal(store_path_name(&p), "hello-1");
	assert_int_equal(store_path_for_output(DIR, "hello-1", "dev", hash, &q, NULL), 0);
	assert_string_equal(store_path_name(&q), "hello-1-dev");
	assert_memory_not_equal(p.base, q.base, STORE_DIGEST_LEN);
	memset(name, 'n', STORE_NAME_MAX);
	assert_int_equal(store_path_for_output(DIR, name, "out", hash, &p, NULL), 0);
	assert_int_equal(store_path_for_output(DIR, name, "dev", hash, &p, NULL), PATH_BAD);
	assert_int_equal(store_path_for_output(DIR, "x", "a/b", hash, &p, NULL), PATH_BAD);
	assert_int_equal(store_path_for_output(DIR, "", "out", hash, &p, NULL), PATH_BAD);
}

static void ca_texts(void **state)
{
	static const char *const good[] = {
		"fixed:r:sha256:00frwg0rn4vm6l1cjxirpal9a0kjsaycv2a9mzhcvpz5v10csb5i",
		"fixed:git:sha1:kpcd173cq987hw957sx6m0868wv3x6d9",
		"text:sha256:00frwg0rn4vm6l1cjxirpal9a0kjsaycv2a9mzhcvpz5v10csb5i",
		"fixed:sha1:kpcd173cq987hw957sx6m0868wv3x6d9",
		"fixed:r:md5:3jgzhjhz9zjvbb0kyj7jc500ch",
	};
	static const struct {
		const char *text, *why;
	} bad[] = {
		{ "", "not a content address" },
		{ "fixed", "not a content address because it is not in the form" },
		{ "fixed:", "content address hash must be in form '<algo>:<hash>'" },
		{ "fixed:r:", "content address hash must be in form" },
		{ "fixed:sha256", "content address hash must be in form" },
		{ "fixed:sha3:00", "unknown hash algorithm 'sha3'" },
		{ "fixed:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:00", "unknown hash" },
		{ "fixed:sha256:00", "has wrong length" },
		{ "fixed:sha1:sha1:kpcd173cq987hw957sx6m0868wv3x6d9", "has wrong length" },
		{ "fixed:sha256:sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
		  "has wrong length" },
		{ "fixed:git:md5:kpcd173cq987hw957sx6m0868wv3x6d9", "must use SHA-1 or SHA-256" },
		{ "text:sha1:kpcd173cq987hw957sx6m0868wv3x6d9", "should use sha256" },
		{ "nar:sha1:00", "content address prefix 'nar' is unrecognized" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(good); i++) {
		_cleanup_arena_ struct arena a = ARENA_INIT(4096);
		struct ca ca;

		assert_int_equal(ca_parse(good[i], &ca, NULL), 0);
		assert_string_equal(ca_print(&a, &ca), good[i]);
	}
	for (size_t i = 0; i < ELEMENTS(bad); i++) {
		_cleanup_err_ struct err e = {};
		struct ca ca;

		assert_int_equal(ca_parse(bad[i].text, &ca, &e), PATH_BAD);
		if (!strstr(err_msg(&e), bad[i].why))
			fail_msg("'%s' gave: %s", bad[i].text, err_msg(&e));
	}
}

static void ca_methods_of_the_wire(void **state)
{
	static const char *const bad[] = {
		"",	  "text",     "text:sha1",     "fixed:",	"fixed:r:",
		"sha256", "r:sha256", "fixed:sha256:", "fixed:sha256 ", "fixed:git:md5"
	};
	enum ca_method method;
	enum hash_algo algo;

	(void)state;
	assert_int_equal(ca_method_parse("text:sha256", &method, &algo, NULL), 0);
	assert_int_equal(method, CA_TEXT);
	assert_int_equal(algo, HASH_SHA256);
	assert_int_equal(ca_method_parse("fixed:sha1", &method, &algo, NULL), 0);
	assert_int_equal(method, CA_FLAT);
	assert_int_equal(algo, HASH_SHA1);
	assert_int_equal(ca_method_parse("fixed:r:sha512", &method, &algo, NULL), 0);
	assert_int_equal(method, CA_NAR);
	assert_int_equal(algo, HASH_SHA512);
	assert_int_equal(ca_method_parse("fixed:git:sha1", &method, &algo, NULL), 0);
	assert_int_equal(method, CA_GIT);
	assert_int_equal(algo, HASH_SHA1);
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(ca_method_parse(bad[i], &method, &algo, NULL), PATH_BAD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_paths),
		cmocka_unit_test(derivations_by_name),
		cmocka_unit_test(bad_paths_say_why),
		cmocka_unit_test(bad_subpaths),
		cmocka_unit_test(names),
		cmocka_unit_test(fixed_paths_as_the_stock_nix),
		cmocka_unit_test(text_paths_as_the_stock_nix),
		cmocka_unit_test(source_paths_with_references),
		cmocka_unit_test(references_where_none_may_be),
		cmocka_unit_test(output_names),
		cmocka_unit_test(ca_texts),
		cmocka_unit_test(ca_methods_of_the_wire),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
