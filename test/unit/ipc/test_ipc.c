/* The record codec and the message channel against honest and hostile peers. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "ipc/build.h"
#include "ipc/session.h"

static struct session_add sample(void)
{
	static char *refs[] = { "a", "bb" };
	static struct session_object objects[2];

	objects[0] = (struct session_object){
		.path = "p0", .spool_name = "s0", .nar_size = 7, .refs = { refs, 2 }, .ca = "text"
	};
	memset(objects[0].nar_hash, 0xab, 32);
	objects[1] = (struct session_object){ .path = "p1", .deriver = NULL, .ultimate = 1 };
	return (struct session_add){ .objects = { objects, 2 }, .dont_check_sigs = 1 };
}

static void test_round_trip(void **state)
{
	(void)state;
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 20);
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct session_add in = sample(), out;

	assert_int_equal(record_encode(&session_add_layout, &in, &b), 0);
	assert_int_equal(record_decode(&session_add_layout, b.data, b.len, &a, &out), 0);
	assert_int_equal(out.objects.n, 2);
	assert_string_equal(out.objects.v[0].refs.v[1], "bb");
	assert_memory_equal(out.objects.v[0].nar_hash, in.objects.v[0].nar_hash, 32);
	assert_int_equal(out.objects.v[0].nar_size, 7);
	assert_string_equal(out.objects.v[1].deriver, "");
	assert_int_equal(out.dont_check_sigs, 1);
}

/* Every shortened or lengthened message is refused, and every flipped byte is survived. */
static void test_damage(void **state)
{
	(void)state;
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 20);
	struct session_add in = sample(), out;

	assert_int_equal(record_encode(&session_add_layout, &in, &b), 0);
	for (size_t len = 0; len < b.len; len++) {
		_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);

		assert_int_equal(record_decode(&session_add_layout, b.data, len, &a, &out),
				 RECORD_BAD);
	}
	assert_int_equal(buf_append_char(&b, 0), 0);
	for (size_t i = 0; i < b.len; i++) {
		for (int bit = 0; bit < 8; bit++) {
			_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);

			b.data[i] ^= (uint8_t)(1 << bit);
			assert_int_equal(
				record_decode(&session_add_layout, b.data, b.len, &a, &out),
				RECORD_BAD); /* one byte too many in any case */
			(void)record_decode(&session_add_layout, b.data, b.len - 1, &a, &out);
			b.data[i] ^= (uint8_t)(1 << bit);
		}
	}
}

static void test_huge_counts(void **state)
{
	(void)state;
	uint8_t msg[64] = { 0xff, 0xff, 0xff, 0xff };
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 30);
	struct session_add add;
	struct session_built built;
	struct session_text text;

	assert_int_equal(record_decode(&session_add_layout, msg, sizeof(msg), &a, &add),
			 RECORD_BAD);
	assert_int_equal(record_decode(&session_built_layout, msg, sizeof(msg), &a, &built),
			 RECORD_BAD);
	assert_int_equal(record_decode(&session_text_layout, msg, sizeof(msg), &a, &text),
			 RECORD_BAD);
	assert_true(a.used < 4096);
}

static void test_nul_inside(void **state)
{
	(void)state;
	static const uint8_t msg[] = { 3, 0, 0, 0, 'a', 0, 'b', 0 };
	_cleanup_arena_ struct arena a = ARENA_INIT(4096);
	struct session_text text;

	assert_int_equal(record_decode(&session_text_layout, msg, sizeof(msg), &a, &text),
			 RECORD_BAD);
}

static void test_channel(void **state)
{
	(void)state;
	static uint8_t big[3 << 20];
	int pair[2];
	_cleanup_msg_ struct msg m = MSG_INIT;

	assert_int_equal(chan_pair(pair), 0);
	assert_int_equal(chan_send(pair[0], 7, 9, "hello", 5, &pair[0], 1), 0);
	assert_int_equal(chan_recv(pair[1], 100, &m), 0);
	assert_int_equal(m.type, 7);
	assert_int_equal(m.id, 9);
	assert_memory_equal(m.data, "hello", 5);
	assert_int_equal(m.n_fds, 1);
	assert_true(fcntl(m.fds[0], F_GETFD) & FD_CLOEXEC);
	msg_done(&m);

	memset(big, 0x5a, sizeof(big));
	assert_int_equal(chan_send(pair[0], 1, 2, big, sizeof(big), NULL, 0), 0);
	assert_int_equal(chan_recv(pair[1], sizeof(big), &m), 0);
	assert_int_equal(m.len, sizeof(big));
	assert_memory_equal(m.data, big, sizeof(big));
	assert_int_equal(m.n_fds, 0);
	msg_done(&m);

	assert_int_equal(chan_send(pair[0], 1, 2, big, sizeof(big), NULL, 0), 0);
	assert_int_equal(chan_recv(pair[1], sizeof(big) - 1, &m), CHAN_BAD);

	close(pair[0]);
	assert_int_equal(chan_recv(pair[1], 100, &m), CHAN_EOF);
	assert_int_equal(chan_send(pair[1], 1, 1, NULL, 0, NULL, 0), -EPIPE);
	close(pair[1]);
}

static void send_raw(int fd, const void *data, size_t len, int passed)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec iov = { (void *)data, len };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (passed >= 0) {
		struct cmsghdr *c;

		mh.msg_control = control.bytes;
		mh.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &passed, sizeof(int));
	}
	assert_true(sendmsg(fd, &mh, 0) >= 0);
}

static void test_hostile_channel(void **state)
{
	(void)state;
	int pair[2], mem = memfd_create("x", MFD_ALLOW_SEALING);
	_cleanup_msg_ struct msg m = MSG_INIT;
	uint32_t lying[4] = { 1, 1, 1000, 0 };	/* says 1000 bytes, has none */
	uint32_t flags[4] = { 1, 1, 0, 2 };	/* unknown flag */
	uint32_t spilled[4] = { 1, 1, 100, 1 }; /* spilled, but no fd */

	assert_int_equal(chan_pair(pair), 0);
	send_raw(pair[0], "x", 1, -1);
	assert_int_equal(chan_recv(pair[1], 100, &m), CHAN_BAD);
	send_raw(pair[0], lying, sizeof(lying), -1);
	assert_int_equal(chan_recv(pair[1], 10000, &m), CHAN_BAD);
	send_raw(pair[0], flags, sizeof(flags), -1);
	assert_int_equal(chan_recv(pair[1], 100, &m), CHAN_BAD);
	send_raw(pair[0], spilled, sizeof(spilled), -1);
	assert_int_equal(chan_recv(pair[1], 100, &m), CHAN_BAD);
	/* A memfd that its sender could still change or shrink. */
	assert_int_equal(ftruncate(mem, 100), 0);
	send_raw(pair[0], spilled, sizeof(spilled), mem);
	assert_int_equal(chan_recv(pair[1], 100, &m), CHAN_BAD);
	/* Sealed, but shorter than it says. */
	assert_int_equal(ftruncate(mem, 50), 0);
	assert_int_equal(fcntl(mem, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
	send_raw(pair[0], spilled, sizeof(spilled), mem);
	assert_int_equal(chan_recv(pair[1], 100, &m), CHAN_BAD);
	close(mem);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_damage),
		cmocka_unit_test(test_huge_counts), cmocka_unit_test(test_nul_inside),
		cmocka_unit_test(test_channel),	    cmocka_unit_test(test_hostile_channel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
