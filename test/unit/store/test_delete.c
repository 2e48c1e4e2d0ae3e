/* Deleting runs of rows: nothing of them is left, and nothing that is referred to goes. */
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

static int delete_runs(struct db *db, const struct db_run *runs, size_t n)
{
	int r = db_begin_delete(db);

	assert_int_equal(r, 0);
	r = db_delete_runs(db, runs, n);
	if (r < 0) {
		db_rollback(db);
		return r;
	}
	return db_commit(db);
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
	assert_int_equal(
		delete_runs(db, (struct db_run[]){ { id[90], id[99] }, { id[40], id[49] } }, 2),
		-EBUSY);
	assert_whole(state, "ok\n100\n100");
	assert_int_equal(
		delete_runs(db, (struct db_run[]){ { id[80], id[99] }, { id[50], id[79] } }, 2), 0);
	assert_whole(state, "ok\n50\n50");
	assert_int_equal(shell(out, sizeof(out), "sqlite3 %s/db/db.sqlite 'select count(*) from Refs'",
			       (char *)*state),
			 0);
	assert_string_equal(out, "99"); /* twice 50, but the first refers to itself alone */
}

/* Afterwards foreign keys are enforced, also after a failure and a rollback. */
static void test_keys_come_back(void **state)
{
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct store_path p = path_nr(0, "chain.drv");
	uint64_t id[N];

	make_chain(db, id);
	assert_int_equal(db_invalidate(db, &p), -EBUSY);
	assert_int_equal(delete_runs(db, (struct db_run[]){ { id[10], id[20] } }, 1), -EBUSY);
	assert_int_equal(db_invalidate(db, &p), -EBUSY);
	assert_int_equal(delete_runs(db, (struct db_run[]){ { id[10], id[99] } }, 1), 0);
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
	assert_int_equal(delete_runs(db, (struct db_run[]){ { id[40], id[49] } }, 1), -EBUSY);
	assert_int_equal(delete_runs(db, (struct db_run[]){ { id[50], id[99] } }, 1), 0);
	assert_whole(state, "ok\n50\n50");
	assert_int_equal(shell(out, sizeof(out),
			       "sqlite3 %s/db/db.sqlite 'select count(*) from Realisations'",
			       (char *)*state),
			 0);
	assert_string_equal(out, "0");
}

#define T(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_runs),
		T(test_keys_come_back),
		T(test_realisations_go_along),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
