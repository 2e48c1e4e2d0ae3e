/* Trees to NARs and back. The oracle is the stock nix-store, where there is one. */
#include "helper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static void odd_tree(int top)
{
	static const size_t sizes[] = { 0, 1, 7, 8, 9, 4095, 4096, 65536, 131071, 131072, 5 << 20 };
	_cleanup_close_ int sub = -1;
	uint8_t *data = malloc(5 << 20);

	for (size_t i = 0; i < 5 << 20; i++)
		data[i] = (uint8_t)(i * 31 >> 3);
	assert_int_equal(mkdirat(top, "odd", 0755), 0);
	sub = openat(top, "odd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < ELEMENTS(sizes); i++) {
		char name[32];

		snprintf(name, sizeof(name), "size%zu", sizes[i]);
		put_file(sub, name, data, sizes[i], 0644);
	}
	free(data);
	put_file(sub, "run", "#!/bin/sh\n", 10, 0755);
	put_file(sub, "group-run", "x", 1, 0654);
	put_file(sub, "with space", "x", 1, 0600);
	put_file(sub, "new\nline", "x", 1, 0400);
	put_file(sub, "\xc3\xa4\xe2\x82\xac", "x", 1, 0644);
	put_file(sub, "\xff\xfe", "x", 1, 0644);
	put_file(sub, "-rf", "x", 1, 0644);
	put_file(sub, "a", "", 0, 0644);
	put_file(sub, "A", "", 0, 0644);
	put_file(sub, "a.b", "", 0, 0644);
	assert_int_equal(mkdirat(sub, "empty", 0700), 0);
	assert_int_equal(mkdirat(sub, "a-b", 0755), 0);
	assert_int_equal(mkdirat(sub, "a-b/c", 0755), 0);
	assert_int_equal(symlinkat("../../..", sub, "a-b/c/up"), 0);
	assert_int_equal(symlinkat("/nonexistent/\xc3\xa4", sub, "dangling"), 0);
}

static void test_dump_is_the_oracles(void **state)
{
	_cleanup_buf_ struct buf ours = BUF_INIT(ANY_SIZE), theirs = BUF_INIT(ANY_SIZE);
	struct scratch s;
	char path[128];

	(void)state;
	scratch_make(&s);
	odd_tree(s.fd);
	snprintf(path, sizeof(path), "%s/odd", s.path);
	if (!oracle("--dump", path, NULL, &theirs)) {
		scratch_drop(&s);
		skip();
	}
	dump(s.fd, "odd", &ours);
	assert_buf_equal(&ours, &theirs);
	scratch_drop(&s);
}

static void test_restore_is_the_oracles(void **state)
{
	_cleanup_buf_ struct buf nar = BUF_INIT(ANY_SIZE), back = BUF_INIT(ANY_SIZE),
				 back2 = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };
	struct scratch s;
	char path[128];

	(void)state;
	scratch_make(&s);
	odd_tree(s.fd);
	dump(s.fd, "odd", &nar);
	assert_int_equal(restore(s.fd, "ours", nar.data, nar.len, 65536, NULL, &e), TREE_END);
	dump(s.fd, "ours", &back);
	assert_buf_equal(&nar, &back);
	snprintf(path, sizeof(path), "%s/theirs", s.path);
	if (!oracle("--restore", path, &nar, NULL)) {
		scratch_drop(&s);
		skip();
	}
	dump(s.fd, "theirs", &back2);
	assert_buf_equal(&nar, &back2);
	scratch_drop(&s);
}

static void test_single_nodes(void **state)
{
	_cleanup_err_ struct err e = { 0 };
	struct scratch s;

	(void)state;
	scratch_make(&s);
	put_file(s.fd, "file", "hello", 5, 0700);
	assert_int_equal(symlinkat("file", s.fd, "link"), 0);
	assert_int_equal(mkdirat(s.fd, "dir", 0700), 0);
	for (const char *const *n = (const char *const[]){ "file", "link", "dir", NULL }; *n; n++) {
		_cleanup_buf_ struct buf nar = BUF_INIT(ANY_SIZE), back = BUF_INIT(ANY_SIZE);
		char to[32];

		snprintf(to, sizeof(to), "%s2", *n);
		dump(s.fd, *n, &nar);
		assert_int_equal(restore(s.fd, to, nar.data, nar.len, 1, NULL, &e), TREE_END);
		dump(s.fd, to, &back);
		assert_buf_equal(&nar, &back);
	}
	assert_int_equal(canonical_mode_of(s.fd, "file2"), 0555);
	assert_int_equal(canonical_mode_of(s.fd, "link2"), 0777);
	assert_int_equal(canonical_mode_of(s.fd, "dir2"), 0755);
	scratch_drop(&s);
}

