/* A session's side: read-only, beside a writer, on a read-only mount, making no file. */
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_sees_commits(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct registration x = reg_of(path_of('a', "x"), &a, NULL),
			    y = reg_of(path_of('b', "y"), &a, NULL);
	_cleanup_(db_closep) struct db *writer = open_db(state, DB_WRITE),
				       *reader = open_db(state, DB_READ);

	assert_int_equal(db_path_valid(reader, &x.info.path), DB_ABSENT);
	assert_int_equal(db_begin(writer), 0);
	register_ok(writer, &x, 1);
	assert_int_equal(db_path_valid(reader, &x.info.path), DB_ABSENT);
	assert_int_equal(db_commit(writer), 0);
	assert_int_equal(db_path_valid(reader, &x.info.path), 0);
	/* within a snapshot nothing moves */
	assert_int_equal(db_read_begin(reader), 0);
	assert_int_equal(db_path_valid(reader, &y.info.path), DB_ABSENT);
	register_ok(writer, &y, 1);
	assert_int_equal(db_path_valid(reader, &y.info.path), DB_ABSENT);
	db_read_end(reader);
	assert_int_equal(db_path_valid(reader, &y.info.path), 0);
}

/* What a reader remembers of rows holds for one state of the database: here a row's path changes,
 * as nobody of ours ever does it. */
static void test_forgets_names(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path x = path_of('a', "x"), y = path_of('b', "y"), z = path_of('c', "z");
	struct registration v[] = { reg_of(x, &a, NULL), reg_of(y, &a, x.base, NULL) };
	_cleanup_(db_closep) struct db *writer = open_db(state, DB_WRITE),
				       *reader = open_db(state, DB_READ);
	struct path_info info;
	struct strv list = {};
	char out[64];

	register_ok(writer, v, 2);
	for (int i = 0; i < 3; i++) {
		const struct store_path *now = i == 2 ? &z : &x;

		assert_int_equal(db_read_begin(reader), 0);
		assert_int_equal(db_path_info(reader, &y, &a, &info), 0);
		assert_int_equal(info.refs.n, 1);
		assert_string_equal(info.refs.v[0], now->base);
		assert_int_equal(db_referrers(reader, now, &a, &list), 0);
		assert_int_equal(list.n, 1);
		assert_string_equal(list.v[0], y.base);
		assert_int_equal(db_path_valid(reader, &x), i == 2 ? DB_ABSENT : 0);
		assert_int_equal(db_path_info(reader, &x, &a, &info), i == 2 ? DB_ABSENT : 0);
		assert_int_equal(db_path_valid(reader, &y), 0);
		db_read_end(reader);
		if (i == 1)
			assert_int_equal(shell(out, sizeof(out),
					       "sqlite3 '%s' \"update ValidPaths set path = "
					       "'" STORE "/%s' where path = '" STORE "/%s'\"",
					       in_scratch(state, "db/db.sqlite"), z.base, x.base),
					 0);
	}
	assert_int_equal(db_referrers(reader, &x, &a, &list), 0);
	assert_int_equal(list.n, 0);
}

/* More references than are looked up at once, some of them twice in what is remembered. */
static void test_many_names(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 24);
	_cleanup_free_ struct registration *v = calloc(302, sizeof(*v));
	_cleanup_(db_closep) struct db *writer = open_db(state, DB_WRITE),
				       *reader = open_db(state, DB_READ);
	struct path_info info;
	struct strv list;

	assert_non_null(v);
	for (unsigned int i = 0; i < 302; i++) {
		v[i] = reg_of(path_nr(i, "p"), &a, NULL);
		for (unsigned int k = 0; i >= 300 && k < 300; k++)
			assert_int_equal(strv_add_arena(&v[i].info.refs, &a,
							arena_strdup(&a, v[k].info.path.base)),
					 0);
	}
	register_ok(writer, v, 302);
	assert_int_equal(db_read_begin(reader), 0);
	for (unsigned int i = 300; i < 302; i++) {
		assert_int_equal(db_path_info(reader, &v[i].info.path, &a, &info), 0);
		strv_sort(&v[i].info.refs);
		assert_int_equal(info.refs.n, 300);
		for (size_t k = 0; k < 300; k++)
			assert_string_equal(info.refs.v[k], v[i].info.refs.v[k]);
	}
	assert_int_equal(db_referrers(reader, &v[7].info.path, &a, &list), 0);
	assert_int_equal(list.n, 2);
	db_read_end(reader);
}

