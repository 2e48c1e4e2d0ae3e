/* The goal graph over a machine that exists in memory (world.c): order, failures, sharing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

#include "world.h"

#define NEEDS(...) (int[]){ __VA_ARGS__ }, sizeof((int[]){ __VA_ARGS__ }) / sizeof(int)
#define ONE(node)  (int[]){ node }, 1

static void diamond_is_built_once_each(void **state)
{
	struct client c;
	int a, b, d, top;

	(void)state;
	world_reset(8);
	a = node_add(NULL, 0);
	b = node_add(NEEDS(a));
	d = node_add(NEEDS(a));
	top = node_add(NEEDS(b, d));
	ask(&c, ONE(top), 1000, 0, false);
	assert_int_equal(running(), 0); /* no event before request_new returned */
	world_run();
	assert_int_equal(running(), 1);
	finish(a, BUILT, "");
	assert_int_equal(running(), 2);
	finish(d, BUILT, "");
	assert_null(build_of(top));
	finish(b, BUILT, "");
	assert_false(c.answered);
	finish(top, BUILT, "");
	assert_true(c.answered && c.ok);
	assert_int_equal(c.n_results, 1);
	assert_int_equal(c.status[0], BUILT);
	assert_int_equal(times_started(a), 1);
	assert_int_equal(c.progress.done, 4);
	assert_int_equal(c.progress.expected, 4);
	assert_int_equal(c.progress.running, 0);
	assert_int_equal(core.goals->by_key.n, 0);
	client_done(&c);
}

/* Whoever is in a hurry ends his own wait, not that of another. */
static void limits_are_the_requests_own(void **state)
{
	struct client strict, lax;
	int a, top;

	(void)state;
	for (int keep_going = 0; keep_going < 2; keep_going++) {
		for (int deep = 0; deep < 2; deep++) {
			world_reset(8);
			a = node_add(NULL, 0);
			top = deep ? node_add(NEEDS(a)) : a;
			core.settings.timeout = 2;
			ask(&strict, ONE(top), 1000, 0, keep_going);
			world_run();
			core.settings.timeout = 0;
			ask(&lax, ONE(top), 1001, 0, false);
			world_run();
			finish(a, TIMED_OUT, "timed out");
			assert_true(strict.answered && !strict.ok);
			assert_int_equal(strict.status[0], deep ? DEPENDENCY_FAILED : TIMED_OUT);
			assert_false(lax.answered);
			assert_non_null(build_of(a));
			assert_int_equal(lax.progress.running, 1);
			finish(a, BUILT, "");
			if (deep)
				finish(top, BUILT, "");
			assert_true(lax.answered && lax.ok);
			assert_int_equal(times_started(a), 2);
			assert_int_equal(core.goals->by_key.n, 0);
			client_done(&strict);
			client_done(&lax);
		}
	}
	/* Its own limit, or no limit that differs: nothing is built again. */
	core.settings.timeout = 2;
	a = node_add(NULL, 0);
	ask(&strict, ONE(a), 1000, 0, false);
	world_run();
	ask(&lax, ONE(a), 1001, 0, false);
	world_run();
	finish(a, TIMED_OUT, "timed out");
	core.settings.timeout = 0;
	assert_true(strict.answered && lax.answered && !lax.ok);
	assert_int_equal(times_started(a), 1);
	client_done(&strict);
	client_done(&lax);
}

static void valid_outputs_need_nothing(void **state)
{
	struct client c;
	int a, b;

	(void)state;
	world_reset(1);
	a = node_add(NULL, 0);
	b = node_add(NEEDS(a));
	node_set_valid(b);
	ask(&c, ONE(b), 1000, 0, false);
	world_run();
	assert_true(c.answered && c.ok);
	assert_int_equal(c.status[0], ALREADY_VALID);
	assert_int_equal(n_builds, 0);
	client_done(&c);
	/* A valid input is not looked behind. */
	a = node_add(NEEDS(b));
	ask(&c, ONE(a), 1000, 0, false);
	world_run();
	assert_int_equal(running(), 1);
	finish(a, BUILT, "");
	assert_true(c.ok);
	client_done(&c);
}