static void check_restored_modes(int fd)
{
	assert_int_equal(canonical_mode_of(fd, "ours"), 0755);
	assert_int_equal(canonical_mode_of(fd, "ours/a-b"), 0555);
	assert_int_equal(canonical_mode_of(fd, "ours/a-b/c"), 0555);
	assert_int_equal(canonical_mode_of(fd, "ours/a-b/c/up"), 0777);
	assert_int_equal(canonical_mode_of(fd, "ours/run"), 0555);
	assert_int_equal(canonical_mode_of(fd, "ours/group-run"), 0444);
	assert_int_equal(canonical_mode_of(fd, "ours/size0"), 0444);
	assert_int_equal(canonical_mode_of(fd, "ours/size5242880"), 0444);
}

static void test_restored_metadata(void **state)
{
	_cleanup_buf_ struct buf nar = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };
	struct scratch s;

	(void)state;
	for (int i = 0; i < 2; i++) {
		mode_t old = umask(i ? 0077 : 0022); /* a strict umask must not show */

		scratch_make(&s);
		odd_tree(s.fd);
		buf_clear(&nar);
		dump(s.fd, "odd", &nar);
		assert_int_equal(restore(s.fd, "ours", nar.data, nar.len, 1000, NULL, &e),
				 TREE_END);
		check_restored_modes(s.fd);
		assert_int_equal(tree_seal(s.fd, "ours"), 0);
		assert_int_equal(canonical_mode_of(s.fd, "ours"), 0555);
		assert_int_equal(tree_seal(s.fd, "ours/run"), 0);
		assert_int_equal(canonical_mode_of(s.fd, "ours/run"), 0555);
		assert_int_equal(tree_seal(s.fd, "ours/dangling"), 0);
		assert_int_equal(tree_seal(s.fd, "nothing"), -ENOENT);
		scratch_drop(&s);
		umask(old);
	}
}

static void test_existing_name_is_not_touched(void **state)
{
	_cleanup_buf_ struct buf nar = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };
	_cleanup_free_ char *data = NULL;
	struct scratch s;

	(void)state;
	scratch_make(&s);
	put_file(s.fd, "src", "new", 3, 0644);
	put_file(s.fd, "victim", "old", 3, 0644);
	assert_int_equal(symlinkat("victim", s.fd, "link"), 0);
	dump(s.fd, "src", &nar);
	assert_int_equal(restore(s.fd, "victim", nar.data, nar.len, 99, NULL, &e), -EEXIST);
	assert_int_equal(restore(s.fd, "link", nar.data, nar.len, 99, NULL, &e), -EEXIST);
	assert_int_equal(read_file_at(s.fd, "victim", 10, &data, NULL), 0);
	assert_string_equal(data, "old");
	scratch_drop(&s);
}

