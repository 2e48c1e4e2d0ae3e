/* Against stock nix: its databases read by us, ours read by it. Skipped where there is none. */
#include "scratch.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool has_stock_nix(void)
{
	char out[16];

	return !shell(out, sizeof(out),
		      "command -v nix-store >/dev/null && command -v sqlite3 >/dev/null");
}

/* Everything stock nix may touch lies in the scratch directory; its store is <dir>/store. */
static int nix(void *const *state, char *out, size_t size, const char *command)
{
	const char *dir = *state;

	return shell(out, size,
		     "cd '%s' && mkdir -p home etc && echo 'build-users-group =' > etc/nix.conf && "
		     "env -u NIX_CONFIG HOME='%s/home' NIX_REMOTE= NIX_STORE_DIR='%s/store' "
		     "NIX_STATE_DIR='%s/var' NIX_LOG_DIR='%s/log' NIX_LOCALSTATE_DIR='%s/var' "
		     "NIX_CONF_DIR='%s/etc' sh -c \"%s\" 2>&1",
		     dir, dir, dir, dir, dir, dir, dir, command);
}

static const char *nix_ok(void *const *state, const char *command)
{
	static char out[64 * 1024];
	int status = nix(state, out, sizeof(out), command);

	if (status)
		print_error("%s: %s\n", command, out);
	assert_int_equal(status, 0);
	return out;
}

/* 2.8 keeps its database in <state>/db. */
static struct db *open_stock(void *const *state)
{
	_cleanup_err_ struct err e = { 0 };
	struct db *db = NULL;

	if (db_open(in_scratch(state, "var/db"), DB_WRITE, in_scratch(state, "store"), true, &db,
		    &e))
		fail_msg("db_open: %s", err_msg(&e));
	return db;
}

static struct store_path base(const char *full)
{
	struct store_path p = { 0 };

	snprintf(p.base, sizeof(p.base), "%s", strrchr(full, '/') + 1);
	return p;
}

#define SCHEMA                                                                                     \
	"select type || name || tbl_name from sqlite_master where name != 'SchemaMigrations' and " \
	"name not like 'sqlite_autoindex_SchemaM%%' order by 1"

static void pragmas(const char *db, char *out, size_t size)
{
	static const char *const tables[] = { "ValidPaths", "Refs", "DerivationOutputs" };
	size_t len = 0;

	for (size_t i = 0; i < ELEMENTS(tables); i++) {
		assert_int_equal(
			shell(out + len, size - len,
			      "sqlite3 '%s' \"pragma table_info(%s); pragma foreign_key_list(%s); "
			      "pragma index_list(%s)\"",
			      db, tables[i], tables[i], tables[i]),
			0);
		len += strlen(out + len);
	}
	assert_true(len > 100);
}

/* The text of the statements, without comments and blanks. */
static void statements(const char *db, char *out, size_t size)
{
	assert_int_equal(
		shell(out, size,
		      "sqlite3 '%s' \"select sql from sqlite_master where sql is not null and name "
		      "!= 'SchemaMigrations'\" | sed 's/--.*//' | tr -d ' \\n\\t'",
		      db),
		0);
	assert_true(strlen(out) > 100);
}

static void test_schema(void **state)
{
	static char ours[16384], theirs[16384];
	const char *mine = in_scratch(state, "db/db.sqlite"),
		   *stock = in_scratch(state, "var/db/db.sqlite");

	if (!has_stock_nix())
		skip();
	db_close(open_db(state, DB_WRITE));
	(void)nix_ok(state, "nix-store --init");
	pragmas(mine, ours, sizeof(ours));
	pragmas(stock, theirs, sizeof(theirs));
	assert_string_equal(ours, theirs);
	statements(mine, ours, sizeof(ours));
	statements(stock, theirs, sizeof(theirs));
	assert_string_equal(ours, theirs);
	assert_int_equal(shell(ours, sizeof(ours), "sqlite3 '%s' \"" SCHEMA "\"", mine), 0);
	assert_int_equal(shell(theirs, sizeof(theirs), "sqlite3 '%s' \"" SCHEMA "\"", stock), 0);
	assert_string_equal(ours, theirs);
	/* Nix 2.34's own text */
	assert_int_equal(shell(ours, sizeof(ours), "sqlite3 '%s' '.schema SchemaMigrations'", mine),
			 0);
	assert_string_equal(ours,
			    "CREATE TABLE SchemaMigrations (migration text primary key not null);");
}