static void first_failure_ends_the_request(void **state)
{
	struct client c;
	int bad, slow, mid, top;

	(void)state;
	world_reset(8);
	bad = node_add(NULL, 0);
	slow = node_add(NULL, 0);
	mid = node_add(NEEDS(bad));
	top = node_add(NEEDS(mid, slow));
	ask(&c, ONE(top), 1000, 0, false);
	world_run();
	assert_int_equal(running(), 2);
	finish(bad, PERMANENT_FAILURE, "Cannot build it.\nReason: builder failed.");
	assert_true(c.answered);
	assert_false(c.ok);
	assert_string_equal(c.error,
			    "Cannot build '/nix/store/00000000000000000000000000000003-n3.drv'.\n"
			    "Reason: 1 dependency failed.\nOutput paths:\n"
			    "  /nix/store/00000000000000000000000000000003-n3");
	assert_int_equal(c.status[0], DEPENDENCY_FAILED);
	/* The rest is dropped, its build ended. */
	assert_int_equal(running(), 0);
	assert_true(builds[0].cancelled || builds[1].cancelled);
	assert_int_equal(core.goals->by_key.n, 0);
	/* Each step on the way was told. */
	assert_non_null(
		strstr(c.notes, "[0]error: Cannot build it.\n       Reason: builder failed."));
	assert_non_null(strstr(c.notes, "n2.drv'.\n       Reason: 1 dependency failed."));
	client_done(&c);
}

static void keep_going_tries_the_rest(void **state)
{
	struct client c;
	int bad, bad2, good, top, other;

	(void)state;
	world_reset(8);
	bad = node_add(NULL, 0);
	bad2 = node_add(NULL, 0);
	good = node_add(NULL, 0);
	top = node_add(NEEDS(bad, bad2, good));
	other = node_add(NEEDS(good));
	ask(&c, NEEDS(top, other), 1000, 0, true);
	world_run();
	finish(bad, PERMANENT_FAILURE, "bad");
	assert_false(c.answered);
	finish(bad2, TIMED_OUT, "slow");
	assert_false(c.answered);
	finish(good, BUILT, "");
	assert_null(build_of(top));
	finish(other, BUILT, "");
	assert_true(c.answered);
	assert_false(c.ok);
	assert_int_equal(c.n_results, 2);
	assert_int_equal(c.status[0], DEPENDENCY_FAILED);
	assert_non_null(strstr(c.errors[0], "Reason: 2 dependencies failed."));
	assert_int_equal(c.status[1], BUILT);
	assert_string_equal(c.error, c.errors[0]);
	assert_int_equal(c.progress.failed, 2); /* a failed dependency is not counted again */
	client_done(&c);
}

static void several_failures_have_one_sentence(void **state)
{
	struct client c;
	int x, y;

	(void)state;
	world_reset(8);
	x = node_add(NULL, 0);
	y = node_add(NULL, 0);
	ask(&c, NEEDS(y, x), 1000, 0, true);
	world_run();
	finish(x, PERMANENT_FAILURE, "x broke");
	finish(y, PERMANENT_FAILURE, "y broke");
	assert_string_equal(c.error,
			    "build of '/nix/store/00000000000000000000000000000000-n0.drv', "
			    "'/nix/store/00000000000000000000000000000001-n1.drv' failed");
	assert_string_equal(c.errors[0], "y broke");
	assert_string_equal(c.errors[1], "x broke");
	assert_non_null(strstr(c.notes, "error: x broke"));
	client_done(&c);
	/* One target: its own words. */
	ask(&c, ONE(x), 1000, 0, false);
	world_run();
	finish(x, PERMANENT_FAILURE, "x broke");
	assert_string_equal(c.error, "x broke");
	assert_null(c.notes);
	client_done(&c);
}

static void two_requests_share_a_build(void **state)
{
	struct client a, b;
	int base, top, other;

	(void)state;
	world_reset(8);
	base = node_add(NULL, 0);
	top = node_add(NEEDS(base));
	other = node_add(NEEDS(base));
	ask(&a, ONE(top), 1000, 0, false);
	world_run();
	build_of(base)->ev->started(build_of(base)->ctx);
	build_of(base)->ev->log(build_of(base)->ctx, 5);
	ask(&b, ONE(other), 1001, 0, false);
	world_run();
	assert_int_equal(n_builds, 1);
	/* The late one learns of the build and of the log so far. */
	assert_int_equal(b.n_started, 1);
	assert_int_equal(b.last_size, 5);
	assert_int_equal(b.progress.running, 1);
	build_of(base)->ev->log(build_of(base)->ctx, 9);
	assert_int_equal(a.last_size, 9);
	assert_int_equal(b.last_size, 9);
	/* One leaves; the build stays for the other. */
	request_cancel(a.request);
	world_run();
	assert_int_equal(running(), 1);
	assert_int_equal(core.goals->running, 1);
	finish(base, BUILT, "");
	assert_int_equal(b.n_ended, 1);
	assert_int_equal(a.n_ended, 0);
	assert_null(build_of(top));
	finish(other, BUILT, "");
	assert_true(b.ok);
	assert_false(a.answered);
	assert_int_equal(core.goals->running, 0);
	client_done(&a);
	client_done(&b);
}

