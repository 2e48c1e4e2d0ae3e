/* The trash: emptied by a child, counted, resumed, and never a reason to wait. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
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

static size_t entries(void)
{
	char path[128];
	size_t n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "%s/trash", spool_dir(s.core.spool));
	d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

struct answer {
	int calls;
	bool complete;
};

static void done(void *ctx, bool complete)
{
	struct answer *a = ctx;

	a->calls++;
	a->complete = complete;
	loop_quit(s.core.loop);
}

static void make_tree(const char *name, const char *text)
{
	_cleanup_close_ int fd = -1;

	assert_int_equal(mkdirat(s.core.store_fd, name, 0755), 0);
	fd = openat(s.core.store_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	scratch_write(fd, "f", text);
	assert_int_equal(fchmod(fd, 0555), 0);
}

static void counted(void **state)
{
	struct trash_wait *w = NULL;
	struct answer a = { 0 };

	(void)state;
	make_tree("x", "12345");
	make_tree("y", "1");
	assert_int_equal(trash_put(&s.core, s.core.store_fd, "x"), 0);
	assert_int_equal(trash_put_uncounted(&s.core, s.core.store_fd, "y"), 0);
	assert_false(scratch_exists(&s, "x"));
	assert_int_equal(trash_freed(&s.core), 0);
	assert_int_equal(trash_when_empty(&s.core, done, &a, &w), 0);
	assert_int_equal(loop_run(s.core.loop), 0);
	assert_int_equal(a.calls, 1);
	assert_true(a.complete);
	assert_int_equal(trash_freed(&s.core), 5);
	assert_int_equal(entries(), 0);
}

/* What came after a child had started is waited for as well. */
static void late(void **state)
{
	struct trash_wait *w = NULL;
	struct answer a = { 0 }, b = { 0 };

	(void)state;
	make_tree("x", "12345");
	assert_int_equal(trash_put(&s.core, s.core.store_fd, "x"), 0);
	assert_int_equal(trash_when_empty(&s.core, done, &a, &w), 0);
	scratch_spin(&s); /* the child starts */
	make_tree("y", "678");
	assert_int_equal(trash_put(&s.core, s.core.store_fd, "y"), 0);
	assert_int_equal(trash_when_empty(&s.core, done, &b, &w), 0);
	while (!b.calls)
		assert_int_equal(loop_run(s.core.loop), 0);
	assert_true(a.calls == 1 && a.complete && b.complete);
	assert_int_equal(trash_freed(&s.core), 8);
	assert_int_equal(entries(), 0);
}

static void forgotten(void **state)
{
	struct trash_wait *w = NULL, *w2 = NULL;
	struct answer a = { 0 }, b = { 0 };

	(void)state;
	assert_int_equal(trash_when_empty(&s.core, done, &a, &w), 0);
	assert_int_equal(trash_when_empty(&s.core, done, &b, &w2), 0);
	trash_forget(w);
	while (!b.calls)
		assert_int_equal(loop_run(s.core.loop), 0);
	assert_int_equal(a.calls, 0);
}

/* A life that ends in the middle leaves its work to the next. */
static void resumed(void **state)
{
	struct trash_wait *w = NULL;
	struct answer a = { 0 };
	struct err e = {};

	(void)state;
	make_tree("x", "12345");
	assert_int_equal(trash_put(&s.core, s.core.store_fd, "x"), 0);
	assert_int_equal(trash_when_empty(&s.core, done, &a, &w), 0);
	spool_close(s.core.spool);
	assert_null(s.core.trash);
	assert_int_equal(a.calls, 0);
	assert_int_equal(spool_open(&s.core, &s.core.spool, &e), 0);
	assert_int_equal(trash_when_empty(&s.core, done, &a, &w), 0);
	assert_int_equal(loop_run(s.core.loop), 0);
	assert_true(a.complete);
	assert_int_equal(entries(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(counted, setup, teardown),
		cmocka_unit_test_setup_teardown(late, setup, teardown),
		cmocka_unit_test_setup_teardown(forgotten, setup, teardown),
		cmocka_unit_test_setup_teardown(resumed, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
