/* What becomes of a tree that a builder left behind. */
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

enum { BUILDER = 54321, DAEMON = 54322 };

static struct tree_owner mine(void)
{
	return (struct tree_owner){ .uid = getuid(), .new_uid = (uid_t)-1, .new_gid = (gid_t)-1 };
}

static void expect(struct scratch *s, const struct tree_owner *o, int want, const char *sentence)
{
	_cleanup_err_ struct err e = { 0 };
	int r = tree_canonicalise(s->fd, "out", o, &e);

	if (r != want)
		fail_msg("%d: %s", r, err_msg(&e));
	if (sentence)
		assert_string_equal(err_msg(&e), sentence);
}

static void make_out(struct scratch *s)
{
	scratch_make(s);
	assert_int_equal(mkdirat(s->fd, "out", 0755), 0);
}

static mode_t mode_of(int fd, const char *name, ino_t *ret_ino)
{
	struct stat st;

	assert_int_equal(fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	if (ret_ino)
		*ret_ino = st.st_ino;
	return st.st_mode & 07777;
}

static void test_modes(void **state)
{
	struct tree_owner o = mine();
	struct scratch s;

	(void)state;
	make_out(&s);
	put_file(s.fd, "out/setuid", "x", 1, 06755);
	put_file(s.fd, "out/setuid-plain", "x", 1, 04644);
	put_file(s.fd, "out/world", "x", 1, 0666);
	put_file(s.fd, "out/none", "x", 1, 0);
	put_file(s.fd, "out/others-run", "x", 1, 0611);
	put_file(s.fd, "out/owner-run", "x", 1, 0100);
	assert_int_equal(symlinkat("/etc/passwd", s.fd, "out/link"), 0);
	assert_int_equal(mkdirat(s.fd, "out/sub", 0755), 0);
	put_file(s.fd, "out/sub/f", "x", 1, 0640);
	assert_int_equal(fchmodat(s.fd, "out/sub", 07777, 0), 0);
	expect(&s, &o, 0, NULL);
	assert_int_equal(canonical_mode_of(s.fd, "out"), 0755);
	assert_int_equal(canonical_mode_of(s.fd, "out/setuid"), 0555);
	assert_int_equal(canonical_mode_of(s.fd, "out/setuid-plain"), 0444);
	assert_int_equal(canonical_mode_of(s.fd, "out/world"), 0444);
	assert_int_equal(canonical_mode_of(s.fd, "out/none"), 0444);
	assert_int_equal(canonical_mode_of(s.fd, "out/others-run"), 0444);
	assert_int_equal(canonical_mode_of(s.fd, "out/owner-run"), 0555);
	assert_int_equal(canonical_mode_of(s.fd, "out/link"), 0777);
	assert_int_equal(canonical_mode_of(s.fd, "out/sub"), 0555);
	assert_int_equal(canonical_mode_of(s.fd, "out/sub/f"), 0444);
	expect(&s, &o, 0, NULL); /* and again: nothing to do */
	scratch_drop(&s);
}

static void locked_dirs(struct scratch *s)
{
	make_out(s);
	assert_int_equal(mkdirat(s->fd, "out/a", 0755), 0);
	assert_int_equal(mkdirat(s->fd, "out/a/b", 0755), 0);
	put_file(s->fd, "out/a/b/f", "x", 1, 0);
	assert_int_equal(mkdirat(s->fd, "out/r", 0755), 0);
	put_file(s->fd, "out/r/f", "x", 1, 0);
	assert_int_equal(fchmodat(s->fd, "out/r", 0444, 0), 0);
	assert_int_equal(fchmodat(s->fd, "out/a/b", 0, 0), 0);
	assert_int_equal(fchmodat(s->fd, "out/a", 0, 0), 0);
}

static void test_mode_000_dirs(void **state)
{
	struct tree_owner o;
	struct scratch s;
	bool root = geteuid() == 0;

	(void)state;
	locked_dirs(&s);
	if (root) {
		/* as the owner alone, without the rights of root */
		assert_int_equal(fchown(s.fd, BUILDER, BUILDER), 0);
		for (const char *const *n =
			     (const char *const[]){ "out/a/b/f", "out/a/b", "out/a", "out/r/f",
						    "out/r", "out", NULL };
		     *n; n++)
			assert_int_equal(fchownat(s.fd, *n, BUILDER, BUILDER, 0), 0);
		assert_int_equal(seteuid(BUILDER), 0);
	}
	o = mine();
	o.uid = geteuid();
	expect(&s, &o, 0, NULL);
	if (root)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(canonical_mode_of(s.fd, "out/a"), 0555);
	assert_int_equal(canonical_mode_of(s.fd, "out/a/b"), 0555);
	assert_int_equal(canonical_mode_of(s.fd, "out/a/b/f"), 0444);
	assert_int_equal(canonical_mode_of(s.fd, "out/r"), 0555);
	assert_int_equal(canonical_mode_of(s.fd, "out/r/f"), 0444);
	scratch_drop(&s);
}

static void test_top_writable_by_others(void **state)
{
	struct tree_owner o = mine();
	struct scratch s;

	(void)state;
	make_out(&s);
	for (mode_t m = 0020; m; m = m == 0020 ? 0002 : 0) {
		assert_int_equal(fchmodat(s.fd, "out", 0755 | m, 0), 0);
		expect(&s, &o, TREE_BAD,
		       "suspicious ownership or permission on 'out'; rejecting this build output");
		assert_int_equal(mode_of(s.fd, "out", NULL), 0755 | m);
	}
	scratch_drop(&s);
	scratch_make(&s);
	assert_int_equal(symlinkat("x", s.fd, "out"), 0); /* always 0777, and fine */
	expect(&s, &o, 0, NULL);
	scratch_drop(&s);
}

static void test_foreign_owner_is_untouched(void **state)
{
	struct tree_owner o = mine();
	struct scratch s;

	(void)state;
	make_out(&s);
	put_file(s.fd, "out/a", "x", 1, 0666);
	o.uid++;
	expect(&s, &o, TREE_BAD,
	       "suspicious ownership or permission on 'out'; rejecting this build output");
	if (geteuid() == 0) {
		o.uid = 0;
		assert_int_equal(mkdirat(s.fd, "out/sub", 0755), 0);
		put_file(s.fd, "out/sub/foreign", "x", 1, 0640);
		assert_int_equal(fchownat(s.fd, "out/sub/foreign", BUILDER, BUILDER, 0), 0);
		expect(&s, &o, TREE_BAD, "invalid ownership on file 'out/sub/foreign'");
		assert_int_equal(mode_of(s.fd, "out/sub/foreign", NULL), 0640);
		/* nor is anything that was found before it */
		assert_int_equal(mode_of(s.fd, "out/a", NULL), 0666);
	}
	scratch_drop(&s);
}

static void test_hard_links(void **state)
{
	struct tree_owner o = mine();
	struct scratch s;
	ino_t a, b;

	(void)state;
	make_out(&s);
	assert_int_equal(mkdirat(s.fd, "out/sub", 0755), 0);
	put_file(s.fd, "out/a", "x", 1, 0600);
	assert_int_equal(linkat(s.fd, "out/a", s.fd, "out/b", 0), 0);
	assert_int_equal(linkat(s.fd, "out/a", s.fd, "out/sub/c", 0), 0);
	assert_int_equal(linkat(s.fd, "out/a", s.fd, "outside", 0), 0);
	expect(&s, &o, TREE_BAD,
	       "file 'out/a' has hard links outside of the output; rejecting this build output");
	assert_int_equal(mode_of(s.fd, "outside", NULL), 0600);
	assert_int_equal(unlinkat(s.fd, "outside", 0), 0);
	expect(&s, &o, 0, NULL);
	assert_int_equal(canonical_mode_of(s.fd, "out/a"), 0444);
	mode_of(s.fd, "out/a", &a);
	mode_of(s.fd, "out/sub/c", &b);
	assert_int_equal(a, b);
	scratch_drop(&s);
}

static void test_many_hard_links(void **state)
{
	struct tree_owner o = mine();
	struct scratch s;

	(void)state;
	make_out(&s);
	for (int i = 0; i < 300; i++) {
		char a[32], b[32];

		snprintf(a, sizeof(a), "out/a%d", i);
		snprintf(b, sizeof(b), "out/b%d", i);
		put_file(s.fd, a, "x", 1, 0600);
		assert_int_equal(linkat(s.fd, a, s.fd, b, 0), 0);
	}
	expect(&s, &o, 0, NULL);
	assert_int_equal(canonical_mode_of(s.fd, "out/b299"), 0444);
	scratch_drop(&s);
}

static void test_unsupported_types(void **state)
{
	struct tree_owner o = mine();
	struct scratch s;

	(void)state;
	make_out(&s);
	assert_int_equal(mknodat(s.fd, "out/fifo", S_IFIFO | 0600, 0), 0);
	expect(&s, &o, TREE_BAD, "file 'out/fifo' has an unsupported type");
	scratch_drop(&s);
}

static void test_too_deep(void **state)
{
	struct tree_owner o = mine();
	char path[256] = "out";
	struct scratch s;

	(void)state;
	make_out(&s);
	for (int i = 1; i < 65; i++) {
		strcat(path, "/d");
		assert_int_equal(mkdirat(s.fd, path, 0755), 0);
	}
	expect(&s, &o, TREE_BAD, NULL);
	assert_int_equal(unlinkat(s.fd, path, AT_REMOVEDIR), 0);
	expect(&s, &o, 0, NULL);
	scratch_drop(&s);
}

static void test_xattrs(void **state)
{
	struct tree_owner o = mine();
	_cleanup_close_ int fd = -1;
	struct scratch s;
	char value[8];

	(void)state;
	make_out(&s);
	put_file(s.fd, "out/f", "x", 1, 0600);
	fd = openat(s.fd, "out/f", O_RDONLY | O_CLOEXEC);
	if (fsetxattr(fd, "user.test", "v", 1, 0) < 0 && errno == ENOTSUP) {
		scratch_drop(&s);
		skip();
	}
	assert_int_equal(fchmod(fd, 0444), 0);
	assert_int_equal(fgetxattr(fd, "user.test", value, sizeof(value)), 1);
	if (geteuid() == 0) {
		/* as the owner alone, who may not write to the file; root may */
		assert_int_equal(fchown(fd, BUILDER, BUILDER), 0);
		assert_int_equal(fchownat(s.fd, "out", BUILDER, BUILDER, 0), 0);
		assert_int_equal(fchown(s.fd, BUILDER, BUILDER), 0);
		assert_int_equal(seteuid(BUILDER), 0);
		o.uid = BUILDER;
	}
	expect(&s, &o, 0, NULL);
	if (getuid() == 0)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(fgetxattr(fd, "user.test", value, sizeof(value)), -1);
	assert_int_equal(errno, ENODATA);
	assert_int_equal(canonical_mode_of(s.fd, "out/f"), 0444);
	scratch_drop(&s);
}

static void test_given_to_the_daemon(void **state)
{
	struct tree_owner o = { .uid = BUILDER, .new_uid = DAEMON, .new_gid = DAEMON };
	static const char *const names[] = { "out/a", "out/b", "out/link", "out/sub", "out" };
	struct scratch s;

	(void)state;
	if (geteuid() != 0)
		skip();
	make_out(&s);
	put_file(s.fd, "out/a", "x", 1, 0755);
	assert_int_equal(linkat(s.fd, "out/a", s.fd, "out/b", 0), 0);
	assert_int_equal(symlinkat("a", s.fd, "out/link"), 0);
	assert_int_equal(mkdirat(s.fd, "out/sub", 0), 0);
	for (size_t i = 0; i < ELEMENTS(names); i++)
		assert_int_equal(fchownat(s.fd, names[i], BUILDER + (i == 4 ? 0 : i % 2), 0,
					  AT_SYMLINK_NOFOLLOW),
				 0);
	assert_int_equal(fchmodat(s.fd, "out/a", 06755, 0), 0);
	expect(&s, &o, TREE_BAD, NULL); /* BUILDER + 1 is not the builder's … */
	o.n_uids = 2;
	expect(&s, &o, 0, NULL); /* … unless it has a range */
	for (size_t i = 0; i < ELEMENTS(names); i++) {
		struct stat st;

		assert_int_equal(fstatat(s.fd, names[i], &st, AT_SYMLINK_NOFOLLOW), 0);
		assert_int_equal(st.st_uid, DAEMON);
		assert_int_equal(st.st_gid, DAEMON);
		assert_int_equal(st.st_mtim.tv_sec, 1);
	}
	assert_int_equal(canonical_mode_of(s.fd, "out/a"), 0555);
	assert_int_equal(canonical_mode_of(s.fd, "out/sub"), 0555);
	assert_int_equal(canonical_mode_of(s.fd, "out"), 0755);
	scratch_drop(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_mode_000_dirs),
		cmocka_unit_test(test_top_writable_by_others),
		cmocka_unit_test(test_foreign_owner_is_untouched),
		cmocka_unit_test(test_hard_links),
		cmocka_unit_test(test_many_hard_links),
		cmocka_unit_test(test_unsupported_types),
		cmocka_unit_test(test_too_deep),
		cmocka_unit_test(test_xattrs),
		cmocka_unit_test(test_given_to_the_daemon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