static void failure_meets_both_kinds_of_request(void **state)
{
	struct client strict, patient;
	int bad, good, top;

	(void)state;
	world_reset(8);
	bad = node_add(NULL, 0);
	good = node_add(NULL, 0);
	top = node_add(NEEDS(bad, good));
	ask(&strict, ONE(top), 1000, 0, false);
	ask(&patient, ONE(top), 1001, 0, true);
	world_run();
	finish(bad, PERMANENT_FAILURE, "bad");
	assert_true(strict.answered);
	assert_false(patient.answered);
	assert_non_null(build_of(good));
	finish(good, BUILT, "");
	assert_true(patient.answered);
	assert_string_equal(strict.error, patient.error);
	client_done(&strict);
	client_done(&patient);
}

static void cancel_ends_the_last_ones_build(void **state)
{
	struct client c;
	int base, top;

	(void)state;
	world_reset(8);
	base = node_add(NULL, 0);
	top = node_add(NEEDS(base));
	ask(&c, ONE(top), 1000, 0, false);
	world_run();
	assert_int_equal(running(), 1);
	request_cancel(c.request);
	world_run();
	assert_int_equal(running(), 0);
	assert_true(builds[0].cancelled);
	assert_int_equal(core.goals->by_key.n, 0);
	assert_null(core.goals->requests);
	assert_null(core.goals->owners);
	assert_int_equal(core.goals->running, 0);
	/* From inside an event, too. */
	ask(&c, ONE(top), 1000, 0, false);
	world_run();
	c.cancel_when_started = true;
	build_of(base)->ev->started(build_of(base)->ctx);
	world_run();
	assert_int_equal(running(), 0);
	assert_null(core.goals->requests);
	/* And before anything began. */
	ask(&c, ONE(top), 1000, 0, false);
	request_cancel(c.request);
	world_run();
	assert_int_equal(running(), 0);
	assert_null(core.goals->requests);
	client_done(&c);
}

static void failed_goals_are_tried_again(void **state)
{
	struct client c;
	int x;

	(void)state;
	world_reset(8);
	x = node_add(NULL, 0);
	ask(&c, ONE(x), 1000, 0, false);
	world_run();
	finish(x, PERMANENT_FAILURE, "no");
	client_done(&c);
	ask(&c, ONE(x), 1000, 0, false);
	world_run();
	finish(x, BUILT, "");
	assert_true(c.ok);
	client_done(&c);
}

static void wrong_platform_is_refused(void **state)
{
	struct client c;
	int x;

	(void)state;
	world_reset(8);
	free(core.settings.system);
	core.settings.system = strdup("x86_64-linux");
	x = node_add(NULL, 0);
	node_platform(x, "riscv64-linux");
	ask(&c, ONE(x), 1000, 0, false);
	world_run();
	assert_int_equal(n_builds, 0);
	assert_int_equal(c.status[0], INPUT_REJECTED);
	assert_string_equal(c.error,
			    "Cannot build '/nix/store/00000000000000000000000000000000-n0.drv'."
			    "\nReason: platform mismatch\nRequired system: 'riscv64-linux'"
			    "\nCurrent system: 'x86_64-linux'");
	client_done(&c);
}

static void check_wants_valid_outputs(void **state)
{
	struct client c;
	int x;

	(void)state;
	world_reset(8);
	x = node_add(NULL, 0);
	ask_mode(&c, ONE(x), BUILD_CHECK);
	world_run();
	assert_non_null(strstr(c.error, "are not valid, so checking is not possible"));
	client_done(&c);
	node_set_valid(x);
	ask_mode(&c, ONE(x), BUILD_CHECK);
	world_run();
	assert_int_equal(running(), 1);
	finish(x, NOT_DETERMINISTIC, "differs");
	assert_int_equal(c.status[0], NOT_DETERMINISTIC);
	client_done(&c);
}