/* Entries of the scratch directory, to see whether anything appeared beside the target. */
static size_t count_entries(int fd)
{
	DIR *d = fdopendir(openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void test_hostile_files(void **state)
{
	DIR *d = opendir(TEST_DATA "/must-fail/nar");
	struct dirent *de;
	struct scratch s;
	size_t n = 0;

	(void)state;
	assert_non_null(d);
	scratch_make(&s);
	while ((de = readdir(d))) {
		_cleanup_err_ struct err e = { 0 };
		_cleanup_free_ char *data = NULL;
		size_t len;

		if (!strstr(de->d_name, ".nar"))
			continue;
		assert_int_equal(read_file_at(dirfd(d), de->d_name, 1 << 20, &data, &len), 0);
		assert_int_equal(restore(s.fd, "target", data, len, 100, NULL, &e), TREE_BAD);
		assert_int_equal(e.code, NAR_BAD);
		assert_int_equal(rm_tree_at(s.fd, "target"), 0);
		assert_int_equal(count_entries(s.fd), 0);
		n++;
	}
	closedir(d);
	assert_true(n >= 60);
	assert_int_equal(faccessat(AT_FDCWD, "/tmp/canary", F_OK, AT_SYMLINK_NOFOLLOW), -1);
	scratch_drop(&s);
}

/* Written by the stock nix-store, so that the format is pinned down where there is none. */
static void test_golden_files(void **state)
{
	static const char *const names[] = { "tree", "file", "symlink", "empty-dir", "depth-64" };
	struct scratch s;

	(void)state;
	scratch_make(&s);
	for (size_t i = 0; i < ELEMENTS(names); i++) {
		_cleanup_buf_ struct buf back = BUF_INIT(ANY_SIZE);
		_cleanup_err_ struct err e = { 0 };
		_cleanup_free_ char *data = NULL;
		char path[256];
		size_t len;

		snprintf(path, sizeof(path), TEST_DATA "/golden/nar/%s.nar", names[i]);
		assert_int_equal(read_file_at(AT_FDCWD, path, 1 << 20, &data, &len), 0);
		assert_int_equal(restore(s.fd, names[i], data, len, 100, NULL, &e), TREE_END);
		dump(s.fd, names[i], &back);
		assert_int_equal(back.len, len);
		assert_memory_equal(back.data, data, len);
	}
	scratch_drop(&s);
}

static void test_truncated_everywhere(void **state)
{
	_cleanup_buf_ struct buf nar = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };
	struct scratch s;

	(void)state;
	scratch_make(&s);
	assert_int_equal(mkdirat(s.fd, "t", 0755), 0);
	assert_int_equal(mkdirat(s.fd, "t/d", 0755), 0);
	put_file(s.fd, "t/d/f", "contents!", 9, 0755);
	assert_int_equal(symlinkat("x", s.fd, "t/l"), 0);
	dump(s.fd, "t", &nar);
	for (size_t len = 0; len < nar.len; len++) {
		assert_int_equal(restore(s.fd, "r", nar.data, len, 64, NULL, &e), TREE_MORE);
		assert_int_equal(rm_tree_at(s.fd, "r"), 0);
	}
	scratch_drop(&s);
}

static void test_input_behind_the_end_is_left(void **state)
{
	_cleanup_buf_ struct buf nar = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };
	struct scratch s;
	size_t len, used;

	(void)state;
	scratch_make(&s);
	put_file(s.fd, "f", "contents!", 9, 0755);
	dump(s.fd, "f", &nar);
	len = nar.len;
	buf_append_str(&nar, "the next message");
	assert_int_equal(restore(s.fd, "r", nar.data, nar.len, SIZE_MAX, &used, &e), TREE_END);
	assert_int_equal(used, len);
	scratch_drop(&s);
}

static void test_unsupported_types(void **state)
{
	_cleanup_buf_ struct buf nar = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };
	struct scratch s;

	(void)state;
	scratch_make(&s);
	assert_int_equal(mkdirat(s.fd, "t", 0755), 0);
	assert_int_equal(mknodat(s.fd, "t/fifo", S_IFIFO | 0600, 0), 0);
	assert_int_equal(tree_dump(s.fd, "t", to_buf, &nar, &e), TREE_BAD);
	assert_string_equal(e.msg, "file 't/fifo' has an unsupported type");
	assert_int_equal(tree_dump(s.fd, "t/fifo", to_buf, &nar, &e), TREE_BAD);
	assert_int_equal(tree_copy(s.fd, "t", s.fd, "t2", NULL, &e), TREE_BAD);
	assert_int_equal(tree_dump(s.fd, "absent", to_buf, &nar, &e), -ENOENT);
	scratch_drop(&s);
}

static void test_dump_depth(void **state)
{
	struct scratch s;

	(void)state;
	for (int levels = 63; levels <= 65; levels++) {
		_cleanup_buf_ struct buf nar = BUF_INIT(ANY_SIZE);
		_cleanup_err_ struct err e = { 0 };
		char path[200] = "";

		scratch_make(&s);
		for (int i = 0; i < levels; i++) {
			strcat(path, i ? "/d" : "d");
			assert_int_equal(mkdirat(s.fd, path, 0755), 0);
		}
		if (levels <= 64)
			dump(s.fd, "d", &nar);
		else
			assert_int_equal(tree_dump(s.fd, "d", to_buf, &nar, &e), TREE_BAD);
		scratch_drop(&s);
	}
}

struct meddler {
	int fd;
	off_t size; /* what to make of the file once its first bytes have been read */
};

static int meddle(void *ctx, const uint8_t *data, size_t len)
{
	struct meddler *m = ctx;

	(void)data;
	(void)len;
	return ftruncate(m->fd, m->size) < 0 ? -errno : 0;
}

