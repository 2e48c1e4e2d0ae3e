/* Opening, and every query, on databases of our own making. */
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

static void put(void *const *state, const char *name, const char *text)
{
	int fd = open(in_scratch(state, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
	close(fd);
}

static int try_open(void *const *state, enum db_mode mode, char *text, size_t size)
{
	_cleanup_err_ struct err e = { 0 };
	_cleanup_(db_closep) struct db *db = NULL;
	int r = db_open(in_scratch(state, "db"), mode, STORE, true, &db, &e);

	snprintf(text, size, "%s", r ? err_msg(&e) : "");
	assert_true(r == 0 || db == NULL);
	return r;
}

static void test_creates(void **state)
{
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	_cleanup_free_ char *schema = NULL;
	uint64_t id = 1;
	char out[64];

	assert_int_equal(read_file_at(AT_FDCWD, in_scratch(state, "db/schema"), 10, &schema, NULL),
			 0);
	assert_string_equal(schema, "10");
	assert_int_equal(db_max_id(db, &id), 0);
	assert_int_equal(id, 0);
	/* upstream leaves other processes in with a shared lock, and keeps a migration out */
	assert_int_equal(
		shell(out, sizeof(out), "flock -s -n '%s' true", in_scratch(state, "db/big-lock")),
		0);
	assert_int_equal(
		shell(out, sizeof(out), "flock -x -n '%s' true", in_scratch(state, "db/big-lock")),
		1);
}

static void test_schema_number(void **state)
{
	static const struct {
		const char *text, *sentence;
	} rows[] = {
		{ "11", "current Nix store schema is version 11, but I only support 10" },
		{ "", "schema' is corrupt" },
		{ "x", "schema' is corrupt" },
		{ "10 10", "schema' is corrupt" },
		{ "-1", "schema' is corrupt" },
		{ "99999999999999999999", "schema' is corrupt" },
		{ "1000000000000000000000000000000000000000000000000000000000000000000000",
		  "corrupt" },
	};
	char text[512];

	db_close(open_db(state, DB_WRITE));
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		put(state, "db/schema", rows[i].text);
		assert_true(try_open(state, DB_WRITE, text, sizeof(text)) < 0);
		assert_non_null(strstr(text, rows[i].sentence));
		assert_true(try_open(state, DB_READ, text, sizeof(text)) < 0);
	}
	put(state, "db/schema", "10\n");
	assert_int_equal(try_open(state, DB_WRITE, text, sizeof(text)), 0);
}

static void test_read_needs_database(void **state)
{
	char text[512];

	assert_true(try_open(state, DB_READ, text, sizeof(text)) < 0);
	assert_int_equal(mkdir(in_scratch(state, "db"), 0755), 0);
	assert_int_equal(try_open(state, DB_READ, text, sizeof(text)), -ENOENT);
	assert_non_null(strstr(text, "cannot be created in read-only mode"));
	put(state, "db/schema", "10");
	assert_true(try_open(state, DB_READ, text, sizeof(text)) < 0);
	assert_true(access(in_scratch(state, "db/db.sqlite"), F_OK) < 0);
	/* a writer must not make a new database where one is said to be */
	assert_true(try_open(state, DB_WRITE, text, sizeof(text)) < 0);
	assert_true(access(in_scratch(state, "db/db.sqlite"), F_OK) < 0);
}

static void test_foreign_and_damaged(void **state)
{
	char text[512], big[8192];
	sqlite3 *sql;

	assert_int_equal(mkdir(in_scratch(state, "db"), 0755), 0);
	put(state, "db/schema", "10");
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	put(state, "db/db.sqlite", big);
	assert_int_equal(try_open(state, DB_WRITE, text, sizeof(text)), -EUCLEAN);
	assert_non_null(strstr(text, "damaged or not a Nix store database"));
	put(state, "db/db.sqlite-wal", "");
	put(state, "db/db.sqlite-shm", "");
	assert_int_equal(try_open(state, DB_READ, text, sizeof(text)), -EUCLEAN);

	assert_int_equal(unlink(in_scratch(state, "db/db.sqlite")), 0);
	assert_int_equal(sqlite3_open(in_scratch(state, "db/db.sqlite"), &sql), SQLITE_OK);
	assert_int_equal(sqlite3_exec(sql, "create table ValidPaths (id integer)", 0, 0, 0),
			 SQLITE_OK);
	sqlite3_close(sql);
	assert_int_equal(try_open(state, DB_WRITE, text, sizeof(text)), -EUCLEAN);
	assert_non_null(strstr(text, "no such column"));
}

/* Rows a damaged file or another store dir may hold: refused, not believed. */
static void test_odd_rows(void **state)
{
	static const char *const bad[] = {
		"update ValidPaths set hash = 'sha256:zz'",
		"update ValidPaths set hash = 'md5:00'",
		"update ValidPaths set deriver = "
		"'/elsewhere/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x.drv'",
	};
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct registration reg = reg_of(path_of('a', "x"), &a, NULL);
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct path_info info;
	struct strv all;
	sqlite3 *sql;

	register_ok(db, &reg, 1);
	assert_int_equal(sqlite3_open(in_scratch(state, "db/db.sqlite"), &sql), SQLITE_OK);
	for (size_t i = 0; i < ELEMENTS(bad); i++) {
		assert_int_equal(sqlite3_exec(sql, bad[i], 0, 0, 0), SQLITE_OK);
		assert_int_equal(db_path_info(db, &reg.info.path, &a, &info), -EUCLEAN);
	}
	assert_int_equal(sqlite3_exec(sql, "update ValidPaths set path = '" STORE "/a/b'", 0, 0, 0),
			 SQLITE_OK);
	assert_int_equal(db_all_paths(db, &a, &all), -EUCLEAN);
	sqlite3_close(sql);
}

static void test_info(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path x = path_of('x', "x-1"), y = path_of('a', "y"),
			  none = path_of('b', "none");
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct registration v[] = {
		reg_of(x, &a, x.base, y.base, NULL),
		reg_of(y, &a, NULL),
	};
	struct path_info i;

	v[0].info.deriver = none.base;
	v[0].info.ultimate = true;
	v[0].info.ca =
		(char *)"fixed:r:sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw";
	strv_add_arena(&v[0].info.sigs, &a, (char *)"b:2");
	strv_add_arena(&v[0].info.sigs, &a, (char *)"a:1");
	v[0].info.nar_size = 1ULL << 40;
	register_ok(db, v, 2);
	assert_int_equal(db_path_valid(db, &x), 0);
	assert_int_equal(db_path_valid(db, &none), DB_ABSENT);
	assert_int_equal(db_path_info(db, &none, &a, &i), DB_ABSENT);
	assert_int_equal(db_path_info(db, &x, &a, &i), 0);
	assert_string_equal(i.path.base, x.base);
	assert_memory_equal(i.nar_hash, v[0].info.nar_hash, 32);
	assert_int_equal(i.nar_size, 1ULL << 40);
	assert_int_equal(i.registration_time, 1000);
	assert_string_equal(i.deriver, none.base);
	assert_true(i.ultimate);
	assert_int_equal(i.sigs.n, 2);
	assert_string_equal(i.sigs.v[0], "a:1");
	assert_string_equal(i.sigs.v[1], "b:2");
	assert_string_equal(i.ca, v[0].info.ca);
	assert_int_equal(i.refs.n, 2);
	assert_string_equal(i.refs.v[0], y.base);
	assert_string_equal(i.refs.v[1], x.base);
	assert_int_equal(i.id, 1);
	assert_int_equal(db_path_info(db, &y, &a, &i), 0);
	assert_string_equal(i.deriver, "");
	assert_string_equal(i.ca, "");
	assert_false(i.ultimate);
	assert_int_equal(i.sigs.n, 0);
	assert_int_equal(i.refs.n, 0);
}

static void test_arena_limit(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20), tiny = ARENA_INIT(16);
	struct registration reg = reg_of(path_of('a', "x"), &a, path_of('a', "x").base, NULL);
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct path_info i;
	struct strv list;

	register_ok(db, &reg, 1);
	assert_int_equal(db_path_info(db, &reg.info.path, &tiny, &i), -ENOMEM);
	assert_int_equal(db_all_paths(db, &tiny, &list), -ENOMEM);
	/* the failed query holds no lock and no snapshot */
	assert_int_equal(db_begin(db), 0);
	assert_int_equal(db_commit(db), 0);
}

