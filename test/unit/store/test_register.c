/* Registration: what is refused, what is undone, what stays. */
#include "scratch.h"

#include <errno.h>
#include <stdlib.h>

static int refuse(struct db *db, struct registration *v, size_t n, char *text, size_t size)
{
	_cleanup_err_ struct err e = { 0 };
	int r = db_register_many(db, v, n, &e);

	snprintf(text, size, "%s", r ? err_msg(&e) : "");
	return r;
}

static void test_any_order(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path x = path_of('a', "x"), y = path_of('b', "y"), z = path_of('c', "z");
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct registration v[] = {
		reg_of(z, &a, y.base, x.base, NULL),
		reg_of(y, &a, x.base, NULL),
		reg_of(x, &a, x.base, NULL),
	};
	struct strv list;

	register_ok(db, v, 3);
	assert_int_equal(db_referrers(db, &x, &a, &list), 0);
	assert_int_equal(list.n, 3);
}

static void test_missing_reference(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path x = path_of('a', "x"), y = path_of('b', "y"), z = path_of('c', "z");
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct registration v[] = { reg_of(x, &a, NULL), reg_of(y, &a, z.base, NULL) };
	char text[512];

	assert_int_equal(refuse(db, v, 2, text, sizeof(text)), DB_BAD);
	assert_string_equal(text, "cannot register path '" STORE
				  "/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-y' because it "
				  "requires the path '" STORE
				  "/cccccccccccccccccccccccccccccccc-z', which is not "
				  "valid");
	assert_int_equal(db_path_valid(db, &x), DB_ABSENT);
	assert_int_equal(db_path_valid(db, &y), DB_ABSENT);
	/* inside a transaction the others stay */
	assert_int_equal(db_begin(db), 0);
	register_ok(db, v, 1);
	assert_int_equal(refuse(db, v + 1, 1, text, sizeof(text)), DB_BAD);
	assert_int_equal(db_commit(db), 0);
	assert_int_equal(db_path_valid(db, &x), 0);
	assert_int_equal(db_path_valid(db, &y), DB_ABSENT);
}

static void test_twice_in_a_batch(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct registration v[] = { reg_of(path_of('a', "x"), &a, NULL),
				    reg_of(path_of('a', "x"), &a, NULL) };
	char text[512];

	assert_int_equal(refuse(db, v, 2, text, sizeof(text)), DB_BAD);
	assert_non_null(strstr(text, "twice"));
}

static void test_cycle(void **state)
{
	enum { N = 50000 };
	_cleanup_arena_ struct arena a = ARENA_INIT(64 << 20);
	struct store_path x = path_of('a', "x"), y = path_of('b', "y"), z = path_of('c', "z");
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	_cleanup_free_ struct registration *deep = calloc(N, sizeof(*deep));
	struct registration v[] = {
		reg_of(x, &a, x.base, y.base, NULL),
		reg_of(y, &a, z.base, NULL),
		reg_of(z, &a, x.base, NULL),
	};
	char text[512];

	assert_int_equal(refuse(db, v, 3, text, sizeof(text)), DB_BAD);
	assert_string_equal(text, "cycle detected in the references of '" STORE
				  "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-x' "
				  "from '" STORE "/cccccccccccccccccccccccccccccccc-z'");
	assert_int_equal(db_path_valid(db, &x), DB_ABSENT);
	for (unsigned int i = 0; i < N; i++)
		deep[i] = reg_of(path_nr(i, "d"), &a, path_nr((i + 1) % N, "d").base, NULL);
	assert_int_equal(refuse(db, deep, N, text, sizeof(text)), DB_BAD);
	assert_non_null(strstr(text, "cycle detected"));
	/* the same graph without the closing edge is fine: no false alarm on a diamond or a chain
	 */
	deep[N - 1].info.refs.n = 0;
	register_ok(db, deep, N);
}

static void test_update(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path x = path_of('a', "x"), y = path_of('b', "y"), d = path_of('d', "d.drv");
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct registration v[] = { reg_of(y, &a, NULL), reg_of(x, &a, y.base, NULL) };
	struct path_info i;

	v[1].info.deriver = d.base;
	register_ok(db, v, 2);
	v[1] = reg_of(x, &a, NULL);
	memset(v[1].info.nar_hash, 1, 32);
	v[1].info.nar_size = 7;
	v[1].info.registration_time = 9999;
	v[1].info.ultimate = true;
	v[1].info.ca = (char *)"text:sha256:x";
	strv_add_arena(&v[1].info.sigs, &a, (char *)"k:s");
	register_ok(db, v + 1, 1);
	assert_int_equal(db_path_info(db, &x, &a, &i), 0);
	assert_memory_equal(i.nar_hash, v[1].info.nar_hash, 32);
	assert_int_equal(i.nar_size, 7);
	assert_true(i.ultimate);
	assert_string_equal(i.ca, "text:sha256:x");
	assert_int_equal(i.sigs.n, 1);
	assert_int_equal(i.id, 2);
	/* upstream's update leaves these three alone */
	assert_int_equal(i.registration_time, 1000);
	assert_string_equal(i.deriver, d.base);
	assert_int_equal(i.refs.n, 1);
}

