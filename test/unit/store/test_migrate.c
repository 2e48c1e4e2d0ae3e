/* Stores of older schemas: made exactly as their versions made them, opened by us. */
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

/* Nix 1.3 to 1.11; 2.0 made schema 10 out of it in three steps. */
static const char schema_7[] =
	"create table ValidPaths (id integer primary key autoincrement not null, path text unique "
	"not null, hash text not null, registrationTime integer not null, deriver text, narSize "
	"integer);"
	"create table Refs (referrer integer not null, reference integer not null, primary key "
	"(referrer, reference), foreign key (referrer) references ValidPaths(id) on delete "
	"cascade, foreign key (reference) references ValidPaths(id) on delete restrict);"
	"create index IndexReferrer on Refs(referrer);"
	"create index IndexReference on Refs(reference);"
	"create trigger DeleteSelfRefs before delete on ValidPaths begin delete from Refs where "
	"referrer = old.id and reference = old.id; end;"
	"create table DerivationOutputs (drv integer not null, id text not null, path text not "
	"null, primary key (drv, id), foreign key (drv) references ValidPaths(id) on delete "
	"cascade);"
	"create index IndexDerivationOutputs on DerivationOutputs(path);"
	"create table FailedPaths (path text primary key not null, time integer not null);";
static const char rows_7[] =
	"insert into ValidPaths values (3, \"/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x\", "
	"\"sha256:0000000000000000000000000000000000000000000000000000000000000000\", 7, null, "
	"null);"
	"insert into Refs values (3, 3);"
	"insert into FailedPaths values (\"/nix/store/f\", 1);";
static const char *const later[] = {
	[8] = "alter table ValidPaths add column ultimate integer; alter table ValidPaths add "
	      "column sigs text;",
	[9] = "drop table FailedPaths;",
};

static void sql(void *const *state, const char *text)
{
	char out[4096];

	if (shell(out, sizeof(out), "sqlite3 '%s' '%s' 2>&1", in_scratch(state, "db/db.sqlite"),
		  text))
		fail_msg("%s", out);
}

static void put(void *const *state, const char *name, const char *text)
{
	int fd = open(in_scratch(state, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, text, strlen(text)), 0);
	close(fd);
}

static void make_old(void *const *state, int version)
{
	char number[4];

	(void)rm_tree_at(AT_FDCWD, in_scratch(state, "db"));
	assert_int_equal(mkdir(in_scratch(state, "db"), 0755), 0);
	sql(state, schema_7);
	sql(state, rows_7);
	for (int v = 8; v <= version && v <= 9; v++)
		sql(state, later[v]);
	snprintf(number, sizeof(number), "%d", version);
	put(state, "db/schema", number);
}

static char *number_of(void *const *state, const char *name)
{
	static char text[16];
	_cleanup_free_ char *read = NULL;

	assert_int_equal(read_file_at(AT_FDCWD, in_scratch(state, name), 15, &read, NULL), 0);
	snprintf(text, sizeof(text), "%s", read);
	return text;
}

static void assert_migrated(void *const *state)
{
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path p = path_of('a', "x");
	struct path_info info;
	char out[64];

	assert_string_equal(number_of(state, "db/schema"), "10");
	assert_int_equal(db_path_info(db, &p, &a, &info), 0);
	assert_int_equal(info.id, 3);
	assert_int_equal(info.registration_time, 7);
	assert_false(info.ultimate);
	assert_int_equal(info.refs.n, 1);
	assert_int_equal(shell(out, sizeof(out),
			       "sqlite3 '%s' \"select count(*) from sqlite_master where name = "
			       "'FailedPaths'\"",
			       in_scratch(state, "db/db.sqlite")),
			 0);
	assert_string_equal(out, "0");
	/* the lock is shared again */
	assert_int_equal(
		shell(out, sizeof(out), "flock -s -n '%s' true", in_scratch(state, "db/big-lock")),
		0);
}

static void test_each(void **state)
{
	for (int version = 6; version <= 9; version++) {
		make_old(state, version);
		assert_migrated(state);
	}
}

/* What a kill between the commit and the number leaves, ours or (after any of its steps)
 * upstream's. */
