/* The way into the store: what gets in, what does not, and that nothing stays of what did not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "nar/tree.h"
#include "scratch.h"

static struct scratch s;
static char *spool;
static int fd;
static int n_done;
static char last[1024];

static int setup(void **state)
{
	(void)state;
	scratch_open(&s);
	assert_int_equal(spool_make(s.core.spool, 's', &spool, &fd), 0);
	n_done = 0;
	return 0;
}
static int teardown(void **state)
{
	(void)state;
	close(fd);
	free(spool);
	scratch_close(&s);
	return 0;
}

static void done(void *ctx, const struct err *e)
{
	(void)ctx;
	n_done++;
	snprintf(last, sizeof(last), "%s", e ? err_msg(e) : "ok");
}

/* A text object as a session stages it. */
static struct staged text(struct arena *a, const char *name, const char *content, struct strv refs)
{
	struct staged st = { .dirfd = fd, .name = arena_strdup(a, name) };
	struct tree_facts facts;
	struct ca ca = { .method = CA_TEXT };

	scratch_write(fd, name, content);
	assert_int_equal(tree_measure(fd, name, NULL, &facts, NULL), 0);
	memcpy(st.info.nar_hash, facts.nar_hash, 32);
	st.info.nar_size = facts.nar_size;
	hash_buffer(HASH_SHA256, content, strlen(content), &ca.hash);
	assert_int_equal(
		store_path_for_ca(s.core.store_dir, name, &ca, &refs, false, &st.info.path, NULL),
		0);
	st.info.ca = ca_print(a, &ca);
	st.info.deriver = (char *)"";
	st.info.refs = refs;
	return st;
}

static void add(struct staged *v, size_t n, unsigned int flags)
{
	place_objects_from(s.core.place, v, n, flags, done, NULL);
	scratch_spin(&s);
}

static bool valid(const struct staged *st)
{
	return db_path_valid(s.core.db, &st->info.path) == 0;
}

static const unsigned int client = PLACE_FOREIGN | PLACE_CHECK_SIGS;

static void text_gets_in(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct staged v[2];
	char *ref[1];

	(void)state;
	v[0] = text(&a, "one", "hello", (struct strv){});
	ref[0] = v[0].info.path.base;
	v[1] = text(&a, "two", "world", (struct strv){ ref, 1 });
	add(v, 2, client);
	assert_string_equal(last, "ok");
	assert_int_equal(n_done, 1);
	assert_true(valid(&v[0]) && valid(&v[1]));
	assert_true(scratch_exists(&s, v[0].info.path.base));
	assert_int_equal(faccessat(fd, "one", F_OK, 0), -1); /* moved, not copied */
	/* Again: left alone, and what was staged stays where it is. */
	v[0] = text(&a, "one", "hello", (struct strv){});
	add(v, 1, client);
	assert_string_equal(last, "ok");
	assert_int_equal(faccessat(fd, "one", F_OK, 0), 0);
}

static void nothing_before_the_commit(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct staged v = text(&a, "one", "hello", (struct strv){});

	(void)state;
	place_objects_from(s.core.place, &v, 1, client, done, NULL);
	assert_int_equal(n_done, 0);
	assert_false(valid(&v));
	place_flush(s.core.place);
	assert_int_equal(n_done, 1);
	assert_true(valid(&v));
}

static void two_of_a_round_want_the_same(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct staged v = text(&a, "one", "hello", (struct strv){}), w = v;

	(void)state;
	scratch_write(fd, "copy", "hello");
	w.name = "copy";
	place_objects_from(s.core.place, &v, 1, client, done, NULL);
	place_objects_from(s.core.place, &w, 1, client, done, NULL);
	scratch_spin(&s);
	assert_int_equal(n_done, 2);
	assert_string_equal(last, "ok");
	assert_true(valid(&v));
	assert_true(scratch_exists(&s, v.info.path.base));
}

static void lies_about_the_path_do_not(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct staged v[2];

	(void)state;
	v[0] = text(&a, "good", "hello", (struct strv){});
	v[1] = text(&a, "bad", "hello", (struct strv){});
	v[1].info.path.base[0] = v[1].info.path.base[0] == '0' ? '1' : '0';
	add(v, 2, client);
	assert_non_null(strstr(last, "claims to be content-addressed but isn't"));
	assert_false(valid(&v[0]) || valid(&v[1])); /* all or nothing */
	assert_false(scratch_exists(&s, v[0].info.path.base));
	assert_false(scratch_exists(&s, v[1].info.path.base));
	/* The NAR hash is part of this address. */
	v[1] = text(&a, "nar", "hello", (struct strv){});
	v[1].info.ca =
		(char *)"fixed:r:sha256:0000000000000000000000000000000000000000000000000000";
	add(&v[1], 1, client);
	assert_non_null(strstr(last, "claims to be content-addressed but isn't"));
}

