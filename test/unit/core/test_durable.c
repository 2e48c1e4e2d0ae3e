/* After an unclean stop: what was damaged is not valid any more, what is good stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "core/durable.h"
#include "nar/tree.h"
#include "scratch.h"

static struct scratch s;
static char boot[128];

static void set_boot(const char *id)
{
	int fd = open(boot, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_int_equal(write_full(fd, id, strlen(id)), 0);
	close(fd);
	durable_set_boot_id_file(boot);
}

static int setup(void **state)
{
	char path[128];

	(void)state;
	scratch_open(&s);
	snprintf(path, sizeof(path), "%s/airplant", s.core.state_dir);
	assert_int_equal(mkdir_p(path, 0755), 0);
	snprintf(boot, sizeof(boot), "%s/boot", s.top);
	set_boot("boot-one\n");
	return 0;
}
static int teardown(void **state)
{
	(void)state;
	scratch_close(&s);
	return 0;
}

static struct store_path put(const char *base, const char *ref)
{
	struct registration reg = { .info = { .deriver = (char *)"", .ca = (char *)"" } };
	struct tree_facts facts;
	char *refs[] = { (char *)ref };

	scratch_write(s.core.store_fd, base, base);
	assert_int_equal(tree_measure(s.core.store_fd, base, NULL, &facts, NULL), 0);
	memcpy(reg.info.nar_hash, facts.nar_hash, 32);
	reg.info.nar_size = facts.nar_size;
	strcpy(reg.info.path.base, base);
	reg.info.refs = (struct strv){ refs, ref != NULL };
	assert_int_equal(db_begin(s.core.db), 0);
	assert_int_equal(db_register_many(s.core.db, &reg, 1, NULL), 0);
	assert_int_equal(db_commit(s.core.db), 0);
	return reg.info.path;
}

#define OLD  "00000000000000000000000000000000-old"
#define BAD  "10000000000000000000000000000000-bad"
#define USER "20000000000000000000000000000000-user"
#define GOOD "30000000000000000000000000000000-good"
#define GONE "40000000000000000000000000000000-gone"

static struct store_path old, bad, user, good, gone;

/* A life that ends without a word: `old` was flushed, the others were not. */
static void live_and_die(bool clean)
{
	struct durable *d;

	old = put(OLD, NULL);
	assert_int_equal(durable_open(&s.core, &d, NULL), 0);
	bad = put(BAD, NULL);
	user = put(USER, BAD);
	good = put(GOOD, OLD);
	gone = put(GONE, NULL);
	if (clean)
		durable_close(d);
	else
		durable_abandon(d);
	/* The power fails: these lose their contents. */
	assert_int_equal(unlinkat(s.core.store_fd, OLD, 0), 0);
	scratch_write(s.core.store_fd, OLD, "damaged later, by somebody else");
	assert_int_equal(unlinkat(s.core.store_fd, BAD, 0), 0);
	scratch_write(s.core.store_fd, BAD, "");
	assert_int_equal(unlinkat(s.core.store_fd, GONE, 0), 0);
}

static bool valid(const struct store_path *p)
{
	return db_path_valid(s.core.db, p) == 0;
}

static void come_back(void)
{
	struct durable *d;

	assert_int_equal(durable_open(&s.core, &d, NULL), 0);
	durable_abandon(d);
}

static void damage_is_found(void **state)
{
	(void)state;
	live_and_die(false);
	set_boot("boot-two\n");
	come_back();
	assert_false(valid(&bad) || valid(&user) || valid(&gone));
	assert_false(scratch_exists(&s, BAD) || scratch_exists(&s, USER));
	assert_true(valid(&good));
	assert_true(valid(&old)); /* below the watermark: not looked at */
}

static void a_crash_of_the_daemon_is_no_power_loss(void **state)
{
	(void)state;
	live_and_die(false);
	come_back();
	assert_true(valid(&bad));
}

static void after_a_clean_stop_nothing_is_checked(void **state)
{
	(void)state;
	live_and_die(true);
	set_boot("boot-two\n");
	come_back();
	assert_true(valid(&bad));
}

static void an_unreadable_watermark_checks_everything(void **state)
{
	char path[160];
	int fd;

	(void)state;
	live_and_die(false);
	snprintf(path, sizeof(path), "%s/airplant/watermark", s.core.state_dir);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	assert_int_equal(write_full(fd, "\0\0\0", 3), 0);
	close(fd);
	come_back();
	assert_false(valid(&bad) || valid(&old));
	/* good refers to old */
	assert_false(valid(&good));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(damage_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(a_crash_of_the_daemon_is_no_power_loss, setup,
						teardown),
		cmocka_unit_test_setup_teardown(after_a_clean_stop_nothing_is_checked, setup,
						teardown),
		cmocka_unit_test_setup_teardown(an_unreadable_watermark_checks_everything, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