static const char instantiate[] = "nix-instantiate --expr 'let src = builtins.toFile \\\"src\\\" "
				  "\\\"hi\\\"; in derivation { name = \\\"p\\\"; "
				  "system = \\\"x86_64-linux\\\"; builder = \\\"/bin/sh\\\"; args "
				  "= [ src ]; outputs = [ \\\"out\\\" \\\"dev\\\" ]; }'";

static void test_reads_stock(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	_cleanup_(db_closep) struct db *db = NULL;
	struct strv names, outs, roots = { 0 }, all;
	struct store_path drv, added, found;
	struct path_info i;
	char hash[80], command[2048], *dump;

	if (!has_stock_nix())
		skip();
	added = base(nix_ok(state, "echo hello > f && nix-store --add f"));
	/* the last line: a warning about gc roots comes first */
	drv = base(nix_ok(state, instantiate));
	db = open_stock(state);
	assert_int_equal(db_path_info(db, &added, &a, &i), 0);
	base16_encode(i.nar_hash, 32, hash);
	snprintf(command, sizeof(command), "nix-hash --type sha256 store/%s", added.base);
	assert_string_equal(hash, nix_ok(state, command));
	assert_int_equal(i.nar_size, 120);
	assert_memory_equal(i.ca, "fixed:r:sha256:", 15);
	assert_int_equal(i.refs.n, 0);
	assert_int_equal(db_path_info(db, &drv, &a, &i), 0);
	assert_int_equal(i.refs.n, 1);
	assert_non_null(strstr(i.refs.v[0], "-src"));
	assert_memory_equal(i.ca, "text:sha256:", 12);
	assert_int_equal(db_drv_outputs(db, &drv, &a, &names, &outs), 0);
	assert_int_equal(names.n, 2);
	assert_string_equal(names.v[0], "dev");
	assert_string_equal(names.v[1], "out");
	assert_non_null(strstr(outs.v[0], "-p-dev"));
	strv_add_arena(&roots, &a, drv.base);
	assert_int_equal(db_closure(db, &roots, &a, &all, NULL), 0);
	assert_int_equal(all.n, 2);
	assert_int_equal(db_path_from_digest(db, arena_strndup(&a, drv.base, 32), &found), 0);
	assert_string_equal(found.base, drv.base);
	/* the same row written by us is the same row: dump, delete, register, dump */
	dump = arena_alloc(&a, 16384);
	assert_int_equal(shell(dump, 16384,
			       "sqlite3 '%s' \"select path, quote(hash), quote(registrationTime), "
			       "quote(deriver), quote(narSize), quote(ultimate), quote(sigs), "
			       "quote(ca) from ValidPaths "
			       "where path like '%%%s'; select d.id, d.path from DerivationOutputs "
			       "d order by d.id\"",
			       in_scratch(state, "var/db/db.sqlite"), drv.base),
			 0);
	{
		struct drv_row rows[] = { { names.v[0], outs.v[0] }, { names.v[1], outs.v[1] } };
		struct registration reg = { .info = i };
		char *again = arena_alloc(&a, 16384);

		reg.outputs.v = rows;
		reg.outputs.n = 2;
		assert_int_equal(db_invalidate(db, &drv), 0);
		register_ok(db, &reg, 1);
		assert_int_equal(
			shell(again, 16384,
			      "sqlite3 '%s' \"select path, quote(hash), quote(registrationTime), "
			      "quote(deriver), quote(narSize), quote(ultimate), quote(sigs), "
			      "quote(ca) from ValidPaths "
			      "where path like '%%%s'; select d.id, d.path from DerivationOutputs "
			      "d order by d.id\"",
			      in_scratch(state, "var/db/db.sqlite"), drv.base),
			0);
		assert_true(strlen(dump) > 100);
		assert_string_equal(dump, again);
	}
}

