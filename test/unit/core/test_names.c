/* Questions to the user database, with a helper that hangs, dies and lies: this program itself. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "core/accounts.h"
#include "core/names.h"

/* What uid has which helper. */
enum { HANGS = 1000, DIES = 2000, LIES = 3000, FAILS = 4000, SHORT = 5000 };
enum { WAIT_USEC = 400 * 1000 };

static int helper(void)
{
	unsigned int count = 0;

	for (;;) {
		_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
		_cleanup_msg_ struct msg m = MSG_INIT;
		struct names n = { .primary = (char *)"p" };
		struct names_question q;
		char user[64];

		if (chan_recv(NAMES_FD, NAMES_MSG_MAX, &m) != 0)
			return 0;
		if (msg_decode(&m, &names_question_layout, &a, &q) != 0)
			return 1;
		snprintf(user, sizeof(user), "%u-%d-%u", (unsigned int)q.uid, (int)getpid(),
			 count++);
		n.user = user;
		n.groups.v = arena_array(&a, q.groups.n + 1, sizeof(*n.groups.v));
		n.groups.n = q.groups.n;
		switch (q.uid / 1000 * 1000) {
		case HANGS:
			for (;;)
				pause();
		case DIES:
			return 1;
		case LIES:
			(void)!write(NAMES_FD, "nonsense", 8);
			continue;
		case FAILS:
			n = (struct names){ .error = EIO };
			break;
		case SHORT:
			n.groups.n = 0;
			break;
		}
		if (chan_send_record(NAMES_FD, NAMES_ANSWER, m.id, &names_layout, &n, NULL, 0) < 0)
			return 1;
	}
}

struct asked {
	struct loop *loop;
	unsigned int n, want;
	char user[64], why[200];
	uint64_t at_usec;
	struct names_desk *again; /* asks for more, from within */
};

static struct loop *loop;

static void told(void *ctx, const struct names *n, const char *why)
{
	struct asked *x = ctx;

	assert_true(!n != !why);
	if (x->again) {
		struct names_desk *d = TAKE_PTR(x->again);
		char *more[] = { (char *)"one", (char *)"two" };

		assert_false(names_cover(n, &(struct strv){ more, 2 }));
		assert_int_equal(names_ask(d, 1, 1, &(struct strv){ more, 2 }, told, x), 0);
		return;
	}
	x->n++;
	x->at_usec = now_usec();
	snprintf(x->user, sizeof(x->user), "%s", n ? n->user : "");
	snprintf(x->why, sizeof(x->why), "%s", why ? why : "");
	if (x->n == x->want)
		loop_quit(loop);
}

static const struct strv none;

static void ask(struct names_desk *d, uid_t uid, struct asked *x)
{
	assert_int_equal(names_ask(d, uid, 1, &none, told, x), 0);
}

static struct asked ask_and_wait(struct names_desk *d, uid_t uid)
{
	struct asked x = { .want = 1 };

	ask(d, uid, &x);
	if (!x.n)
		assert_int_equal(loop_run(loop), 0);
	return x;
}

static struct names_desk *desk(void)
{
	loop = loop_new();
	return names_desk_new(loop, WAIT_USEC);
}

static void close_desk(struct names_desk *d)
{
	names_desk_free(d);
	loop_free(loop);
}

