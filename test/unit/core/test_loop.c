/* The loop: order, removal from inside callbacks, deferred work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/loop.h"

static char trace[64];
static struct loop *loop;
static struct loop_fd *first, *second;

static void note(const char *s)
{
	strcat(trace, s);
}
static void say_a(void *ctx)
{
	(void)ctx;
	note("a");
}
static void say_b(void *ctx)
{
	(void)ctx;
	note("b");
}
static void quit(void *ctx)
{
	note("q");
	loop_quit(ctx);
}

static int setup(void **state)
{
	(void)state;
	trace[0] = 0;
	loop = loop_new();
	return loop ? 0 : -1;
}
static int teardown(void **state)
{
	(void)state;
	loop_free(loop);
	return 0;
}

static void timers_fire_in_order(void **state)
{
	struct loop_timer *gone;

	(void)state;
	assert_int_equal(loop_timer(loop, 20000, quit, loop, NULL), 0);
	assert_int_equal(loop_timer(loop, 10000, say_b, NULL, NULL), 0);
	assert_int_equal(loop_timer(loop, 1000, say_a, NULL, NULL), 0);
	assert_int_equal(loop_timer(loop, 5000, say_a, NULL, &gone), 0);
	for (int i = 0; i < 200; i++) {
		struct loop_timer *t;

		assert_int_equal(loop_timer(loop, (uint64_t)(i * 37 % 101) * 100, say_a, NULL, &t),
				 0);
		loop_timer_cancel(t);
	}
	loop_timer_cancel(gone);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(trace, "abq");
}

static void defer_again(void *ctx)
{
	note("d");
	assert_int_equal(loop_defer(ctx, quit, ctx), 0);
}
static void deferred_runs_after_events(void **state)
{
	(void)state;
	assert_int_equal(loop_defer(loop, defer_again, loop), 0);
	assert_int_equal(loop_timer(loop, 0, say_a, NULL, NULL), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(trace, "adq");
}

static void remove_both(void *ctx, uint32_t events)
{
	(void)ctx;
	(void)events;
	note("r");
	loop_remove(first);
	loop_remove(second);
	loop_remove(second); /* twice is harmless */
	loop_quit(loop);
}
static void removal_inside_a_callback(void **state)
{
	int a[2], b[2];

	(void)state;
	assert_int_equal(pipe(a), 0);
	assert_int_equal(pipe(b), 0);
	assert_int_equal(loop_add(loop, a[0], EPOLLIN, remove_both, NULL, &first), 0);
	assert_int_equal(loop_add(loop, b[0], EPOLLIN, remove_both, NULL, &second), 0);
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "x", 1), 1);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(trace, "r"); /* whichever came first removed the other */
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(timers_fire_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(deferred_runs_after_events, setup, teardown),
		cmocka_unit_test_setup_teardown(removal_inside_a_callback, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