static void test_lists(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path drv = path_of('d', "p.drv"), out = path_of('c', "p"),
			  user = path_of('b', "u");
	struct store_path dev = path_of('e', "p-dev"), none = path_of('q', "none.drv");
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct registration v[] = {
		reg_of(drv, &a, NULL),
		reg_of(out, &a, NULL),
		reg_of(user, &a, out.base, NULL),
	};
	struct drv_row rows[] = { { (char *)"out", out.base }, { (char *)"dev", dev.base } };
	struct strv names, paths;
	struct store_path p;

	v[0].outputs.v = rows;
	v[0].outputs.n = 2;
	register_ok(db, v, 3);
	assert_int_equal(db_referrers(db, &out, &a, &paths), 0);
	assert_int_equal(paths.n, 1);
	assert_string_equal(paths.v[0], user.base);
	assert_int_equal(db_referrers(db, &user, &a, &paths), 0);
	assert_int_equal(paths.n, 0);
	assert_int_equal(db_valid_derivers(db, &out, &a, &paths), 0);
	assert_int_equal(paths.n, 1);
	assert_string_equal(paths.v[0], drv.base);
	assert_int_equal(db_drv_outputs(db, &drv, &a, &names, &paths), 0);
	assert_int_equal(names.n, 2);
	assert_string_equal(names.v[0], "dev");
	assert_string_equal(paths.v[0], dev.base);
	assert_string_equal(names.v[1], "out");
	assert_string_equal(paths.v[1], out.base);
	assert_int_equal(db_drv_outputs(db, &none, &a, &names, &paths), DB_ABSENT);
	assert_int_equal(db_all_paths(db, &a, &paths), 0);
	assert_int_equal(paths.n, 3);
	assert_string_equal(paths.v[0], user.base);
	assert_int_equal(db_paths_above(db, 1, &a, &paths), 0);
	assert_int_equal(paths.n, 2);
	assert_string_equal(paths.v[0], out.base);
	assert_int_equal(db_path_from_digest(db, "cccccccccccccccccccccccccccccccc", &p), 0);
	assert_string_equal(p.base, out.base);
	assert_int_equal(db_path_from_digest(db, "ccccccccccccccccccccccccccccccc0", &p),
			 DB_ABSENT);
	assert_int_equal(db_path_from_digest(db, "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", &p),
			 DB_ABSENT);
	assert_int_equal(db_path_from_digest(db, "c", &p), DB_ABSENT);
	assert_int_equal(db_path_from_digest(db, "ccccccccccccccccccccccccccccccccc", &p),
			 DB_ABSENT);
}

