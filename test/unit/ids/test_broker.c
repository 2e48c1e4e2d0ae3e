/* The broker's own parts that need no privilege: is a block free, and which slot is next. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/fd.h"
#include "ids/broker.h"

static const struct identity own = { 61000 * 65536U - 1, 61000 * 65536U - 1 },
			     other = { 61100 * 65536U, 61100 * 65536U };

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
	assert_int_equal(check_block(45776 * 65536U, 65536, NULL), 0);
	assert_int_equal(check_block(3000000000U, 65536, "no usable block"), -ERANGE);
	assert_int_equal(check_block(0, 65536, "no usable block"), -ERANGE);
	assert_int_equal(check_block(65535, 65536, "no usable block"), -ERANGE);
	assert_int_equal(check_block(45776 * 65536U, 65535, "no usable block"), -ERANGE);
	assert_int_equal(check_block(45776 * 65536U, 0, "no usable block"), -ERANGE);
	assert_int_equal(check_block(UINT32_MAX - 65536, 65536, "no usable block"), -ERANGE);
	assert_int_equal(check_block(65536, UINT32_MAX, "no usable block"), -ERANGE);
	assert_int_equal(check_block(65536, 4097 * 65536U, "no usable block"), -ERANGE);
	/* Exactly at its edges: the broker's own id, the daemon's. */
	assert_int_equal(check_block(own.uid - 65535, 65536, "airplant-ids"), -EEXIST);
	assert_int_equal(check_block(own.uid + 1, 65536, NULL), 0);
	assert_int_equal(check_block(other.uid, 65536, "--daemon-user"), -EEXIST);
	assert_int_equal(check_block(other.uid - 65536, 65536, NULL), 0);
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

/* Big enough that no process of this machine has them. */
enum { BASE = 1 << 29, IDS = 8 };

static int open_slots(struct fixture *f, uint32_t n, struct err *e)
{
	int dir = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	close_fdp(&f->slots.dir);
	return slots_open(&f->slots, dir, BASE, IDS, n, e);
}

static void open_well(struct fixture *f, uint32_t n)
{
	_cleanup_err_ struct err e = { 0 };

	assert_int_equal(open_slots(f, n, &e), 0);
}

static int take(struct fixture *f, uint32_t width, struct slot *ret)
{
	int r = slots_take(&f->slots, width, IDS, ret);

	usleep(20000); /* a tick of the clock that file times are taken from */
	return r == 0 ? (int)ret->number : r;
}

static void give_back(struct fixture *f, struct slot *slot)
{
	assert_int_equal(slots_return(&f->slots, slot->fd), 0);
	usleep(20000);
	close_fdp(&slot->fd);
}

