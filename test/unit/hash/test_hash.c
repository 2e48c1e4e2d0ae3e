/* Hash functions against published vectors, and texts of hashes against the stock nix-hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "hash/hash.h"

static const char empty256[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/* FIPS 180-4 and RFC 1321: the message "abc". */
static const struct {
	enum hash_algo algo;
	const char *name, *hex;
} vectors[] = {
	{ HASH_MD5, "md5", "900150983cd24fb0d6963f7d28e17f72" },
	{ HASH_SHA1, "sha1", "a9993e364706816aba3e25717850c26c9cd0d89d" },
	{ HASH_SHA256, "sha256",
	  "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
	{ HASH_SHA512, "sha512",
	  "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
	  "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f" },
};

static void vectors_of_the_standards(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTS(vectors); i++) {
		_cleanup_arena_ struct arena a = ARENA_INIT(4096);
		struct hash whole, pieces;
		struct hasher *h = hasher_new(vectors[i].algo);
		enum hash_algo algo;

		hash_buffer(vectors[i].algo, "abc", 3, &whole);
		assert_string_equal(hash_print(&a, &whole, BASE16), vectors[i].hex);
		hasher_feed(h, "a", 1);
		hasher_feed(h, NULL, 0);
		hasher_feed(h, "bc", 2);
		hasher_final(h, &pieces);
		hasher_free(h);
		assert_true(hash_equal(&whole, &pieces));
		pieces.bytes[hash_size(pieces.algo) - 1] ^= 1;
		assert_false(hash_equal(&whole, &pieces));
		assert_int_equal(hash_algo_parse(vectors[i].name, &algo), 0);
		assert_int_equal(algo, vectors[i].algo);
		assert_string_equal(hash_algo_name(algo), vectors[i].name);
		assert_int_equal(strlen(vectors[i].hex), hash_size(algo) * 2);
	}
}

static void sha256_of_nothing(void **state)
{
	uint8_t digest[32];
	char hex[65];

	(void)state;
	sha256("", 0, digest);
	base16_encode(digest, 32, hex);
	assert_string_equal(hex, empty256);
}

static void hashes_of_different_kinds_differ(void **state)
{
	struct hash a = { .algo = HASH_SHA1 }, b = { .algo = HASH_SHA256 };

	(void)state;
	assert_false(hash_equal(&a, &b));
}

static void unknown_algorithms(void **state)
{
	static const char *const bad[] = { "",	      "sha",	"sha2566", "SHA256",
					   "sha256 ", "blake3", "md4" };
	enum hash_algo algo;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(hash_algo_parse(bad[i], &algo), HASH_BAD);
}

/* What the stock nix-hash writes for sha256 of "abc". */
static void texts_in_all_bases(void **state)
{
	static const char b32[] = "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s";
	static const char b64[] = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
	_cleanup_arena_ struct arena a = ARENA_INIT(4096);
	enum hash_algo algo = HASH_SHA256;
	struct hash h, back;
	char sri[80], prefixed[80];

	(void)state;
	snprintf(sri, sizeof(sri), "sha256-%s", b64);
	snprintf(prefixed, sizeof(prefixed), "sha256:%s", b32);
	hash_buffer(HASH_SHA256, "abc", 3, &h);
	assert_string_equal(hash_print(&a, &h, BASE32), b32);
	assert_string_equal(hash_print(&a, &h, BASE64), b64);
	assert_string_equal(hash_print(&a, &h, SRI), sri);

	assert_int_equal(hash_parse(b32, &algo, &back, NULL), 0);
	assert_true(hash_equal(&h, &back));
	assert_int_equal(hash_parse(b64, &algo, &back, NULL), 0);
	assert_true(hash_equal(&h, &back));
	assert_int_equal(hash_parse(vectors[2].hex, &algo, &back, NULL), 0);
	assert_true(hash_equal(&h, &back));
	assert_int_equal(hash_parse(sri, NULL, &back, NULL), 0);
	assert_true(hash_equal(&h, &back));
	assert_int_equal(hash_parse(prefixed, NULL, &back, NULL), 0);
	assert_true(hash_equal(&h, &back));
	sri[strlen(sri) - 1] = 0; /* padding may be missing */
	assert_int_equal(hash_parse(sri, &algo, &back, NULL), 0);
	assert_true(hash_equal(&h, &back));
}

static void every_size_survives_all_bases(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTS(vectors); i++)
		for (int base = BASE16; base <= SRI; base++) {
			_cleanup_arena_ struct arena a = ARENA_INIT(4096);
			struct hash h, back = {};

			hash_buffer(vectors[i].algo, &i, sizeof(i), &h);
			assert_int_equal(hash_parse(hash_print(&a, &h, base),
						    base == SRI ? NULL : &h.algo, &back, NULL),
					 0);
			assert_true(hash_equal(&h, &back));
		}
}