static void test_sigs(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct registration reg = reg_of(path_of('a', "x"), &a, NULL);
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct store_path none = path_of('b', "none");
	struct strv sigs = { 0 }, bad = { 0 };
	struct path_info i;

	strv_add_arena(&reg.info.sigs, &a, (char *)"m:1");
	register_ok(db, &reg, 1);
	strv_add_arena(&sigs, &a, (char *)"z:2");
	strv_add_arena(&sigs, &a, (char *)"b:2");
	strv_add_arena(&sigs, &a, (char *)"m:1");
	assert_int_equal(db_add_sigs(db, &none, &sigs, DB_SIGS_MAX), DB_ABSENT);
	assert_int_equal(db_add_sigs(db, &reg.info.path, &sigs, DB_SIGS_MAX), 0);
	assert_int_equal(db_path_info(db, &reg.info.path, &a, &i), 0);
	assert_int_equal(i.sigs.n, 3);
	assert_string_equal(i.sigs.v[0], "b:2");
	assert_string_equal(i.sigs.v[1], "m:1");
	assert_string_equal(i.sigs.v[2], "z:2");
	/* as many as there is room for, and a repetition always */
	assert_int_equal(db_add_sigs(db, &reg.info.path, &sigs, 12), 0);
	strv_add_arena(&sigs, &a, (char *)"y:3");
	assert_int_equal(db_add_sigs(db, &reg.info.path, &sigs, 15), -E2BIG);
	assert_int_equal(db_path_info(db, &reg.info.path, &a, &i), 0);
	assert_int_equal(i.sigs.n, 3);
	/* one text must not become two signatures */
	strv_add_arena(&bad, &a, (char *)"k:1 root:2");
	assert_int_equal(db_add_sigs(db, &reg.info.path, &bad, DB_SIGS_MAX), -EINVAL);
	assert_int_equal(db_path_info(db, &reg.info.path, &a, &i), 0);
	assert_int_equal(i.sigs.n, 3);
}

static void test_invalidate(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct store_path x = path_of('a', "x"), y = path_of('b', "y.drv");
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct drv_row row = { (char *)"out", x.base };
	struct registration v[] = { reg_of(x, &a, x.base, NULL),
				    reg_of(y, &a, x.base, y.base, NULL) };
	struct strv list;
	uint64_t id;

	v[1].outputs.v = &row;
	v[1].outputs.n = 1;
	register_ok(db, v, 2);
	assert_int_equal(db_invalidate(db, &x), -EBUSY);
	assert_int_equal(db_path_valid(db, &x), 0);
	assert_int_equal(db_begin(db), 0);
	assert_int_equal(db_invalidate(db, &x), -EBUSY); /* the transaction survives it */
	assert_int_equal(db_invalidate(db, &y), 0);
	assert_int_equal(db_invalidate(db, &x), 0);
	assert_int_equal(db_commit(db), 0);
	assert_int_equal(db_path_valid(db, &x), DB_ABSENT);
	assert_int_equal(db_valid_derivers(db, &x, &a, &list), 0);
	assert_int_equal(list.n, 0);
	/* ids are never used again: the watermark counts on it */
	register_ok(db, v, 1);
	assert_int_equal(db_max_id(db, &id), 0);
	assert_int_equal(id, 3);
}

static void test_transactions(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct registration reg = reg_of(path_of('a', "x"), &a, NULL);
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);

	assert_int_equal(db_commit(db), -EINVAL);
	assert_int_equal(db_begin(db), 0);
	assert_int_equal(db_begin(db), -EALREADY);
	assert_int_equal(db_read_begin(db), -EALREADY);
	register_ok(db, &reg, 1);
	assert_int_equal(db_path_valid(db, &reg.info.path), 0);
	db_rollback(db);
	assert_int_equal(db_path_valid(db, &reg.info.path), DB_ABSENT);
	assert_int_equal(db_read_begin(db), 0);
	assert_int_equal(db_read_begin(db), -EALREADY);
	assert_int_equal(db_begin(db), -EALREADY);
	db_read_end(db);
	db_read_end(db); /* harmless */
}

static void test_hostile_names(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	_cleanup_(db_closep) struct db *db = open_db(state, DB_WRITE);
	struct registration reg = reg_of(path_of('a', "x"), &a, NULL);
	char text[1024], *big = arena_alloc(&a, 4000);

	memset(big, 'q', 3999);
	reg.info.deriver = big;
	assert_int_equal(refuse(db, &reg, 1, text, sizeof(text)), -EINVAL);
	reg.info.deriver = (char *)"";
	strv_add_arena(&reg.info.refs, &a, big);
	assert_int_equal(refuse(db, &reg, 1, text, sizeof(text)), -EINVAL);
	reg.info.refs.n = 0;
	reg.info.nar_size = UINT64_MAX;
	assert_int_equal(refuse(db, &reg, 1, text, sizeof(text)), -EINVAL);
	assert_int_equal(db_path_valid(db, &reg.info.path), DB_ABSENT);
}

#define T(f) cmocka_unit_test_setup_teardown(f, scratch_setup, scratch_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_any_order),	  T(test_missing_reference),
		T(test_twice_in_a_batch), T(test_cycle),
		T(test_update),		  T(test_sigs),
		T(test_invalidate),	  T(test_transactions),
		T(test_hostile_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
