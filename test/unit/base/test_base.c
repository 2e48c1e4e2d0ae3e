/* The base layer: buffers and arenas keep their limits, maps keep their entries, and deleting a
 * tree reaches everything in it and nothing outside. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/strv.h"

static void test_buf_limit(void **state)
{
	(void)state;
	_cleanup_buf_ struct buf b = BUF_INIT(10);

	assert_int_equal(buf_append(&b, "12345678", 8), 0);
	assert_int_equal(buf_append(&b, "abc", 3), -E2BIG);
	assert_int_equal(b.len, 8);
	assert_int_equal(buf_reserve(&b, SIZE_MAX), -E2BIG);
	assert_int_equal(buf_append(&b, "ab", 2), 0);
	buf_consume(&b, 8);
	assert_int_equal(b.len, 2);
	assert_memory_equal(b.data, "ab", 2);
}

static void test_arena_limit(void **state)
{
	(void)state;
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	char *s = arena_printf(&a, "%s-%d", "x", 7);

	assert_string_equal(s, "x-7");
	assert_null(arena_alloc(&a, 1 << 17));
	assert_null(arena_alloc(&a, SIZE_MAX));
	assert_null(arena_array(&a, SIZE_MAX / 2, 4));
	for (int i = 0; i < 4000; i++)
		if (!arena_alloc(&a, 16))
			return; /* exhausted, as it must be before 64 KiB + one block */
	assert_int_equal(a.used <= a.max, 1);
}

static void test_map(void **state)
{
	(void)state;
	_cleanup_smap_ struct smap m = {};
	char key[32];
	size_t seen = 0;
	struct smap_entry *e;

	assert_null(smap_get(&m, "nothing"));
	for (uintptr_t i = 1; i <= 5000; i++) {
		snprintf(key, sizeof(key), "key-%lu", (unsigned long)i);
		assert_int_equal(smap_put(&m, key, (void *)i), 0);
	}
	for (uintptr_t i = 1; i <= 5000; i += 2) {
		snprintf(key, sizeof(key), "key-%lu", (unsigned long)i);
		assert_ptr_equal(smap_remove(&m, key), (void *)i);
	}
	for (uintptr_t i = 1; i <= 5000; i++) {
		snprintf(key, sizeof(key), "key-%lu", (unsigned long)i);
		assert_ptr_equal(smap_get(&m, key), i % 2 ? NULL : (void *)i);
	}
	for (size_t i = 0; (e = smap_next(&m, &i));)
		seen++;
	assert_int_equal(seen, 2500);
	/* Coming and going for long must not fill the table with graves. */
	for (int i = 0; i < 100000; i++) {
		snprintf(key, sizeof(key), "fleeting-%d", i);
		assert_int_equal(smap_put(&m, key, &m), 0);
		assert_ptr_equal(smap_remove(&m, key), &m);
	}
	assert_true(m.cap < 65536);
}

static void test_strv(void **state)
{
	(void)state;
	_cleanup_strv_ struct strv s = {};
	char text[16];

	for (int i = 0; i < 40; i++) {
		snprintf(text, sizeof(text), "%02d", (i * 7) % 20);
		assert_int_equal(strv_add(&s, text), 0);
	}
	strv_sort_uniq(&s, true);
	assert_int_equal(s.n, 20);
	assert_true(strv_has_sorted(&s, "13"));
	assert_false(strv_has_sorted(&s, "99"));
	for (int i = 0; i < 40; i++)
		assert_int_equal(strv_add(&s, "more"), 0);
	assert_int_equal(s.n, 60);
}

static void test_err(void **state)
{
	(void)state;
	_cleanup_err_ struct err e = {};

	assert_int_equal(err_errno(&e, -ENOENT, "opening '%s'", "x"), -ENOENT);
	assert_int_equal(err_prefix(&e, "while testing: "), -ENOENT);
	assert_string_equal(err_msg(&e), "while testing: opening 'x': No such file or directory");
	assert_int_equal(err_set(NULL, 3, "nobody listens"), 3);
}

/* Deeper than any path may be, with modes that forbid everything, and a link that leads out. */
static void test_rm_tree(void **state)
{
	(void)state;
	char dir[] = "/tmp/airplant-rm-XXXXXX";
	int top, fd;

	assert_non_null(mkdtemp(dir));
	top = open(dir, O_RDONLY | O_DIRECTORY);
	assert_int_equal(mkdirat(top, "outside", 0755), 0);
	assert_int_equal(mkdirat(top, "tree", 0755), 0);
	fd = openat(top, "outside/canary", O_CREAT | O_WRONLY, 0644);
	close(fd);
	fd = openat(top, "tree", O_RDONLY | O_DIRECTORY);
	for (int i = 0; i < 1500; i++) {
		int next;

		assert_int_equal(mkdirat(fd, "deep", 0755), 0);
		assert_int_equal(symlinkat(dir, fd, "link"), 0);
		next = openat(fd, "deep", O_RDONLY | O_DIRECTORY);
		assert_true(next >= 0);
		if (i % 7 == 3)
			assert_int_equal(fchmod(fd, 0), 0);
		close(fd);
		fd = next;
	}
	close(fd);
	assert_int_equal(rm_tree_at(top, "tree"), 0);
	assert_int_equal(faccessat(top, "tree", F_OK, AT_SYMLINK_NOFOLLOW), -1);
	assert_int_equal(faccessat(top, "outside/canary", F_OK, 0), 0);
	assert_int_equal(rm_tree_at(top, "tree"), 0);
	/* The name itself a link: the link goes, its target stays. */
	assert_int_equal(symlinkat("outside", top, "alias"), 0);
	assert_int_equal(rm_tree_at(top, "alias"), 0);
	assert_int_equal(faccessat(top, "outside/canary", F_OK, 0), 0);
	assert_int_equal(rm_tree_at(top, "outside"), 0);
	close(top);
	assert_int_equal(rmdir(dir), 0);
}

static void test_open_beneath(void **state)
{
	(void)state;
	char dir[] = "/tmp/airplant-ob-XXXXXX";
	int top, fd;

	assert_non_null(mkdtemp(dir));
	top = open(dir, O_RDONLY | O_DIRECTORY);
	assert_int_equal(symlinkat("/etc", top, "link"), 0);
	assert_true(open_beneath(top, "link/passwd", O_RDONLY, 0) < 0);
	assert_true(open_beneath(top, "../../etc/passwd", O_RDONLY, 0) < 0);
	assert_true(open_beneath(top, "/etc/passwd", O_RDONLY, 0) < 0);
	fd = open_beneath(top, "file", O_RDWR | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	assert_int_equal(rm_tree_at(AT_FDCWD, dir), 0);
	close(top);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_buf_limit),    cmocka_unit_test(test_arena_limit),
		cmocka_unit_test(test_map),	     cmocka_unit_test(test_strv),
		cmocka_unit_test(test_err),	     cmocka_unit_test(test_rm_tree),
		cmocka_unit_test(test_open_beneath),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