static void answers_are_kept(void **state)
{
	struct names_desk *d = desk();
	struct asked one, two, x = { .want = 1 };
	char *group[] = { (char *)"one" };

	(void)state;
	names_desk_warm(d);
	one = ask_and_wait(d, 1);
	assert_memory_equal(one.user, "1-", 2);
	two = ask_and_wait(d, 1);
	assert_string_equal(one.user, two.user); /* not asked again: the helper counts */
	assert_string_not_equal(ask_and_wait(d, 2).user, one.user);
	/* A group that was not asked for is. */
	assert_int_equal(names_ask(d, 1, 1, &(struct strv){ group, 1 }, told, &x), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_string_not_equal(x.user, one.user);
	close_desk(d);
}

static void one_question_for_all_who_wait(void **state)
{
	struct names_desk *d = desk();
	struct asked many[3] = { { .want = 1 }, { .want = 1 }, { .want = 1 } };

	(void)state;
	for (int i = 0; i < 3; i++)
		ask(d, 1, &many[i]);
	assert_int_equal(loop_run(loop), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(many[i].n, 1);
	assert_string_equal(many[0].user, many[2].user);
	close_desk(d);
}

/* The settings change while two wait: the first asks for more, and the second gets that answer. */
static void asks_for_more(void **state)
{
	struct names_desk *d = desk();
	struct asked first = { .want = 9, .again = d }, second = { .want = 1 };

	(void)state;
	ask(d, 1, &first);
	ask(d, 1, &second);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(second.n, 1);
	assert_string_not_equal(second.user, "");
	if (!first.n) {
		second.want = 0;
		first.want = 1;
		assert_int_equal(loop_run(loop), 0);
	}
	assert_string_equal(first.user, second.user);
	close_desk(d);
}

static void who_hangs_delays_nobody(void **state)
{
	struct names_desk *d = desk();
	struct asked stuck = { .want = 99 }, fine;
	uint64_t start;

	(void)state;
	start = now_usec();
	ask(d, HANGS, &stuck);
	fine = ask_and_wait(d, 1);
	assert_int_equal(fine.n, 1);
	assert_int_equal(stuck.n, 0);
	assert_true(fine.at_usec - start < WAIT_USEC / 2);
	stuck.want = 1;
	assert_int_equal(loop_run(loop), 0);
	assert_non_null(strstr(stuck.why, "does not answer"));
	assert_true(stuck.at_usec - start >= WAIT_USEC);
	assert_string_not_equal(ask_and_wait(d, 1).user, "");
	close_desk(d);
}

/* A user with thousands of ids, each of which hangs. */
static void many_who_hang_leave_room(void **state)
{
	struct names_desk *d = desk();
	struct asked stuck = { .want = 0 }, known;
	char *group[] = { (char *)"one" };
	uint64_t start;

	(void)state;
	(void)ask_and_wait(d, 1);
	for (uid_t i = 0; i < 200; i++)
		ask(d, HANGS + i, &stuck);
	start = now_usec();
	known = (struct asked){ .want = 1 };
	assert_int_equal(names_ask(d, 1, 1, &(struct strv){ group, 1 }, told, &known), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_true(known.at_usec - start < WAIT_USEC / 2);
	assert_int_equal(stuck.n, 0);
	stuck.want = 200;
	assert_int_equal(loop_run(loop), 0);
	assert_true(stuck.at_usec - start < 2 * WAIT_USEC); /* all at once, not in turns */
	close_desk(d);
}

static void helpers_that_fail(void **state)
{
	struct names_desk *d = desk();

	(void)state;
	assert_non_null(strstr(ask_and_wait(d, DIES).why, "has died"));
	assert_non_null(strstr(ask_and_wait(d, LIES).why, "has died"));
	assert_non_null(strstr(ask_and_wait(d, FAILS).why, "Input/output error"));
	assert_string_not_equal(ask_and_wait(d, 1).user, "");
	close_desk(d);
}

static void an_answer_to_another_question(void **state)
{
	struct names_desk *d = desk();
	struct asked x = { .want = 1 };
	char *group[] = { (char *)"one" };

	(void)state;
	assert_int_equal(names_ask(d, SHORT, 1, &(struct strv){ group, 1 }, told, &x), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_non_null(strstr(x.why, "has died"));
	close_desk(d);
}

static void who_waits_is_limited(void **state)
{
	struct names_desk *d = desk();
	struct asked stuck = { .want = 0 };
	size_t n = 0;

	(void)state;
	while (names_ask(d, HANGS, 1, &none, told, &stuck) == 0)
		n++;
	assert_int_equal(n, CONNECTIONS_PER_UID);
	assert_int_equal(names_ask(d, HANGS, 1, &none, told, &stuck), -EBUSY);
	assert_string_not_equal(ask_and_wait(d, 1).user, "");
	close_desk(d); /* with all of them waiting */
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_are_kept),
		cmocka_unit_test(one_question_for_all_who_wait),
		cmocka_unit_test(asks_for_more),
		cmocka_unit_test(who_hangs_delays_nobody),
		cmocka_unit_test(many_who_hang_leave_room),
		cmocka_unit_test(helpers_that_fail),
		cmocka_unit_test(an_answer_to_another_question),
		cmocka_unit_test(who_waits_is_limited),
	};

	if (argc > 1 && !strcmp(argv[1], NAMES_ARGUMENT))
		return helper();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