static void unsigned_ones_do_not(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct staged v = text(&a, "one", "hello", (struct strv){});

	(void)state;
	v.info.ca = (char *)"";
	add(&v, 1, client);
	assert_non_null(strstr(last, "because it lacks a signature by a trusted key"));
	assert_false(valid(&v));
	add(&v, 1, PLACE_FOREIGN); /* a trusted client that asked for it */
	assert_string_equal(last, "ok");
	assert_true(valid(&v));
}

static void a_missing_reference_undoes_the_move(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	char *ref[] = { "00000000000000000000000000000000-missing" };
	struct staged good = text(&a, "good", "x", (struct strv){});
	struct staged bad = text(&a, "bad", "y", (struct strv){ ref, 1 });

	(void)state;
	place_objects_from(s.core.place, &bad, 1, client, done, NULL);
	place_objects_from(s.core.place, &good, 1, client, done, NULL);
	scratch_spin(&s);
	assert_int_equal(n_done, 2);
	assert_string_equal(last, "ok"); /* the other batch of the round is not hurt */
	assert_true(valid(&good));
	assert_false(valid(&bad));
	assert_false(scratch_exists(&s, bad.info.path.base));
}

static void hostile_tops_do_not(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct staged v = text(&a, "one", "hello", (struct strv){});

	(void)state;
	assert_int_equal(fchmodat(fd, "one", 04555, 0), 0);
	add(&v, 1, client);
	assert_non_null(strstr(last, "is not a store object"));
	assert_int_equal(fchmodat(fd, "one", 0666, 0), 0);
	add(&v, 1, client);
	assert_non_null(strstr(last, "is not a store object"));
	assert_false(scratch_exists(&s, v.info.path.base));
}

static void a_leftover_makes_way(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct staged v = text(&a, "one", "hello", (struct strv){});
	_cleanup_free_ char *content = NULL;

	(void)state;
	assert_int_equal(mkdirat(s.core.store_fd, v.info.path.base, 0755), 0);
	add(&v, 1, client);
	assert_string_equal(last, "ok");
	assert_int_equal(read_file_at(s.core.store_fd, v.info.path.base, 100, &content, NULL), 0);
	assert_string_equal(content, "hello");
}

#define FOD(extra)                                                                                 \
	"Derive([(\"out\",\"%s" extra                                                              \
	"\",\"sha256\",\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649"                              \
	"b934ca495991b7852b855\")],[],[],\"x\",\"/b\",[],[(\"out\",\"%s\")])"

static void derivations_are_checked(void **state)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct staged v = text(&a, "bad.drv", "Derive(", (struct strv){});
	_cleanup_arena_ struct arena b = ARENA_INIT(1 << 20);
	struct store_path out;
	struct ca ca = { .method = CA_FLAT };
	char *full, *content;
	struct strv names = {}, paths = {};

	(void)state;
	add(&v, 1, client);
	assert_string_not_equal(last, "ok");
	assert_false(scratch_exists(&s, v.info.path.base));

	hash_buffer(HASH_SHA256, "", 0, &ca.hash);
	assert_int_equal(store_path_for_ca(s.core.store_dir, "good", &ca, &(struct strv){}, false,
					   &out, NULL),
			 0);
	full = store_path_full(&a, s.core.store_dir, &out);
	content = arena_printf(&a, FOD("x"), full, full);
	v = text(&a, "good.drv", content, (struct strv){});
	add(&v, 1, client);
	assert_string_not_equal(last, "ok"); /* an output path that does not follow */
	assert_false(valid(&v));
	assert_int_equal(unlinkat(fd, "good.drv", 0), 0);

	content = arena_printf(&a, FOD(""), full, full);
	v = text(&a, "good.drv", content, (struct strv){});
	add(&v, 1, client);
	assert_string_equal(last, "ok");
	assert_int_equal(db_drv_outputs(s.core.db, &v.info.path, &b, &names, &paths), 0);
	assert_int_equal(names.n, 1);
	assert_string_equal(names.v[0], "out");
	assert_string_equal(paths.v[0], out.base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(text_gets_in, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_before_the_commit, setup, teardown),
		cmocka_unit_test_setup_teardown(two_of_a_round_want_the_same, setup, teardown),
		cmocka_unit_test_setup_teardown(lies_about_the_path_do_not, setup, teardown),
		cmocka_unit_test_setup_teardown(unsigned_ones_do_not, setup, teardown),
		cmocka_unit_test_setup_teardown(a_missing_reference_undoes_the_move, setup,
						teardown),
		cmocka_unit_test_setup_teardown(hostile_tops_do_not, setup, teardown),
		cmocka_unit_test_setup_teardown(a_leftover_makes_way, setup, teardown),
		cmocka_unit_test_setup_teardown(derivations_are_checked, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
