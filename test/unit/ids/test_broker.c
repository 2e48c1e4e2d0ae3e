/* The broker's own parts that need no privilege: is a block free, and which slot is next. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/fd.h"
#include "ids/broker.h"

static const struct identity own = { 4000000001, 4000000001 }, other = { 4000000002, 4000000002 };

static int check_block(uint32_t start, uint32_t count, const char *want)
{
	_cleanup_err_ struct err e = { 0 };
	struct block b = { start, count };
	int r = block_check(&b, &own, &other, &e);

	if (want)
		assert_non_null(strstr(err_msg(&e), want));
	return r;
}

static void test_block(void **state)
{
	(void)state;
	assert_int_equal(check_block(3000000000U, 65536, NULL), 0);
	assert_int_equal(check_block(0, 65536, "no usable block"), -ERANGE);
	assert_int_equal(check_block(65535, 65536, "no usable block"), -ERANGE);
	assert_int_equal(check_block(3000000000U, 65535, "no usable block"), -ERANGE);
	assert_int_equal(check_block(3000000000U, 0, "no usable block"), -ERANGE);
	assert_int_equal(check_block(UINT32_MAX - 65536, 65536, "no usable block"), -ERANGE);
	assert_int_equal(check_block(65536, UINT32_MAX, "no usable block"), -ERANGE);
	/* Exactly at its edges: the broker's own id, the daemon's. */
	assert_int_equal(check_block(own.uid - 65535, 65536, "airplant-ids"), -EEXIST);
	assert_int_equal(check_block(own.uid - 65536, 65536, NULL), 0);
	assert_int_equal(check_block(other.uid, 65536, "--daemon-user"), -EEXIST);
	assert_int_equal(check_block(other.uid + 1, 65536, NULL), 0);
}

struct fixture {
	char dir[64];
	struct slots slots;
};

static int setup(void **state)
{
	static struct fixture f;

	f = (struct fixture){ .dir = "/tmp/airplant-slots-XXXXXX", .slots = { .dir = -1 } };
	*state = &f;
	return mkdtemp(f.dir) ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close_fdp(&f->slots.dir);
	return rm_tree_at(AT_FDCWD, f->dir);
}

static uint32_t take(struct fixture *f, int *ret_fd)
{
	uint32_t slot = UINT32_MAX;

	assert_int_equal(slots_take(&f->slots, &slot, ret_fd), 0);
	usleep(20000); /* a tick of the clock that file times are taken from */
	return slot;
}

static void open_slots(struct fixture *f, uint32_t n)
{
	_cleanup_err_ struct err e = { 0 };

	close_fdp(&f->slots.dir);
	assert_int_equal(slots_open(&f->slots, f->dir, n, &e), 0);
}

static void test_oldest_first(void **state)
{
	struct fixture *f = *state;
	int fd[3] = { -1, -1, -1 }, more = -1;
	uint32_t slot;

	open_slots(f, 3);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(take(f, &fd[i]), i);
	assert_int_equal(slots_take(&f->slots, &slot, &more), -EBUSY);
	/* A copy of the fd holds the lease as well as the original. */
	more = dup(fd[1]);
	close_fdp(&fd[1]);
	close_fdp(&fd[2]);
	assert_int_equal(take(f, &fd[2]), 2);
	close_fdp(&more);
	assert_int_equal(take(f, &fd[1]), 1);
	close_fdp(&fd[0]);
	close_fdp(&fd[1]);
	close_fdp(&fd[2]);
	/* Leased in the order 0, 2, 1: a new broker goes on in that order. */
	open_slots(f, 3);
	assert_int_equal(take(f, &fd[0]), 0);
	assert_int_equal(take(f, &fd[1]), 2);
	assert_int_equal(take(f, &fd[2]), 1);
	for (int i = 0; i < 3; i++)
		close_fdp(&fd[i]);
}

static void refused(struct fixture *f, const char *want)
{
	_cleanup_err_ struct err e = { 0 };
	struct slots s = { .dir = -1 };

	assert_int_equal(slots_open(&s, f->dir, 3, &e), -EPERM);
	assert_non_null(strstr(err_msg(&e), want));
	close_fdp(&s.dir);
}

static void test_foreign_directory(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(chmod(f->dir, 0777), 0);
	refused(f, "directory for locks");
	assert_int_equal(chmod(f->dir, 0700), 0);
	refused(f, "directory for locks");
	assert_int_equal(chmod(f->dir, 0755), 0);
	open_slots(f, 3);
}

static void test_foreign_slot(void **state)
{
	struct fixture *f = *state;
	char a[96], b[96];

	assert_int_equal(chmod(f->dir, 0755), 0);
	open_slots(f, 3);
	snprintf(a, sizeof(a), "%s/slot-1", f->dir);
	snprintf(b, sizeof(b), "%s/slot-2", f->dir);
	/* Two names for one lock would be two leases of which only one counts. */
	assert_int_equal(unlink(a), 0);
	assert_int_equal(link(b, a), 0);
	refused(f, "slot-1");
	assert_int_equal(unlink(a), 0);
	assert_int_equal(chmod(b, 0666), 0);
	refused(f, "slot-2");
	assert_int_equal(unlink(b), 0);
	assert_int_equal(mkfifo(b, 0660), 0);
	refused(f, "slot-2");
}

static int setup_open(void **state)
{
	int r = setup(state);

	return r < 0 ? r : chmod(((struct fixture *)*state)->dir, 0750);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_block),
		cmocka_unit_test_setup_teardown(test_oldest_first, setup_open, teardown),
		cmocka_unit_test_setup_teardown(test_foreign_directory, setup_open, teardown),
		cmocka_unit_test_setup_teardown(test_foreign_slot, setup_open, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