static void bad_texts_say_why(void **state)
{
	static const struct {
		const char *text, *why;
		bool untyped;
	} bad[] = {
		{ "", "hash '' has wrong length for hash algorithm 'sha256'" },
		{ "abc", "hash 'abc' has wrong length for hash algorithm 'sha256'" },
		{ empty256, "does not include a type", true },
		{ "sha1:a9993e364706816aba3e25717850c26c9cd0d89d", "should have type 'sha256'" },
		{ "sha999:00", "unknown hash algorithm 'sha999'" },
		{ ":00", "unknown hash algorithm ''" },
		{ "sha256:sha256:00", "has wrong length" },
		{ "sha256:", "has wrong length" },
		{ "sha256-", "invalid SRI hash '', length 0 != expected length 32" },
		{ "sha256-ungWv48B", "length 6 != expected length 32" },
		{ "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=x", "invalid padding" },
		{ "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0===", "invalid padding" },
		{ "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0AAAA=", "length 35" },
		{ "sha256-ungWv48Bz pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
		  "invalid character in Base64 string: ' '" },
		{ "g3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		  "invalid character in Base16 string: 'g'" },
		{ "eb8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
		  "invalid character in Nix32 (Nix's Base32 variation) string: 'e'" },
		{ "zb8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
		  "length 33 != expected length 32" },
	};
	enum hash_algo algo = HASH_SHA256;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++) {
		_cleanup_err_ struct err e = {};
		struct hash h = { .algo = HASH_MD5 };

		assert_int_equal(hash_parse(bad[i].text, bad[i].untyped ? NULL : &algo, &h, &e),
				 HASH_BAD);
		if (!strstr(err_msg(&e), bad[i].why))
			fail_msg("'%s' gave: %s", bad[i].text, err_msg(&e));
		assert_int_equal(h.algo, HASH_MD5); /* untouched */
	}
}

static void base32_is_the_stores_own(void **state)
{
	static const uint8_t one[] = { 1, 0 };
	uint8_t back[20];
	char text[40];

	(void)state;
	assert_int_equal(base32_len(0), 0);
	assert_int_equal(base32_len(20), 32);
	assert_int_equal(base32_len(32), 52);
	base32_encode(one, sizeof(one), text);
	assert_string_equal(text, "0001"); /* last byte first */
	base32_encode(NULL, 0, text);
	assert_string_equal(text, "");

	assert_int_equal(base32_decode("0001", 4, back, 2), 0);
	assert_memory_equal(back, one, 2);
	assert_int_equal(base32_decode("1zzz", 4, back, 2), 0);
	assert_int_equal(back[1], 0xff);
	assert_int_equal(base32_decode("2000", 4, back, 2), HASH_BAD); /* a 17th bit */
	assert_int_equal(base32_decode("0001", 4, back, 3), HASH_BAD);
	assert_int_equal(base32_decode("000\0", 4, back, 2), HASH_BAD);
	assert_int_equal(base32_decode("000\xff", 4, back, 2), HASH_BAD);
	for (const char *p = "eotuABZ_-"; *p; p++) {
		char digits[4] = { '0', '0', '0', *p };

		assert_int_equal(base32_decode(digits, 4, back, 2), HASH_BAD);
	}
}

static void base16_takes_either_case(void **state)
{
	uint8_t back[2];

	(void)state;
	assert_int_equal(base16_decode("aBF0", 4, back, 2), 0);
	assert_int_equal(back[0], 0xab);
	assert_int_equal(back[1], 0xf0);
	assert_int_equal(base16_decode("aBF", 3, back, 1), HASH_BAD);
	assert_int_equal(base16_decode("aBF0", 4, back, 1), HASH_BAD);
	assert_int_equal(base16_decode("aB:0", 4, back, 2), HASH_BAD);
}

static void folding(void **state)
{
	static const uint8_t in[5] = { 1, 2, 4, 8, 16 };
	uint8_t out[2] = { 0xaa, 0xaa };

	(void)state;
	hash_compress(in, sizeof(in), out, sizeof(out));
	assert_int_equal(out[0], 1 ^ 4 ^ 16);
	assert_int_equal(out[1], 2 ^ 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vectors_of_the_standards),
		cmocka_unit_test(sha256_of_nothing),
		cmocka_unit_test(hashes_of_different_kinds_differ),
		cmocka_unit_test(unknown_algorithms),
		cmocka_unit_test(texts_in_all_bases),
		cmocka_unit_test(every_size_survives_all_bases),
		cmocka_unit_test(bad_texts_say_why),
		cmocka_unit_test(base32_is_the_stores_own),
		cmocka_unit_test(base16_takes_either_case),
		cmocka_unit_test(folding),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