static void test_half_way(void **state)
{
	static const char *const done[] = {
		"alter table ValidPaths add column ultimate integer",
		"alter table ValidPaths add column sigs text",
		"drop table FailedPaths",
		"alter table ValidPaths add column ca text",
	};

	for (size_t n = 1; n <= ELEMENTS(done); n++) {
		make_old(state, 7);
		for (size_t i = 0; i < n; i++)
			sql(state, done[i]);
		assert_migrated(state);
	}
}

/* Killed at any moment: the next one finds a store it can open. */
static void test_killed(void **state)
{
	for (useconds_t usec = 0; usec < 12000; usec += 400) {
		pid_t pid;

		make_old(state, 7);
		pid = fork();
		if (pid == 0) {
			struct db *db = NULL;

			(void)db_open(in_scratch(state, "db"), DB_WRITE, STORE, true, &db, NULL);
			_exit(0);
		}
		usleep(usec);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		assert_migrated(state);
	}
}

static void test_two_at_once(void **state)
{
	pid_t pids[4];

	make_old(state, 7);
	for (size_t i = 0; i < ELEMENTS(pids); i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			struct db *db = NULL;

			_exit(db_open(in_scratch(state, "db"), DB_WRITE, STORE, true, &db, NULL)
				      ? 1
				      : 0);
		}
	}
	for (size_t i = 0; i < ELEMENTS(pids); i++) {
		int status;

		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	assert_migrated(state);
}

static void refuse(void *const *state, enum db_mode mode, const char *sentence)
{
	_cleanup_err_ struct err e = { 0 };
	struct db *db = NULL;

	assert_true(db_open(in_scratch(state, "db"), mode, STORE, true, &db, &e) < 0);
	if (!strstr(err_msg(&e), sentence))
		fail_msg("%s", err_msg(&e));
}

static void test_refused(void **state)
{
	make_old(state, 7);
	refuse(state, DB_READ, "database schema needs migrating, but this cannot be done");
	put(state, "db/schema", "5");
	refuse(state, DB_WRITE, "in flat file format,\nwhich is no longer supported");
	put(state, "db/schema", "4");
	refuse(state, DB_WRITE, "in Berkeley DB format,\nwhich is no longer supported");
	put(state, "db/schema", "11");
	refuse(state, DB_WRITE, "store schema is version 11, but I only support 10");
	assert_string_equal(number_of(state, "db/schema"), "11");
}

/* The tables of realisations before they had ids. */
static void test_ca(void **state)
{
	_cleanup_(db_closep) struct db *db = NULL;
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	_cleanup_err_ struct err e = { 0 };
	struct realisation found;

	make_old(state, 7);
	assert_migrated(state);
	sql(state, "create table Realisations (drvPath text not null, outputName text not null, "
		   "outputPath integer not null, signatures text, primary key (drvPath, "
		   "outputName), foreign key (outputPath) references ValidPaths(id) on delete "
		   "cascade);");
	sql(state, "insert into Realisations values "
		   "(\"sha256:0000000000000000000000000000000000000000000000"
		   "000000000000000000\", \"out\", 3, \"k:s\")");
	put(state, "db/ca-schema", "1");
	db = open_db(state, DB_WRITE);
	assert_false(db_has_realisations(db)); /* unknown until somebody wants them */
	assert_int_equal(db_realisations_create(db, &e), 0);
	assert_int_equal(db_realisation(db, (uint8_t[32]){ 0 }, "out", &a, &found), 0);
	assert_string_equal(found.path.base, path_of('a', "x").base);
	assert_string_equal(found.sigs.v[0], "k:s");
	assert_string_equal(number_of(state, "db/ca-schema"), "3");
	assert_int_equal(db_realisations_create(db, &e), 0); /* again: nothing */
	put(state, "db/ca-schema", "4");
	assert_int_equal(db_realisations_create(db, &e), -EPROTONOSUPPORT);
	assert_string_equal(err_msg(&e),
			    "current Nix store ca-schema is version 4, but I only support 3");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_each, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(test_half_way, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(test_killed, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(test_two_at_once, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(test_refused, scratch_setup, scratch_teardown),
		cmocka_unit_test_setup_teardown(test_ca, scratch_setup, scratch_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
