/* The tracer on a /proc of our own making: errors, readers that get stuck, users who hold too much.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/fd.h"
#include "roots/tracer.h"

#define HASH(c) c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c
static const char exe[] = HASH("0") "-exe", env[] = HASH("1") "-env",
		  open_file[] = HASH("2") "-open", other[] = HASH("3") "-other";

struct fixture {
	char dir[64], store[80], state[80], proc[80];
	struct tracer t;
	char answer[1 << 16];
	size_t len;
};

static void write_at(const char *dir, const char *name, const char *text)
{
	_cleanup_close_ int d = open(dir, O_RDONLY | O_DIRECTORY);
	_cleanup_close_ int fd = openat(d, name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
}

static void link_at(const char *target, const char *dir, const char *name)
{
	_cleanup_close_ int d = open(dir, O_RDONLY | O_DIRECTORY);

	assert_int_equal(symlinkat(target, d, name), 0);
}

static int setup(void **state)
{
	static struct fixture f;
	const char *const names[] = { exe, env, open_file, other };

	memset(&f, 0, sizeof(f));
	strncpy(f.dir, "/tmp/airplant-roots-XXXXXX", sizeof(f.dir) - 1);
	assert_non_null(mkdtemp(f.dir));
	assert_int_equal(chmod(f.dir, 0755), 0);
	snprintf(f.store, sizeof(f.store), "%s/store", f.dir);
	snprintf(f.state, sizeof(f.state), "%s/state", f.dir);
	snprintf(f.proc, sizeof(f.proc), "%s/proc", f.dir);
	assert_int_equal(mkdir(f.store, 0755) | mkdir(f.state, 0755) | mkdir(f.proc, 0755), 0);
	for (size_t i = 0; i < ELEMENTS(names); i++)
		write_at(f.store, names[i], "");
	f.t = (struct tracer){
		.store = f.store,
		.state = f.state,
		.proc = f.proc,
		.process_msec = 300,
		.account_usec = 1000 * 1000,
		.rules = -1,
	};
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	return rm_tree_at(AT_FDCWD, f->dir);
}

/* A process of an ordinary user's, with nothing in it. Returns its directory, with a `base` name.
 */
static const char *process(struct fixture *f, int pid, uid_t uid)
{
	static char dir[PATH_MAX];
	char path[PATH_MAX];

	snprintf(dir, sizeof(dir), "%s/%d", f->proc, pid);
	assert_int_equal(mkdir(dir, 0755), 0);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%.200s/%s", dir, i ? "task" : "fd");
		assert_int_equal(mkdir(path, 0755), 0);
	}
	if (getuid() == 0)
		assert_int_equal(chown(dir, uid, (gid_t)-1), 0);
	return dir;
}

static void ask(struct fixture *f)
{
	_cleanup_close_ int fd = memfd_create("answer", MFD_CLOEXEC);
	ssize_t n;

	assert_int_equal(serve(&f->t, fd, false), 0);
	n = pread(fd, f->answer, sizeof(f->answer) - 1, 0);
	assert_true(n > 0);
	f->len = (size_t)n;
}

/* Whether a record begins like this; the fields in `start` are separated by newlines. */
static bool says(const struct fixture *f, const char *start)
{
	char want[512];
	size_t len = strlen(start);

	memcpy(want, start, len);
	for (size_t i = 0; i < len; i++)
		if (want[i] == '\n')
			want[i] = 0;
	for (size_t i = 0; i + len <= f->len; i++)
		if ((i == 0 || f->answer[i - 1] == 0) && !memcmp(f->answer + i, want, len))
			return true;
	return false;
}

static void expect_root(const struct fixture *f, const char *base, const char *what, bool want)
{
	char text[512];

	snprintf(text, sizeof(text), "P%s\n%s\n", base, what);
	if (says(f, text) != want)
		fail_msg("%s %s: %s", base, what, want ? "is missing" : "is there");
}