static void test_stock_reads_ours(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path x = path_of('a', "x"), y = path_of('b', "y"), d = path_of('c', "y.drv");
	_cleanup_(db_closep) struct db *db = NULL;
	struct drv_row row = { (char *)"out", y.base };
	struct registration v[] = {
		reg_of(x, &a, NULL),
		reg_of(y, &a, x.base, y.base, NULL),
		reg_of(d, &a, NULL),
	};
	char expect[4096], command[2048];
	const char *dir = *state;

	if (!has_stock_nix())
		skip();
	v[1].info.deriver = d.base;
	v[1].info.ultimate = true;
	strv_add_arena(&v[1].info.sigs, &a, (char *)"key-1:c2ln");
	v[2].outputs.v = &row;
	v[2].outputs.n = 1;
	db = open_stock(state);
	register_ok(db, v, 3);
	/* both at once: the stock tools open the database beside us */
	for (size_t i = 0; i < 3; i++) {
		snprintf(command, sizeof(command), "mkdir -p store && echo 1 > store/%s",
			 v[i].info.path.base);
		(void)nix_ok(state, command);
	}
	snprintf(command, sizeof(command), "nix-store -q --references %s/store/%s | sort", dir,
		 y.base);
	snprintf(expect, sizeof(expect), "%s/store/%s\n%s/store/%s", dir, x.base, dir, y.base);
	assert_string_equal(nix_ok(state, command), expect);
	snprintf(command, sizeof(command), "nix-store -q --referrers %s/store/%s", dir, x.base);
	snprintf(expect, sizeof(expect), "%s/store/%s", dir, y.base);
	assert_string_equal(nix_ok(state, command), expect);
	snprintf(command, sizeof(command), "nix-store -q --deriver %s/store/%s", dir, y.base);
	snprintf(expect, sizeof(expect), "%s/store/%s", dir, d.base);
	assert_string_equal(nix_ok(state, command), expect);
	snprintf(command, sizeof(command),
		 "nix-store -q --hash %s/store/%s | tail -n 1 | xargs nix-hash --type sha256 "
		 "--to-base16",
		 dir, x.base);
	assert_string_equal(nix_ok(state, command),
			    "abababababababababababababababababababababababababababababababab");
	snprintf(command, sizeof(command), "nix-store -q --size %s/store/%s", dir, x.base);
	assert_string_equal(nix_ok(state, command), "120");
	snprintf(command, sizeof(command),
		 "nix --extra-experimental-features nix-command path-info --json %s/store/%s", dir,
		 y.base);
	(void)nix_ok(state, command);
	assert_non_null(strstr(nix_ok(state, command), "\"signatures\":[\"key-1:c2ln\"]"));
	assert_non_null(strstr(nix_ok(state, command), "\"ultimate\":true"));
	snprintf(command, sizeof(command), "nix-store --dump-db %s/store/%s | wc -l", dir, y.base);
	assert_string_equal(nix_ok(state, command), "7");
	(void)nix_ok(state, "nix-store --dump-db > dump1 && test -s dump1");
	assert_int_equal(shell(expect, sizeof(expect),
			       "sqlite3 '%s' 'pragma integrity_check; pragma foreign_key_check'",
			       in_scratch(state, "var/db/db.sqlite")),
			 0);
	assert_string_equal(expect, "ok");
	/* and what stock nix adds is seen by us at once */
	x = base(nix_ok(state, "echo more > g && nix-store --add g"));
	assert_int_equal(db_path_valid(db, &x), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(test_schema), T(test_reads_stock),
					    T(test_stock_reads_ours) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
