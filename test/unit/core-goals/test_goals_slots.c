/* Who gets a free slot, and what a build costs in a wide graph. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "world.h"

static size_t running_of(const int *nodes, size_t n)
{
	size_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += build_of(nodes[i]) != NULL;
	return sum;
}

static void leaves(int *ret, size_t n)
{
	for (size_t i = 0; i < n; i++)
		ret[i] = node_add(NULL, 0);
}

static void the_machine_has_a_limit(void **state)
{
	struct client c;
	int n[10];

	(void)state;
	world_reset(3);
	leaves(n, 10);
	ask(&c, n, 10, 1000, 3, false);
	world_run();
	assert_int_equal(running(), 3);
	assert_int_equal(finish_all(), 3);
	assert_true(c.ok);
	assert_int_equal(core.goals->running, 0);
	client_done(&c);
}

static void a_client_may_lower_its_own(void **state)
{
	struct client a, b;
	int n[6], m[6];

	(void)state;
	world_reset(8);
	leaves(n, 6);
	leaves(m, 6);
	ask(&a, n, 6, 1000, 1, false);
	ask(&b, m, 6, 1001, 8, false);
	world_run();
	assert_int_equal(running_of(n, 6), 1);
	assert_int_equal(running_of(m, 6), 6);
	finish_all();
	assert_true(a.ok && b.ok);
	client_done(&a);
	client_done(&b);
}

/* A goal that stood behind one client's limit runs when another wants it too. */
static void a_shared_goal_uses_the_others_room(void **state)
{
	struct client a, b;
	int n[2];

	(void)state;
	world_reset(8);
	leaves(n, 2);
	ask(&a, n, 2, 1000, 1, false);
	world_run();
	assert_int_equal(running(), 1);
	ask(&b, n, 2, 1001, 8, false);
	world_run();
	assert_int_equal(running(), 2);
	finish_all();
	assert_true(a.ok && b.ok);
	client_done(&a);
	client_done(&b);
}

static void a_client_may_raise_it_within_bounds(void **state)
{
	struct client c, modest;
	int n[300], m[5];

	(void)state;
	world_reset(1);
	leaves(n, 300);
	leaves(m, 5);
	ask(&c, n, 300, 1000, 10000, false);
	world_run();
	assert_true(running() >= 16);
	assert_true(running() < 300);
	/* Somebody who asked for nothing special is not locked out. */
	ask(&modest, m, 5, 1001, 1, false);
	world_run();
	assert_int_equal(running_of(m, 5), 0);
	finish(builds[0].node, BUILT, "");
	assert_int_equal(running_of(m, 5), 1);
	finish_all();
	assert_true(c.ok && modest.ok);
	client_done(&c);
	client_done(&modest);
}

static void no_jobs_means_no_builds(void **state)
{
	struct client c;
	int x;

	(void)state;
	world_reset(0);
	x = node_add(NULL, 0);
	ask_mode(&c, &x, 1, BUILD_NORMAL); /* with the daemon's settings */
	world_run();
	assert_int_equal(n_builds, 0);
	assert_non_null(strstr(c.error, "local builds are disabled (max-jobs = 0)"));
	client_done(&c);
}

/* One user has asked for much and first; another comes and gets every other slot. */
static void users_share(void **state)
{
	struct client big, big2, small;
	int n[40], n2[40], m[40];

	(void)state;
	world_reset(4);
	leaves(n, 40);
	leaves(n2, 40);
	leaves(m, 40);
	ask(&big, n, 40, 1000, 4, false);
	ask(&big2, n2, 40, 1000, 4, false);
	world_run();
	assert_int_equal(running(), 4);
	/* Two requests of one user share his part. */
	assert_int_equal(running_of(n, 40), 2);
	ask(&small, m, 40, 1001, 4, false);
	world_run();
	for (int i = 0; i < 4; i++)
		finish(builds[i].node, BUILT, "");
	assert_int_equal(running(), 4);
	assert_int_equal(running_of(m, 40), 2);
	for (int i = 0; i < 30; i++) {
		size_t live = n_builds;

		for (size_t j = 0; j < live; j++) {
			if (builds[j].live) {
				finish(builds[j].node, BUILT, "");
				break;
			}
		}
		assert_true(running_of(m, 40) >= 1);
		assert_true(running_of(m, 40) <= 3);
	}
	finish_all();
	assert_true(big.ok && big2.ok && small.ok);
	client_done(&big);
	client_done(&big2);
	client_done(&small);
}