static void test_size_changes_while_reading(void **state)
{
	static const off_t sizes[] = { 0, 1 << 20, (3 << 20) + 1 };
	struct scratch s;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(sizes); i++) {
		_cleanup_err_ struct err e = { 0 };
		_cleanup_close_ int fd = -1;
		struct meddler m;

		scratch_make(&s);
		fd = openat(s.fd, "f", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
		assert_int_equal(ftruncate(fd, 3 << 20), 0);
		m = (struct meddler){ fd, sizes[i] };
		assert_int_equal(tree_dump(s.fd, "f", meddle, &m, &e), TREE_BAD);
		assert_string_equal(e.msg, "file 'f' changed while it was read");
		scratch_drop(&s);
	}
}

static int stop_at_once(void *ctx, const uint8_t *data, size_t len)
{
	(void)ctx;
	(void)data;
	(void)len;
	return 42;
}

static void test_sink_stops_the_dump(void **state)
{
	_cleanup_err_ struct err e = { 0 };
	struct scratch s;

	(void)state;
	scratch_make(&s);
	odd_tree(s.fd);
	assert_int_equal(tree_dump(s.fd, "odd", stop_at_once, NULL, &e), 42);
	scratch_drop(&s);
}

static void test_measure(void **state)
{
	static const char there[] = "0123456789abcdfghijklmnpqrsvwxyz";
	static const char absent[] = "1123456789abcdfghijklmnpqrsvwxyz";
	_cleanup_buf_ struct buf nar = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };
	struct refscan *scan = refscan_new();
	struct tree_facts facts;
	uint8_t want[32];
	struct scratch s;
	char target[64];

	(void)state;
	scratch_make(&s);
	odd_tree(s.fd);
	snprintf(target, sizeof(target), "/nix/store/%s-x", there);
	assert_int_equal(symlinkat(target, s.fd, "odd/reference"), 0);
	dump(s.fd, "odd", &nar);
	refscan_add(scan, there);
	refscan_add(scan, absent);
	assert_int_equal(tree_measure(s.fd, "odd", scan, &facts, &e), 0);
	sha256(nar.data, nar.len, want);
	assert_memory_equal(facts.nar_hash, want, 32);
	assert_int_equal(facts.nar_size, nar.len);
	assert_true(refscan_found(scan, there));
	assert_false(refscan_found(scan, absent));
	refscan_free(scan);
	scratch_drop(&s);
}

static void test_copy(void **state)
{
	_cleanup_buf_ struct buf a = BUF_INIT(ANY_SIZE), b = BUF_INIT(ANY_SIZE);
	_cleanup_err_ struct err e = { 0 };
	struct stat st, st2;
	struct scratch s;

	(void)state;
	scratch_make(&s);
	odd_tree(s.fd);
	assert_int_equal(linkat(s.fd, "odd/run", s.fd, "outside", 0), 0);
	assert_int_equal(tree_copy(s.fd, "odd", s.fd, "ours", NULL, &e), 0);
	dump(s.fd, "odd", &a);
	dump(s.fd, "ours", &b);
	assert_buf_equal(&a, &b);
	check_restored_modes(s.fd);
	fstatat(s.fd, "odd/run", &st, 0);
	fstatat(s.fd, "ours/run", &st2, 0);
	assert_int_equal(st.st_nlink, 2);
	assert_int_equal(st2.st_nlink, 1);
	assert_true(st.st_ino != st2.st_ino);
	assert_int_equal(tree_copy(s.fd, "odd", s.fd, "outside", NULL, &e), -EEXIST);
	scratch_drop(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dump_is_the_oracles),
		cmocka_unit_test(test_restore_is_the_oracles),
		cmocka_unit_test(test_single_nodes),
		cmocka_unit_test(test_restored_metadata),
		cmocka_unit_test(test_existing_name_is_not_touched),
		cmocka_unit_test(test_hostile_files),
		cmocka_unit_test(test_golden_files),
		cmocka_unit_test(test_truncated_everywhere),
		cmocka_unit_test(test_input_behind_the_end_is_left),
		cmocka_unit_test(test_unsupported_types),
		cmocka_unit_test(test_dump_depth),
		cmocka_unit_test(test_size_changes_while_reading),
		cmocka_unit_test(test_sink_stops_the_dump),
		cmocka_unit_test(test_measure),
		cmocka_unit_test(test_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
