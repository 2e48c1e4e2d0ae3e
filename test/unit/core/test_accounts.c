/* What one user may use of the daemon, and that it is given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/accounts.h"

enum { ALICE = 1000, BOB = 1001 };

static void test_connections(void **state)
{
	struct accounts a = {};

	(void)state;
	for (int i = 0; i < CONNECTIONS_PER_UID; i++)
		assert_int_equal(account_open(&a, ALICE), 0);
	assert_int_equal(account_open(&a, ALICE), ACCOUNT_FULL);
	assert_int_equal(account_open(&a, BOB), 0);
	account_close(&a, ALICE);
	assert_int_equal(account_open(&a, ALICE), 0);
	accounts_done(&a);
}

static void test_temporary_roots(void **state)
{
	struct accounts a = {};

	(void)state;
	assert_int_equal(account_hold(&a, ALICE), ACCOUNT_FULL); /* has no session */
	assert_int_equal(account_open(&a, ALICE), 0);
	assert_int_equal(account_open(&a, ALICE), 0);
	assert_int_equal(account_open(&a, BOB), 0);
	for (int i = 0; i < TEMP_ROOTS_PER_UID; i++)
		assert_int_equal(account_hold(&a, ALICE), 0);
	assert_int_equal(account_hold(&a, ALICE), ACCOUNT_FULL);
	assert_int_equal(account_hold(&a, BOB), 0);
	account_let_go(&a, ALICE, 5);
	account_close(&a, ALICE);
	for (int i = 0; i < 5; i++)
		assert_int_equal(account_hold(&a, ALICE), 0);
	assert_int_equal(account_hold(&a, ALICE), ACCOUNT_FULL);
	account_let_go(&a, ALICE, SIZE_MAX);
	assert_int_equal(account_hold(&a, ALICE), 0);
	accounts_done(&a);
}

static void test_crashes(void **state)
{
	struct accounts a = {};

	(void)state;
	account_crash(&a, ALICE);
	account_crash(&a, ALICE);
	assert_int_equal(account_penalty(&a, ALICE), 0);
	account_crash(&a, ALICE);
	assert_in_range(account_penalty(&a, ALICE), 1, 100 * 1000);
	for (int i = 0; i < 100; i++)
		account_crash(&a, ALICE);
	assert_in_range(account_penalty(&a, ALICE), 59 * 1000 * 1000, 60 * 1000 * 1000);
	assert_int_equal(account_penalty(&a, BOB), 0);
	accounts_done(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connections),
		cmocka_unit_test(test_temporary_roots),
		cmocka_unit_test(test_crashes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