static void test_process(void **state)
{
	struct fixture *f = *state;
	const char *dir = process(f, 7, 12345);
	char text[1024], fds[PATH_MAX];

	snprintf(text, sizeof(text), "%s/%s/bin/x", f->store, exe);
	link_at(text, dir, "exe");
	snprintf(text, sizeof(text), "A=1%sB=%s/%s%s", "\n", f->store, env, ":more");
	write_at(dir, "environ", text);
	snprintf(fds, sizeof(fds), "%.200s/fd", dir);
	/* Where another mount namespace has the store; removed; not a name; not in the store. */
	snprintf(text, sizeof(text), "/elsewhere/%s/x (deleted)", open_file);
	link_at(text, fds, "3");
	link_at("/nix/store/" HASH("e") "-no-digit", fds, "4");
	link_at("/nix/store/" HASH("4") "-not-there", fds, "5");
	write_at(f->proc, "not-a-process", "");
	ask(f);
	expect_root(f, exe, "/proc/7/exe", true);
	expect_root(f, env, "/proc/7/environ", true);
	expect_root(f, open_file, "/proc/7/fd/3", true);
	assert_false(says(f, "P" HASH("e")) || says(f, "P" HASH("4")) || says(f, "I"));
	assert_true(says(f, "A1\n") && f->answer[f->len - 1] == 0);
	/* Hello and three roots, twice. */
	assert_true(says(f, "Z7\n"));
}

/* What has gone meanwhile is no failure; any other error makes the answer incomplete. */
static void test_errors(void **state)
{
	struct fixture *f = *state;
	const char *dir = process(f, 7, 12345);
	char path[PATH_MAX];

	link_at("/nowhere", f->proc, "8");
	write_at(f->proc, "9", "");
	ask(f);
	assert_true(says(f, "Icannot look at /proc/9/: Not a directory\n"));
	assert_false(says(f, "Icannot look at /proc/7") || says(f, "Icannot look at /proc/8"));
	snprintf(path, sizeof(path), "%.200s/environ", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	link_at("/bin/sh", dir, "exe");
	ask(f);
	assert_true(says(f, "Icannot look at /proc/7/environ: Is a directory\n"));
}

/* A fifo without a writer stands for memory that does not answer. */
static void test_stuck(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX];
	const char *dir = process(f, 7, 12345);

	snprintf(path, sizeof(path), "%s/%s", f->store, other);
	link_at(path, dir, "exe");
	snprintf(path, sizeof(path), "%.200s/maps", dir);
	assert_int_equal(mkfifo(path, 0644), 0);
	dir = process(f, 8, 12346);
	snprintf(path, sizeof(path), "%s/%s", f->store, exe);
	link_at(path, dir, "exe");
	write_at(dir, "environ", path);
	ask(f);
	expect_root(f, other, "/proc/7/exe", true);
	expect_root(f, exe, "/proc/8/exe", true);
	expect_root(f, exe, "/proc/8/environ", true);
	if (getuid() == 0) {
		assert_true(says(f, "F12345\n1\n"));
		assert_false(says(f, "F12346") || says(f, "I"));
	}
}

/* Beyond the limit a user's processes get a glance each. Others' do not lose by it. */
static void test_flood(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", f->store, exe);
	for (int pid = 7; pid < 9; pid++) {
		const char *dir = process(f, pid, pid == 7 ? 12345 : 0);

		link_at(path, dir, "exe");
		write_at(dir, "environ", path);
	}
	f->t.account_usec = 0;
	ask(f);
	expect_root(f, exe, "/proc/7/exe", true);
	expect_root(f, exe, "/proc/8/exe", true);
	if (getuid() == 0) {
		expect_root(f, exe, "/proc/7/environ", false);
		expect_root(f, exe, "/proc/8/environ", true);
		assert_true(says(f, "F12345\n2\n"));
		assert_false(says(f, "F0\n"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_process, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stuck, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flood, setup, teardown),
	};

	return cmocka_run_group_tests_name("roots", tests, NULL, NULL);
}
