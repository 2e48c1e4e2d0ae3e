/* The spool and its trash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "core/trash.h"
#include "scratch.h"

static struct scratch s;

static int setup(void **state)
{
	(void)state;
	scratch_open(&s);
	return 0;
}
static int teardown(void **state)
{
	(void)state;
	scratch_close(&s);
	return 0;
}

/* Whatever a session did to its directory, no other client's session sees it. */
static void each_is_fresh(void **state)
{
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL;
	struct stat st;
	int fd;

	(void)state;
	assert_int_equal(spool_make(s.core.spool, 's', &a, &fd), 0);
	assert_int_equal(fchmod(fd, 0777), 0); /* a hostile session opens its door */
	close(fd);
	spool_drop(s.core.spool, a);
	assert_int_equal(access(a, F_OK), -1);
	assert_int_equal(spool_make(s.core.spool, 's', &b, &fd), 0);
	assert_string_not_equal(a, b);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	scratch_write(fd, ".hidden", "x");
	close(fd);
	spool_drop(s.core.spool, b);
	assert_int_equal(access(b, F_OK), -1);
	assert_int_equal(spool_make(s.core.spool, 's', &c, &fd), 0);
	assert_string_not_equal(b, c);
	close(fd);
}

static void only_its_own_are_dropped(void **state)
{
	char path[128];

	(void)state;
	snprintf(path, sizeof(path), "%s/trash/../../..", spool_dir(s.core.spool));
	spool_drop(s.core.spool, path);
	spool_drop(s.core.spool, s.core.store_dir);
	assert_int_equal(access(s.core.store_dir, F_OK), 0);
	assert_int_equal(access(s.core.state_dir, F_OK), 0);
}

static void sealed_trees_can_be_thrown_away(void **state)
{
	(void)state;
	assert_int_equal(mkdirat(s.core.store_fd, "x", 0755), 0);
	assert_int_equal(mkdirat(s.core.store_fd, "x/y", 0555), 0);
	assert_int_equal(fchmodat(s.core.store_fd, "x", 0555, 0), 0);
	assert_int_equal(trash_put_uncounted(&s.core, s.core.store_fd, "x"), 0);
	assert_false(scratch_exists(&s, "x"));
	assert_int_equal(trash_put_uncounted(&s.core, s.core.store_fd, "x"), 0); /* nothing there */
}

static void a_restart_sweeps(void **state)
{
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL;
	struct err e = {};
	int fd;

	(void)state;
	assert_int_equal(spool_make(s.core.spool, 's', &a, &fd), 0);
	scratch_write(fd, "half", "x");
	close(fd);
	assert_int_equal(spool_make(s.core.spool, 'b', &b, &fd), 0);
	scratch_write(fd, "half", "x");
	close(fd);
	spool_close(s.core.spool);
	assert_int_equal(spool_open(&s.core, &s.core.spool, &e), 0);
	assert_int_equal(access(a, F_OK), -1);
	assert_int_equal(access(b, F_OK),
			 0); /* it may have files of build ids: not for the trash */
	assert_int_equal(spool_lose_leftovers(s.core.spool), 0);
	assert_int_equal(access(b, F_OK), -1);
	assert_int_equal(access(spool_lost_dir(s.core.spool), F_OK), 0);
	assert_true(asprintf(&c, "%s/0/half", spool_lost_dir(s.core.spool)) > 0);
	assert_int_equal(access(c, F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_is_fresh, setup, teardown),
		cmocka_unit_test_setup_teardown(only_its_own_are_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(sealed_trees_can_be_thrown_away, setup, teardown),
		cmocka_unit_test_setup_teardown(a_restart_sweeps, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
