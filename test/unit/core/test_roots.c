/* Links that the daemon makes for others, as a session that was taken over asks for them. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "core/roots.h"

static void links_stay_below_gcroots(void **state)
{
	static const char *const bad[] = { "/gcroots/../db/evil",
					   "/gcroots/./x",
					   "/gcroots//x",
					   "/gcroots/dir/../../db/evil",
					   "/gcroots/dir/",
					   "/gcroots/",
					   "/gcroots/..",
					   "/gcroots/out/evil",
					   "/profiles/per-user/evil",
					   "/gcroots/dir/../x" };
	char top[] = "/tmp/airplant-test-XXXXXX", path[256];
	struct store_path p;

	(void)state;
	assert_non_null(mkdtemp(top));
	assert_int_equal(store_path_parse_base("00000000000000000000000000000000-x", &p, NULL), 0);
	for (const char *const *d =
		     (const char *const[]){ "/gcroots/dir", "/db", "/profiles/per-user", NULL };
	     *d; d++) {
		snprintf(path, sizeof(path), "%s%s", top, *d);
		assert_int_equal(mkdir_p(path, 0755), 0);
	}
	snprintf(path, sizeof(path), "%s/gcroots/out", top);
	assert_int_equal(symlink("../db", path), 0);
	for (size_t i = 0; i < ELEMENTS(bad); i++) {
		_cleanup_err_ struct err e = {};

		snprintf(path, sizeof(path), "%s%s", top, bad[i]);
		assert_int_not_equal(roots_add_perm("/nix/store", top, path, &p, &e), 0);
	}
	snprintf(path, sizeof(path), "%s/db/evil", top);
	assert_int_not_equal(faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW), 0);
	snprintf(path, sizeof(path), "%s/gcroots/dir/good", top);
	assert_int_equal(roots_add_perm("/nix/store", top, path, &p, NULL), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rm_tree_at(AT_FDCWD, top), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(links_stay_below_gcroots) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