static void test_closure(void **state)
{
	enum { N = 20000 };
	_cleanup_arena_ struct arena a = ARENA_INIT(64 << 20);
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	_cleanup_free_ struct registration *v = calloc(N, sizeof(*v));
	struct store_path missing, lone = path_of('z', "lone");
	struct strv roots = { 0 }, all;

	/* a chain as deep as it is long, each also referring to itself and to the first */
	for (unsigned int i = 0; i < N; i++)
		v[i] = reg_of(path_nr(i, "n"), &a, path_nr(i, "n").base, path_nr(0, "n").base,
			      i + 1 < N ? path_nr(i ? i - 1 : 0, "n").base : NULL, NULL);
	v[N - 1] = reg_of(path_nr(N - 1, "n"), &a, path_nr(N - 2, "n").base, NULL);
	register_ok(db, v, N);
	strv_add_arena(&roots, &a, v[N - 1].info.path.base);
	assert_int_equal(db_closure(db, &roots, &a, &all, &missing), 0);
	assert_int_equal(all.n, N);
	for (size_t i = 1; i < all.n; i++)
		assert_true(strcmp(all.v[i - 1], all.v[i]) < 0);
	roots.v[0] = v[9].info.path.base;
	assert_int_equal(db_closure(db, &roots, &a, &all, &missing), 0);
	assert_int_equal(all.n, 10);
	strv_add_arena(&roots, &a, lone.base);
	assert_int_equal(db_closure(db, &roots, &a, &all, &missing), DB_ABSENT);
	assert_string_equal(missing.base, lone.base);
	assert_int_equal(db_read_begin(db), 0); /* the walk has left no snapshot behind */
	db_read_end(db);
}

#define T(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_creates),
		T(test_schema_number),
		T(test_read_needs_database),
		T(test_foreign_and_damaged),
		T(test_odd_rows),
		T(test_info),
		T(test_arena_limit),
		T(test_lists),
		T(test_closure),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
