/* Signatures, against one that the stock implementation made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/sigcheck.h"
#include "hash/hash.h"

#define DIR    "/tmp/airplant-sig/store"
#define PUBLIC "test-1:3wxrkbXIonvuQTB8ysk1ZSEQFpK8FgKSyHZoeXplMTA="
#define SECRET                                                                                     \
	"test-1:lK8qIF/"                                                                           \
	"Q3iAR9nC8sI0ZaMxfsnLFUPgKy7DmvVl7zTbfDGuRtciie+5BMHzKyTVlIRAWkrwWApLIdmh5emUxMA=="
#define SIG                                                                                        \
	"test-1:"                                                                                  \
	"ydWckjVf4iVzrLa7qQZ6Yr1OBQ0n6saqQlhQ5DW3j9hIORuEWMShIgGTytNG3IGIerj0Jino8djWVs1Ys7XPAA=="

static char *refs[] = {
	"7gw0kkm0b9p6hl3wzjhqqs7xscix9w0l-fod.drv",
	"j9x7gxqb2pa4qxiwv4m886q7kx7mfa4v-dep.drv",
	"pa3ahin8p458i5w2p4gmfy2jq3z5995q-d",
	"phdcqzijdvbrkrba9xxc55xqc7sq2k3r-t",
};
static char *sigs[1];

static struct path_info signed_info(char *sig)
{
	struct path_info i = { .nar_size = 1120, .refs = { refs, 4 }, .deriver = "", .ca = "" };

	strcpy(i.path.base, "c6x9cq58ld8s1knbm22ys1pk3ms59z8l-top.drv");
	assert_int_equal(
		base16_decode("4a340a1dc605af4ecccdbaa1d0ae00faeeee3318018a96f00e9af1369882174b",
			      64, i.nar_hash, 32),
		0);
	sigs[0] = sig;
	i.sigs = (struct strv){ sigs, 1 };
	return i;
}

static void stock_signature_verifies(void **state)
{
	struct keyring *k = keyring_new();
	struct path_info i = signed_info((char *)SIG);

	(void)state;
	assert_false(keyring_verify(k, DIR, &i)); /* no key, no trust */
	assert_int_equal(keyring_add_public(k, PUBLIC, NULL), 0);
	assert_true(keyring_verify(k, DIR, &i));
	i.nar_size++;
	assert_false(keyring_verify(k, DIR, &i));
	i.nar_size--;
	i.nar_hash[31] ^= 1;
	assert_false(keyring_verify(k, DIR, &i));
	i.nar_hash[31] ^= 1;
	i.refs.n = 3;
	assert_false(keyring_verify(k, DIR, &i));
	i.refs.n = 4;
	assert_false(keyring_verify(k, "/nix/store", &i));
	keyring_free(k);
}

static void odd_signatures_do_not(void **state)
{
	static const char *const odd[] = {
		"",
		":",
		"test-1",
		"test-1:",
		"test-1:AAAA",
		"test-2" SIG,
		"test-1:====",
		"test-1:!"
		"dWckjVf4iVzrLa7qQZ6Yr1OBQ0n6saqQlhQ5DW3j9hIORuEWMShIgGTytNG3IGIerj0Jino8djWVs1Ys7X"
		"PAA==",
		"test-1:"
		"ydWckjVf4iVzrLa7qQZ6Yr1OBQ0n6saqQlhQ5DW3j9hIORuEWMShIgGTytNG3IGIerj0Jino8djWVs1Ys7"
		"XPAAAA",
	};
	struct keyring *k = keyring_new();

	(void)state;
	assert_int_equal(keyring_add_public(k, PUBLIC, NULL), 0);
	for (size_t n = 0; n < sizeof(odd) / sizeof(*odd); n++) {
		struct path_info i = signed_info((char *)odd[n]);

		assert_false(keyring_verify(k, DIR, &i));
	}
	assert_true(keyring_add_public(k, "nocolon", NULL) > 0);
	assert_true(keyring_add_public(k, ":3wxrkbXIonvuQTB8ysk1ZSEQFpK8FgKSyHZoeXplMTA=", NULL) >
		    0);
	assert_true(keyring_add_public(k, "test-1:AAAA", NULL) > 0);
	keyring_free(k);
}

static void signing_gives_the_same_bytes(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct keyring *k = keyring_new();
	struct path_info i = signed_info(NULL);
	char path[] = "/tmp/airplant-key-XXXXXX";
	int fd = mkstemp(path);

	(void)state;
	i.sigs.n = 0;
	assert_int_equal(write(fd, SECRET "\n", sizeof(SECRET)), sizeof(SECRET));
	close(fd);
	assert_int_equal(keyring_add_secret_file(k, path, NULL), 0);
	unlink(path);
	assert_int_equal(keyring_sign(k, DIR, &a, &i), 0);
	assert_int_equal(i.sigs.n, 1);
	assert_string_equal(i.sigs.v[0], SIG);
	assert_int_equal(keyring_sign(k, DIR, &a, &i), 0);
	assert_int_equal(i.sigs.n, 1); /* once is enough */
	keyring_free(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stock_signature_verifies),
		cmocka_unit_test(odd_signatures_do_not),
		cmocka_unit_test(signing_gives_the_same_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