/* What is remembered is found by the digest; the whole name counts. */
static void test_alike_names(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path one = path_of('d', "one"), two = path_of('d', "two");
	struct registration v[] = { reg_of(one, &a, NULL), reg_of(two, &a, NULL) };
	_cleanup_(db_closep) struct db *writer = open_db(state, DB_WRITE),
				       *reader = open_db(state, DB_READ);
	struct path_info first, second, again;

	register_ok(writer, v, 2);
	assert_int_equal(db_read_begin(reader), 0);
	assert_int_equal(db_path_info(reader, &one, &a, &first), 0);
	assert_int_equal(db_path_info(reader, &two, &a, &second), 0);
	assert_int_equal(db_path_info(reader, &one, &a, &again), 0);
	assert_int_not_equal(first.id, second.id);
	assert_int_equal(first.id, again.id);
	db_read_end(reader);
}

static void test_cannot_write(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct registration x = reg_of(path_of('a', "x"), &a, NULL);
	_cleanup_(db_closep) struct db *writer = open_db(state, DB_WRITE),
				       *reader = open_db(state, DB_READ);
	_cleanup_err_ struct err e = { 0 };
	struct strv sigs = { 0 };

	register_ok(writer, &x, 1);
	strv_add_arena(&sigs, &a, (char *)"k:s");
	assert_int_equal(db_begin(reader), -EROFS);
	assert_int_equal(db_register_many(reader, &x, 1, &e), -EROFS);
	assert_int_equal(db_add_sigs(reader, &x.info.path, &sigs, DB_SIGS_MAX), -EROFS);
	assert_int_equal(db_invalidate(reader, &x.info.path), -EROFS);
}

static void test_makes_no_file(void **state)
{
	_cleanup_err_ struct err e = { 0 };
	_cleanup_(db_closep) struct db *db = NULL;

	db_close(open_db(state, DB_WRITE));
	/* the writer leaves them for readers; a reader alone must not make them */
	assert_int_equal(access(in_scratch(state, "db/db.sqlite-wal"), F_OK), 0);
	assert_int_equal(access(in_scratch(state, "db/db.sqlite-shm"), F_OK), 0);
	db_close(open_db(state, DB_READ));
	assert_int_equal(unlink(in_scratch(state, "db/db.sqlite-wal")), 0);
	assert_int_equal(unlink(in_scratch(state, "db/db.sqlite-shm")), 0);
	assert_true(db_open(in_scratch(state, "db"), DB_READ, STORE, true, &db, &e) < 0);
	assert_true(access(in_scratch(state, "db/db.sqlite-wal"), F_OK) < 0);
	assert_true(access(in_scratch(state, "db/db.sqlite-shm"), F_OK) < 0);
}

/* The shared index decides what other readers see: a session must not hold it writable. */
static void test_index_is_readonly(void **state)
{
	_cleanup_(db_closep) struct db *reader = NULL;
	unsigned int seen = 0;

	db_close(open_db(state, DB_WRITE));
	reader = open_db(state, DB_READ);
	for (int fd = 0; fd < 64; fd++) {
		char link[64], target[4096] = "";

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		if (readlink(link, target, sizeof(target) - 1) < 0 || !strstr(target, "/db.sqlite"))
			continue;
		if (!strstr(target, "-shm") && strstr(target, "-wal"))
			continue; /* SQLite asks for write access and takes what it gets */
		assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
		seen++;
	}
	assert_int_equal(seen, 2);
}

/* In the child: the directory as a session sees it. Exit 77: not possible here. */
static int read_on_readonly_mount(const char *dir, const struct store_path *p, int ready, int go)
{
	_cleanup_err_ struct err e = { 0 };
	_cleanup_(db_closep) struct db *db = NULL;
	char byte = 'r';

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount(dir, dir, NULL, MS_BIND, NULL) ||
	    mount(NULL, dir, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL))
		return 77;
	if (open(dir, O_TMPFILE | O_WRONLY, 0600) >= 0)
		return 78;
	if (db_open(dir, DB_READ, STORE, true, &db, &e))
		return 79;
	if (db_path_valid(db, p) != DB_ABSENT)
		return 80;
	if (write(ready, &byte, 1) != 1 || read(go, &byte, 1) != 1)
		return 81;
	return db_path_valid(db, p) ? 82 : 0;
}

static void test_readonly_mount(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct registration x = reg_of(path_of('a', "x"), &a, NULL);
	_cleanup_(db_closep) struct db *writer = open_db(state, DB_WRITE);
	int ready[2], go[2], status;
	char byte = 'g';
	pid_t pid;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(read_on_readonly_mount(in_scratch(state, "db"), &x.info.path, ready[1],
					     go[0]));
	close(ready[1]);
	if (read(ready[0], &byte, 1) == 1) {
		register_ok(writer, &x, 1);
		assert_int_equal(write(go[1], &byte, 1), 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(ready[0]);
	close(go[0]);
	close(go[1]);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("skipped: no permission to make a read-only bind mount\n");
		skip();
	}
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_sees_commits),	   T(test_cannot_write),   T(test_makes_no_file),
		T(test_index_is_readonly), T(test_readonly_mount), T(test_forgets_names),
		T(test_many_names),	   T(test_alike_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
