/* Deleting many rows: nothing of them is left, and nothing that is referred to goes. */
#include "scratch.h"

#include <errno.h>

enum { N = 100 };

/* 0 … N-1, each refers to the one before it and to itself; outputs are recorded for each. */
static void make_chain(struct db *db, uint64_t id[N])
{
	for (unsigned int i = 0; i < N; i++) {
		_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
		struct store_path p = path_nr(i, "chain.drv"),
				  before = path_nr(i ? i - 1 : 0, "chain.drv");
		struct registration reg = reg_of(p, &a, before.base, i ? p.base : NULL, NULL);
		struct drv_row row = { .output = (char *)"out", .path = before.base };
		struct path_info info;

		reg.outputs.v = &row;
		reg.outputs.n = 1;
		register_ok(db, &reg, 1);
		assert_int_equal(db_path_info(db, &p, &a, &info), 0);
		id[i] = info.id;
	}
}

static struct db *open_sweep(void *const *state, struct db *db)
{
	struct db *sweep = NULL;

	assert_int_equal(db_open_sweep(db, in_scratch(state, "db"), false, &sweep, NULL), 0);
	return sweep;
}

static int delete_runs(void *const *state, struct db *db, const struct db_run *runs, size_t n)
{
	_cleanup_(db_closep) struct db *sweep = open_sweep(state, db);
	int r = db_begin_delete(sweep);

	assert_int_equal(r, 0);
	r = db_delete_runs(sweep, runs, n);
	if (r < 0) {
		db_rollback(sweep);
		return r;
	}
	return db_commit(sweep);
}

static void assert_whole(void *const *state, const char *rows)
{
	char out[256];

	assert_int_equal(shell(out, sizeof(out),
			       "sqlite3 %s/db/db.sqlite 'pragma integrity_check; pragma "
			       "foreign_key_check; select count(*) from ValidPaths; "
			       "select count(*) from DerivationOutputs'",
			       (char *)*state),
			 0);
	assert_string_equal(out, rows);
}

static void test_runs(void **state)
{
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	uint64_t id[N];
	char out[64];

	make_chain(db, id);
	/* The middle is needed by the end: nothing of either run goes. */
	assert_int_equal(delete_runs(state, db,
				     (struct db_run[]){ { id[90], id[99] }, { id[40], id[49] } },
				     2),
			 -EBUSY);
	assert_whole(state, "ok\n100\n100");
	assert_int_equal(delete_runs(state, db,
				     (struct db_run[]){ { id[80], id[99] }, { id[50], id[79] } },
				     2),
			 0);
	assert_whole(state, "ok\n50\n50");
	assert_int_equal(shell(out, sizeof(out),
			       "sqlite3 %s/db/db.sqlite 'select count(*) from Refs'",
			       (char *)*state),
			 0);
	assert_string_equal(out, "99"); /* twice 50, but the first refers to itself alone */
}

/* For everybody else foreign keys are enforced, before and after. */
static void test_keys_come_back(void **state)
{
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct store_path p = path_nr(0, "chain.drv");
	uint64_t id[N];

	make_chain(db, id);
	assert_int_equal(db_invalidate(db, &p), -EBUSY);
	assert_int_equal(delete_runs(state, db, (struct db_run[]){ { id[10], id[20] } }, 1),
			 -EBUSY);
	assert_int_equal(db_invalidate(db, &p), -EBUSY);
	assert_int_equal(delete_runs(state, db, (struct db_run[]){ { id[10], id[99] } }, 1), 0);
	assert_int_equal(db_invalidate(db, &p), -EBUSY);
	assert_whole(state, "ok\n10\n10");
}

/* Tables of a feature hang on paths by foreign keys: those are enforced then. */
static void test_realisations_go_along(void **state)
{
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct realisation real = { .drv_hash = { 1 }, .output = (char *)"out" };
	char out[64];
	uint64_t id[N];

	make_chain(db, id);
	assert_int_equal(db_realisations_create(db, NULL), 0);
	real.path = path_nr(99, "chain.drv");
	assert_int_equal(db_begin(db), 0);
	assert_int_equal(db_register_realisation(db, &real, NULL), 0);
	assert_int_equal(db_commit(db), 0);
	assert_int_equal(delete_runs(state, db, (struct db_run[]){ { id[40], id[49] } }, 1),
			 -EBUSY);
	assert_int_equal(delete_runs(state, db, (struct db_run[]){ { id[50], id[99] } }, 1), 0);
	assert_whole(state, "ok\n50\n50");
	assert_int_equal(shell(out, sizeof(out),
			       "sqlite3 %s/db/db.sqlite 'select count(*) from Realisations'",
			       (char *)*state),
			 0);
	assert_string_equal(out, "0");
}

/* ---- all at once ---- */

struct kept {
	uint64_t refs, news;
};

static void count_reference(void *ctx, uint64_t id)
{
	struct kept *k = ctx;

	k->refs++;
	k->news += id == 0;
}

