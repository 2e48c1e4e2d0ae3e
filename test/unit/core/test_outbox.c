/* What a session is told, when it reads and when it does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/outbox.h"
#include "ipc/session.h"

static int pair[2];
static struct outbox box;

static int setup(void **state)
{
	(void)state;
	assert_int_equal(chan_pair(pair), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(fcntl(pair[i], F_SETFL, O_NONBLOCK), 0);
	outbox_init(&box, pair[0]);
	return 0;
}
static int teardown(void **state)
{
	(void)state;
	outbox_done(&box);
	close(pair[0]);
	close(pair[1]);
	return 0;
}

static int send_log(uint64_t build, uint64_t size)
{
	const struct session_ev_build ev = { .build = build, .size = size };

	return outbox_send(&box, SESSION_EV_LOG, 1, &session_ev_build_layout, &ev, -1, build + 1);
}

static void newest_size_wins(void **state)
{
	uint64_t seen[2] = {}, messages = 0;

	(void)state;
	for (uint64_t i = 1; i <= 20000; i++) {
		assert_int_equal(send_log(0, i), 0);
		assert_int_equal(send_log(1, 2 * i), 0);
	}
	assert_true(outbox_waiting(&box));
	assert_true(box.n <= 2);
	for (;;) {
		_cleanup_msg_ struct msg m = MSG_INIT;
		_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
		struct session_ev_build ev;

		assert_int_equal(outbox_flush(&box), 0);
		if (chan_recv(pair[1], 1 << 16, &m) != 0)
			break;
		assert_int_equal(msg_decode(&m, &session_ev_build_layout, &a, &ev), 0);
		assert_true(ev.size > seen[ev.build]); /* in order */
		seen[ev.build] = ev.size;
		messages++;
	}
	assert_int_equal(seen[0], 20000);
	assert_int_equal(seen[1], 40000);
	assert_true(messages < 20000);
}

static void a_deaf_peer_costs_itself(void **state)
{
	char text[4000];
	const struct session_note note = { .text = text };
	int r = 0;

	(void)state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	for (int i = 0; i < 10000 && r == 0; i++)
		r = outbox_send(&box, SESSION_EV_TEXT, 1, &session_note_layout, &note, -1, 0);
	assert_int_equal(r, -ENOBUFS);
	assert_true(box.bytes <= OUTBOX_MAX_BYTES);
}

static void a_dead_peer_is_noticed(void **state)
{
	(void)state;
	close(pair[1]);
	assert_int_equal(send_log(1, 1), -EPIPE);
	pair[1] = -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(newest_size_wins, setup, teardown),
		cmocka_unit_test_setup_teardown(a_deaf_peer_costs_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(a_dead_peer_is_noticed, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