static void unknown_targets_are_told(void **state)
{
	struct session_build b = {};
	struct request_events none = {};
	struct request *r;
	struct err e = {};

	(void)state;
	world_reset(8);
	assert_int_equal(strv_add(&b.targets, "../../etc/passwd"), 0);
	assert_int_not_equal(
		request_new(core.goals, &b, &core.settings, 1, false, &none, NULL, &r, &e), 0);
	strv_done(&b.targets);
	assert_int_equal(strv_add(&b.targets, "99999999999999999999999999999999-gone!out"), 0);
	assert_int_not_equal(
		request_new(core.goals, &b, &core.settings, 1, false, &none, NULL, &r, &e), 0);
	strv_done(&b.targets);
	b.mode = BUILD_CHECK + 1;
	assert_int_not_equal(
		request_new(core.goals, &b, &core.settings, 1, false, &none, NULL, &r, &e), 0);
	err_done(&e);
	assert_null(core.goals->requests);
}

/* Another program builds the same: the goal has no slot meanwhile, and looks again before it builds. */
static void a_lock_of_others_is_waited_for(void **state)
{
	struct client c, d;
	int a, b;

	(void)state;
	world_reset(1);
	a = node_add(NULL, 0);
	b = node_add(NULL, 0);
	node_lock(a, true);
	ask(&c, ONE(a), 1000, 0, false);
	world_run();
	assert_int_equal(running(), 0);
	assert_non_null(strstr(c.notes, "waiting for lock on '/nix/store/"));
	ask(&d, ONE(b), 1000, 0, false);
	world_run();
	assert_true(node_is_locked(b));
	finish(b, BUILT, "");
	assert_true(d.ok && !node_is_locked(b));
	world_wait();
	assert_int_equal(running(), 0);
	node_lock(a, false);
	world_wait();
	assert_non_null(build_of(a));
	finish(a, MISC_FAILURE, "no");
	assert_true(c.answered && !c.ok && !node_is_locked(a));
	client_done(&c);
	client_done(&d);
	/* What the other has built is not built again. */
	node_lock(a, true);
	ask(&c, ONE(a), 1000, 0, false);
	world_run();
	node_set_valid(a);
	node_lock(a, false);
	world_wait();
	assert_true(c.ok && c.status[0] == ALREADY_VALID);
	assert_int_equal(times_started(a), 1);
	client_done(&c);
	/* Nobody waits any more: no timer is left. */
	a = node_add(NULL, 0);
	node_lock(a, true);
	ask(&c, ONE(a), 1000, 0, false);
	world_run();
	request_cancel(c.request);
	world_run();
	assert_int_equal(core.goals->by_key.n, 0);
	assert_int_equal(core.goals->n_lock_timers, 0);
	client_done(&c);
}

static void shutdown_answers_everybody(void **state)
{
	struct client c;
	int x;

	(void)state;
	world_reset(8);
	x = node_add(NULL, 0);
	ask(&c, ONE(x), 1000, 0, false);
	world_run();
	goals_shutdown(core.goals);
	world_run();
	assert_true(c.answered);
	assert_false(c.ok);
	assert_int_equal(running(), 0);
	client_done(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(diamond_is_built_once_each),
		cmocka_unit_test(limits_are_the_requests_own),
		cmocka_unit_test(valid_outputs_need_nothing),
		cmocka_unit_test(first_failure_ends_the_request),
		cmocka_unit_test(keep_going_tries_the_rest),
		cmocka_unit_test(several_failures_have_one_sentence),
		cmocka_unit_test(two_requests_share_a_build),
		cmocka_unit_test(failure_meets_both_kinds_of_request),
		cmocka_unit_test(cancel_ends_the_last_ones_build),
		cmocka_unit_test(failed_goals_are_tried_again),
		cmocka_unit_test(wrong_platform_is_refused),
		cmocka_unit_test(check_wants_valid_outputs),
		cmocka_unit_test(unknown_targets_are_told),
		cmocka_unit_test(a_lock_of_others_is_waited_for),
		cmocka_unit_test(shutdown_answers_everybody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