static void test_oldest_first(void **state)
{
	struct fixture *f = *state;
	struct slot s[3], none;
	int more;

	open_well(f, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(take(f, 1, &s[i]), i);
	assert_int_equal(take(f, 1, &none), -EBUSY);
	/* A copy of the fd holds the lease as well as the original. */
	more = dup(s[1].fd);
	give_back(f, &s[1]);
	assert_int_equal(take(f, 1, &none), -EBUSY);
	give_back(f, &s[2]);
	assert_int_equal(take(f, 1, &s[2]), 2);
	close_fdp(&more);
	assert_int_equal(take(f, 1, &s[1]), 1);
	/* Returned in the order 2, 0, 1: a new broker goes on in that order. */
	give_back(f, &s[2]);
	give_back(f, &s[0]);
	give_back(f, &s[1]);
	open_well(f, 3);
	assert_int_equal(take(f, 1, &s[0]), 2);
	assert_int_equal(take(f, 1, &s[1]), 0);
	assert_int_equal(take(f, 1, &s[2]), 1);
	for (int i = 0; i < 3; i++)
		close_fdp(&s[i].fd);
}

static void test_quarantine(void **state)
{
	struct fixture *f = *state;
	struct slot s, stale, none;
	int old;

	open_well(f, 1);
	assert_int_equal(slots_stale(&f->slots, &none), -ENOENT);
	assert_int_equal(take(f, 1, &s), 0);
	assert_int_equal(slots_stale(&f->slots, &none), -ENOENT); /* leased, not left */
	old = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(slots_return(&f->slots, old), -EPERM);
	close(old);
	close_fdp(&s.fd);
	/* Nobody returned it, and a new broker knows that too. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(take(f, 1, &none), -EBUSY);
		open_well(f, 1);
	}
	assert_int_equal(slots_stale(&f->slots, &stale), 0);
	assert_int_equal(stale.number, 0);
	assert_int_equal(slots_stale(&f->slots, &none), -ENOENT);
	/* An fd that holds no lock does not speak for the lease. */
	old = openat(f->slots.dir, "ids-536870912", O_RDONLY | O_CLOEXEC);
	assert_true(old >= 0);
	assert_int_equal(slots_return(&f->slots, old), -EPERM);
	close(old);
	give_back(f, &stale);
	assert_int_equal(take(f, 1, &s), 0);
	give_back(f, &s);
	/* A block that was moved by one slot: other ids, other marks. */
	assert_int_equal(take(f, 1, &s), 0);
	close_fdp(&s.fd);
	close_fdp(&f->slots.dir);
	assert_int_equal(
		slots_open(&f->slots, open(f->dir, O_RDONLY | O_CLOEXEC), BASE - IDS, IDS, 2, NULL),
		0);
	assert_int_equal(take(f, 1, &s), 0);
	assert_int_equal(take(f, 1, &none), -EBUSY);
	close_fdp(&s.fd);
}

static void test_wide(void **state)
{
	struct fixture *f = *state;
	struct slot one, wide, stale, none;

	open_well(f, 11); /* room for two wide ones */
	assert_int_equal(take(f, 1, &one), 0);
	assert_int_equal(take(f, SLOTS_WIDE, &wide), 4);
	assert_int_equal(take(f, SLOTS_WIDE, &none), -EBUSY);
	for (int want = 1; want < 11; want == 3 ? want = 8 : want++) {
		assert_int_equal(take(f, 1, &none), want);
		give_back(f, &none);
	}
	/* Left behind: all four are quarantined, and are one thing to clean. */
	close_fdp(&wide.fd);
	open_well(f, 11);
	for (int i = 0; i < 8; i++) {
		int r = take(f, 1, &none);

		assert_true(r >= 0 && (r < 4 || r > 7));
		give_back(f, &none);
	}
	assert_int_equal(slots_stale(&f->slots, &stale), 0);
	assert_int_equal(stale.number, 4);
	assert_int_equal(stale.width, SLOTS_WIDE);
	give_back(f, &stale);
	assert_int_equal(take(f, SLOTS_WIDE, &wide), 4);
	give_back(f, &wide);
	/* One of the four is not free: neither are the four. */
	give_back(f, &one);
	for (int i = 0; i < 11; i++) {
		assert_true(take(f, 1, &none) >= 0);
		if (none.number == 2 || none.number == 7)
			continue; /* its fd is dropped with the process */
		give_back(f, &none);
	}
	assert_int_equal(take(f, SLOTS_WIDE, &none), -EBUSY);
}

/* Returned, but something runs there: the slot is passed over until it does not. */
static void test_busy_ids(void **state)
{
	struct fixture *f = *state;
	struct slot s, none;
	pid_t pid;

	if (getuid() != 0) {
		print_message("skipped: needs root, to run as another id\n");
		skip();
	}
	open_well(f, 1);
	pid = fork();
	if (pid == 0) {
		if (setresuid(BASE + IDS - 1, BASE + IDS - 1, BASE + IDS - 1) == 0)
			pause();
		_exit(1);
	}
	usleep(100000);
	assert_int_equal(take(f, 1, &none), -EBUSY);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(take(f, 1, &s), 0);
	give_back(f, &s);
}

static void refused(struct fixture *f, const char *want)
{
	_cleanup_err_ struct err e = { 0 };

	assert_int_equal(open_slots(f, 3, &e), -EPERM);
	assert_non_null(strstr(err_msg(&e), want));
}

static void test_foreign_slot(void **state)
{
	struct fixture *f = *state;
	char a[96], b[96];

	open_well(f, 3);
	snprintf(a, sizeof(a), "%s/ids-%u", f->dir, BASE + IDS);
	snprintf(b, sizeof(b), "%s/ids-%u", f->dir, BASE + 2 * IDS);
	/* Two names for one lock would be two leases of which only one counts. */
	assert_int_equal(unlink(a), 0);
	assert_int_equal(link(b, a), 0);
	refused(f, "ids-536870920");
	assert_int_equal(unlink(a), 0);
	assert_int_equal(chmod(b, 0666), 0);
	refused(f, "ids-536870928");
	assert_int_equal(unlink(b), 0);
	assert_int_equal(mkfifo(b, 0660), 0);
	refused(f, "ids-536870928");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_block),
		cmocka_unit_test_setup_teardown(test_oldest_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_quarantine, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wide, setup, teardown),
		cmocka_unit_test_setup_teardown(test_busy_ids, setup, teardown),
		cmocka_unit_test_setup_teardown(test_foreign_slot, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