static void a_payers_leaving_keeps_the_books(void **state)
{
	struct client a, b;
	int n[4];

	(void)state;
	world_reset(2);
	leaves(n, 4);
	ask(&a, n, 4, 1000, 2, false);
	world_run();
	ask(&b, n, 4, 1001, 2, false);
	world_run();
	request_cancel(a.request);
	world_run();
	assert_int_equal(running(), 2);
	assert_int_equal(core.goals->running, 2);
	assert_int_equal(core.goals->owners->uid, 1001);
	assert_int_equal(core.goals->owners->running, 2);
	assert_int_equal(b.request->running, 2);
	finish_all();
	assert_true(b.ok);
	assert_int_equal(core.goals->running, 0);
	client_done(&a);
	client_done(&b);
}

static double wide(int width)
{
	struct timespec t0, t1;
	struct client c;
	int *n = calloc((size_t)width, sizeof(*n)), top, root;

	world_reset(4);
	root = node_add(NULL, 0);
	for (int i = 0; i < width; i++)
		n[i] = node_add(&root, 1);
	top = node_add(n, (size_t)width);
	ask(&c, &top, 1, 1000, 4, false);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t0);
	world_run();
	assert_true(finish_all() <= 4);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t1);
	assert_true(c.ok);
	assert_int_equal(n_builds, width + 2);
	client_done(&c);
	free(n);
	return ((double)(t1.tv_sec - t0.tv_sec) * 1e9 + (double)(t1.tv_nsec - t0.tv_nsec)) /
	       (width + 2) / 1000;
}

static void a_wide_graph_costs_no_more_per_build(void **state)
{
	double narrow = 1e9, broad;

	(void)state;
	for (int i = 0; i < 5; i++) {
		double t = wide(20);

		narrow = t < narrow ? t : narrow;
	}
	broad = wide(2000);
	print_message("microseconds per build: %.1f at 20 wide, %.1f at 2000 wide\n", narrow,
		      broad);
	/* A walk over the graph at each end would cost a hundred times as much. */
	assert_true(broad < 10 * narrow + 20);
}

/* It has its slot again before it hears its answer, and before others start. */
static void who_waits_within_lends_its_slot(void **state)
{
	struct client c, inner;
	int n[4], asked;

	(void)state;
	world_reset(1);
	leaves(n, 4);
	asked = node_add(NULL, 0);
	ask(&c, n, 4, 1000, 1, false);
	world_run();
	for (int i = 0; i < 4; i++) {
		assert_int_equal(running(), 1);
		int outer = -1;

		for (int k = 0; k < 4; k++)
			outer = build_of(n[k]) ? n[k] : outer;
		if (i == 0) {
			assert_true(ask_within(&inner, outer, &asked, 1));
			assert_int_equal(core.goals->running, 0);
			world_run();
			/* Of those that want the slot some other build may be the first. */
			while (!build_of(asked)) {
				for (int k = 0; k < 4; k++)
					if (n[k] != outer && build_of(n[k])) {
						finish(n[k], BUILT, "");
						i++;
					}
				world_run();
				assert_int_equal(core.goals->running, 1);
			}
			assert_false(inner.answered);
			finish(asked, BUILT, "");
			world_run();
			assert_true(inner.answered && inner.ok);
			assert_int_equal(core.goals->running, 1);
			assert_int_equal(running(), 1);
			assert_int_equal(core.goals->n_lent, 0);
		}
		finish(outer, BUILT, "");
		world_run();
	}
	assert_true(c.answered && c.ok);
	assert_int_equal(core.goals->running, 0);
	client_done(&c);
	client_done(&inner);
}

/* Two builds of which each asks for the other, directly or by what that needs. */
static void a_circle_is_refused(void **state)
{
	struct client c, a, b;
	int n[2], on_first;

	(void)state;
	world_reset(4);
	leaves(n, 2);
	on_first = node_add(&n[0], 1);
	ask(&c, n, 2, 1000, 4, true);
	world_run();
	assert_int_equal(running(), 2);
	assert_true(ask_within(&a, n[0], &n[1], 1));
	world_run();
	assert_false(a.answered);
	assert_true(ask_within(&b, n[1], &on_first, 1));
	world_run();
	assert_true(b.answered && !b.ok);
	assert_false(a.answered || c.answered);
	finish(n[1], BUILT, "");
	world_run();
	assert_true(a.answered && a.ok);
	finish(n[0], BUILT, "");
	world_run();
	assert_true(c.answered && c.ok);
	assert_int_equal(core.goals->running, 0);
	client_done(&a);
	client_done(&b);
	client_done(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_machine_has_a_limit),
		cmocka_unit_test(a_client_may_lower_its_own),
		cmocka_unit_test(a_shared_goal_uses_the_others_room),
		cmocka_unit_test(a_client_may_raise_it_within_bounds),
		cmocka_unit_test(no_jobs_means_no_builds),
		cmocka_unit_test(users_share),
		cmocka_unit_test(a_payers_leaving_keeps_the_books),
		cmocka_unit_test(who_waits_within_lends_its_slot),
		cmocka_unit_test(a_circle_is_refused),
		cmocka_unit_test(a_wide_graph_costs_no_more_per_build),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
