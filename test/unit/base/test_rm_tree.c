/* Deleting trees that somebody hostile has made, and goes on making. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/rm_tree.h"

static char top_path[64];
static int top = -1;

static int setup(void **state)
{
	(void)state;
	strcpy(top_path, "/tmp/airplant-rm-XXXXXX");
	assert_non_null(mkdtemp(top_path));
	top = open(top_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return top < 0;
}

static int teardown(void **state)
{
	(void)state;
	close_fdp(&top);
	return rm_tree_at(AT_FDCWD, top_path);
}

static void write_file(int dir, const char *name, const char *text)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
}

static size_t count(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fdopendir(fd);
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

/* A chain deeper than any path may be long, the last part without permissions. */
static void deep(void **state)
{
	int fd = dup(top), depth = 1000;

	(void)state;
	for (int i = 0; i < depth; i++) {
		int next;

		assert_int_equal(mkdirat(fd, "directory", 0700), 0);
		next = openat(fd, "directory", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		if (i % 50 == 0)
			write_file(fd, "file", "x");
		if (i > depth - 100)
			assert_int_equal(fchmod(fd, 0), 0);
		close(fd);
		fd = next;
	}
	close(fd);
	assert_int_equal(rm_tree_at(top, "directory"), 0);
	assert_int_equal(rm_tree_at(top, "file"), 0);
	assert_int_equal(count(top), 0);
}

/* A tree of two hundred directories, and five fds. */
static void few_fds(void **state)
{
	char name[32] = "t";
	pid_t pid;
	int status;

	(void)state;
	for (int i = 0; i < 10; i++) {
		assert_int_equal(mkdirat(top, name, 0700), 0);
		for (int k = 0; k < 20; k++) {
			char sub[64];

			snprintf(sub, sizeof(sub), "%s/s%d", name, k);
			assert_int_equal(mkdirat(top, sub, 0700), 0);
		}
		strcat(name, "/d");
	}
	pid = fork();
	if (pid == 0) {
		const struct rlimit few = { 45, 45 };

		(void)close_range((unsigned int)top + 1, ~0U, 0);
		while (dup(top) < 39)
			;
		if (setrlimit(RLIMIT_NOFILE, &few) < 0)
			_exit(2);
		_exit(rm_tree_at(top, "t") == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(count(top), 0);
}

static void counts_bytes(void **state)
{
	struct rm_report r = { .foreign_uid = (uid_t)-1 };

	(void)state;
	assert_int_equal(mkdirat(top, "t", 0700), 0);
	write_file(top, "t/once", "12345");
	write_file(top, "t/thrice", "1234567");
	assert_int_equal(linkat(top, "t/thrice", top, "a", 0), 0);
	assert_int_equal(linkat(top, "t/thrice", top, "b", 0), 0);
	assert_int_equal(rm_tree(top, "t", &r), 0);
	assert_int_equal(r.bytes, 5);
	assert_int_equal(rm_tree(top, "a", &r), 0); /* had two names by then */
	assert_int_equal(r.bytes, 12);
}

/* What cannot go is named; everything else goes. */
static void immutable(void **state)
{
	struct rm_report r = { .foreign_uid = (uid_t)-1 };
	_cleanup_close_ int fd = -1;
	int flags = FS_IMMUTABLE_FL;

	(void)state;
	assert_int_equal(mkdirat(top, "t", 0700), 0);
	assert_int_equal(mkdirat(top, "t/d", 0700), 0);
	write_file(top, "t/d/stays", "x");
	write_file(top, "t/a", "x");
	write_file(top, "t/z", "x");
	fd = openat(top, "t/d/stays", O_RDONLY | O_CLOEXEC);
	if (ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0) {
		print_message("no immutable files here (%s): the directory is made foreign by a "
			      "mode instead\n",
			      strerror(errno));
		if (geteuid() == 0)
			return;
		assert_int_equal(fchmodat(top, "t/d", 0500, 0), 0);
		assert_int_equal(rm_tree(top, "t", &r), 0); /* it is ours: opened up */
		return;
	}
	assert_int_equal(rm_tree(top, "t", &r), -EPERM);
	flags = 0;
	assert_int_equal(ioctl(fd, FS_IOC_SETFLAGS, &flags), 0);
	assert_int_equal(r.failed, 1);
	assert_int_equal(r.foreign, 0);
	assert_string_equal(r.name, "stays");
	assert_int_equal(faccessat(top, "t/a", F_OK, 0), -1);
	assert_int_equal(faccessat(top, "t/z", F_OK, 0), -1);
	assert_int_equal(rm_tree(top, "t", &r), 0);
}

/* In a mount namespace of its own: a file system mounted inside the tree stays untouched. */
static int mounted_inside(void)
{
	struct rm_report r = { .foreign_uid = (uid_t)-1 };
	char path[128];
	int fd;

	if (unshare(geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return 3;
	snprintf(path, sizeof(path), "%s/t/m", top_path);
	if (mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0 ||
	    mount("none", path, "tmpfs", 0, NULL) < 0)
		return 3;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (mkdirat(fd, "d", 0700) < 0 || mkdirat(fd, "d/canary", 0700) < 0)
		return 3;
	/* Both as an entry of what is deleted, and as what is to be deleted itself. */
	if (rm_tree(top, "t", &r) >= 0 || r.failed == 0 || faccessat(fd, "d/canary", F_OK, 0) < 0)
		return 1;
	snprintf(path, sizeof(path), "%s/t", top_path);
	close(top);
	top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return rm_tree(top, "m", &r) < 0 && faccessat(fd, "d/canary", F_OK, 0) == 0 ? 0 : 2;
}

static void mounts(void **state)
{
	pid_t pid;
	int status;

	(void)state;
	assert_int_equal(mkdirat(top, "t", 0700), 0);
	assert_int_equal(mkdirat(top, "t/m", 0700), 0);
	pid = fork();
	if (pid == 0)
		_exit(mounted_inside());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void swap_for_ever(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned long i = 0;; i++) {
		/* "a" is a directory with something in it, or a link to the canaries. */
		(void)mkdirat(top, "t/d", 0700);
		(void)mkdirat(top, "t/d/a", 0700);
		(void)mkdirat(top, "t/d/a/x", 0700);
		(void)mkdirat(top, "t/d/a/x/y", 0700);
		(void)!symlinkat("../../canaries", top, "t/d/b");
		(void)!symlinkat("../canaries", top, "t/b");
		(void)syscall(SYS_renameat2, top, "t/d/a", top, "t/d/b", 2 /* EXCHANGE */);
		(void)syscall(SYS_renameat2, top, "t/d/a", top, "t/b", 2);
		(void)syscall(SYS_renameat2, top, "t/d", top, "t/b", 2);
	}
}

static void delete_for_ever(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		struct rm_report r = { .foreign_uid = (uid_t)-1 };

		(void)mkdirat(top, "t", 0700);
		(void)rm_tree(top, "t", &r); /* the other may be faster, for as long as it likes */
	}
}

/* CVE-2025-46415: somebody exchanges a directory and a link all the time. */
static void swapped(void **state)
{
	void (*const works[])(void) = { swap_for_ever, delete_for_ever };
	_cleanup_close_ int fd = -1;
	pid_t pids[2];

	(void)state;
	assert_int_equal(mkdirat(top, "canaries", 0700), 0);
	for (char c = 'a'; c <= 'z'; c++) {
		char name[32];

		snprintf(name, sizeof(name), "canaries/%c", c);
		if (c < 'n')
			write_file(top, name, "x");
		else
			assert_int_equal(mkdirat(top, name, 0700), 0);
	}
	for (int i = 0; i < 2; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			works[i]();
	}
	sleep(2);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(kill(pids[i], SIGKILL), 0);
		assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
	}
	fd = openat(top, "canaries", O_RDONLY | O_CLOEXEC);
	assert_int_equal(count(fd), 26);
	assert_int_equal(rm_tree_at(top, "t"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(deep, setup, teardown),
		cmocka_unit_test_setup_teardown(few_fds, setup, teardown),
		cmocka_unit_test_setup_teardown(counts_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(immutable, setup, teardown),
		cmocka_unit_test_setup_teardown(mounts, setup, teardown),
		cmocka_unit_test_setup_teardown(swapped, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