static int run_bulk(struct db *sweep, struct db *db, uint64_t max_id, uint64_t n,
		    const struct db_run *keep, size_t n_keep, struct db_bulk **ret)
{
	struct kept k = {};
	int r = db_bulk_begin(sweep, db, max_id, n, ret);

	if (r != 0)
		return r;
	for (unsigned int i = 0; i < DB_BULK_TABLES; i++)
		assert_int_equal(db_bulk_empty(*ret, i), 0);
	for (size_t i = 0; i < n_keep; i++)
		assert_int_equal(db_bulk_keep(*ret, &keep[i], count_reference, &k), 0);
	assert_true(k.refs > 0 && k.news == 0);
	return 0;
}

static void dump(void *const *state, const char *dir, char *ret, size_t size)
{
	assert_int_equal(
		shell(ret, size,
		      "cd %s/%s && sqlite3 -bail db.sqlite 'select * from ValidPaths order by id; "
		      "select * from Refs order by referrer, reference; "
		      "select * from DerivationOutputs order by drv, id; "
		      "select * from sqlite_sequence; select * from sqlite_master' >dump && "
		      "sha256sum <dump",
		      (char *)*state, dir),
		0);
}

/* The same rows as after deleting each by itself, with keys and triggers, in a copy. */
static void test_at_once(void **state)
{
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE), *sweep = NULL;
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path late = path_nr(N, "late.drv"), p = path_nr(3, "chain.drv"),
			  last = path_nr(N - 1, "chain.drv");
	struct registration reg;
	struct db_bulk *b = NULL;
	char one[128], all[128];
	uint64_t id[N];

	make_chain(db, id);
	reg = reg_of(late, &a, path_nr(5, "chain.drv").base, NULL);
	register_ok(db, &reg, 1);
	sweep = open_sweep(state, db);
	assert_int_equal(
		run_bulk(sweep, db, id[N - 1], N,
			 (struct db_run[]){ { id[0], id[9] }, { id[N - 1] + 1, INT64_MAX } }, 2,
			 &b),
		0);
	/* Nobody else has seen anything yet, nor can he write. */
	assert_int_equal(db_path_valid(db, &last), 0);
	assert_whole(state, "ok\n101\n100");
	assert_int_equal(
		shell(all, sizeof(all),
		      "cd %s && mkdir slow && sqlite3 db/db.sqlite '.backup slow/db.sqlite' && "
		      "{ echo 'pragma foreign_keys = on;'; for i in $(seq 99 -1 10); do "
		      "echo \"delete from ValidPaths where id = $((%llu + i));\"; done; } | "
		      "sqlite3 -bail slow/db.sqlite",
		      (char *)*state, (unsigned long long)id[0]),
		0);
	assert_int_equal(db_bulk_commit(b), 0);
	assert_whole(state, "ok\n11\n10");
	dump(state, "db", all, sizeof(all));
	dump(state, "slow", one, sizeof(one));
	assert_string_equal(all, one);
	assert_int_equal(db_path_valid(db, &last), DB_ABSENT);
	assert_int_equal(db_invalidate(db, &p), -EBUSY);
}

static void on_write(void *ctx)
{
	struct db_bulk **b = ctx;

	db_bulk_abort(*b);
	*b = NULL;
}

static void test_a_writer_goes_first(void **state)
{
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE), *sweep = NULL;
	struct db_run keep;
	struct db_bulk *b = NULL;
	uint64_t id[N];

	make_chain(db, id);
	sweep = open_sweep(state, db);
	keep = (struct db_run){ id[0], id[9] };
	assert_int_equal(run_bulk(sweep, db, id[N - 1], N, &keep, 1, &b), 0);
	db_on_write(db, on_write, &b);
	assert_int_equal(db_begin(db), 0);
	assert_null(b);
	assert_int_equal(db_commit(db), 0);
	assert_whole(state, "ok\n100\n100");
}

/* What is not understood is left to the way that leaves everything to SQLite. */
static void test_not_at_once(void **state)
{
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE), *sweep = NULL;
	struct db_bulk *b = NULL;
	uint64_t id[N];

	make_chain(db, id);
	sweep = open_sweep(state, db);
	assert_int_equal(db_bulk_begin(sweep, db, id[N - 1], N - 1, &b), DB_BAD);
	assert_int_equal(db_bulk_begin(sweep, db, id[N - 2], N, &b), DB_BAD);
	assert_int_equal(db_realisations_create(db, NULL), 0);
	assert_int_equal(db_bulk_begin(sweep, db, id[N - 1], N, &b), DB_BAD);
	assert_null(b);
	assert_int_equal(db_begin(db), 0); /* no transaction is left open */
	assert_int_equal(db_commit(db), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_runs),	 T(test_keys_come_back),      T(test_realisations_go_along),
		T(test_at_once), T(test_a_writer_goes_first), T(test_not_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
