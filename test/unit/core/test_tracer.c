/* The answer of the tracer of roots as the core reads it: a recorded one, cut short at every byte,
 * with something behind it, and with records lost or doubled. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/loop.h"
#include "core/tracer.h"
#include "scratch.h"

static struct scratch s;
static int listener;
static char *answer;
static size_t len;

static struct heard {
	bool called, complete;
	size_t n_roots, n_links;
	char why[512];
} heard;

static int setup(void **state)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	(void)state;
	scratch_open(&s);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/roots", s.top);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(listener, 8), 0);
	free(s.core.settings.roots_socket);
	s.core.settings.roots_socket = strdup(a.sun_path);
	s.core.settings.roots = ROOTS_USE_TRACER;
	return read_file_at(AT_FDCWD, TEST_DATA "/roots-answer", 1 << 20, &answer, &len);
}

static int teardown(void **state)
{
	(void)state;
	free(answer);
	close(listener);
	scratch_close(&s);
	return 0;
}

static void on_answer(void *ctx, struct traced *t, const struct err *e)
{
	(void)ctx;
	heard = (struct heard){ .called = true, .complete = t != NULL };
	if (t) {
		heard.n_roots = t->n_roots;
		heard.n_links = t->n_links;
	} else {
		snprintf(heard.why, sizeof(heard.why), "%s", err_msg(e));
	}
	loop_quit(s.core.loop);
}

/* Plays a tracer that says this, in pieces, and leaves. */
static void ask(const char *said, size_t n, size_t piece)
{
	struct tracer *t = NULL;
	int fd;

	heard = (struct heard){};
	assert_int_equal(tracer_start(&s.core, on_answer, NULL, &t, NULL), 0);
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	for (size_t at = 0; at < n; at += piece) {
		assert_int_equal(write_full(fd, said + at, n - at < piece ? n - at : piece), 0);
		if (piece < n)
			scratch_spin(&s);
	}
	close(fd);
	if (!heard.called)
		assert_int_equal(loop_run(s.core.loop), 0);
	assert_true(heard.called);
}

static void test_whole(void **state)
{
	(void)state;
	ask(answer, len, len);
	assert_true(heard.complete);
	assert_int_equal(heard.n_roots, 7);
	assert_int_equal(heard.n_links, 3);
	ask(answer, len, 97);
	assert_true(heard.complete);
}

static void test_cut_short(void **state)
{
	(void)state;
	for (size_t n = 0; n < len; n++) {
		ask(answer, n, len);
		if (heard.complete)
			fail_msg("%zu of %zu bytes count as an answer", n, len);
		assert_non_null(strstr(heard.why, "garbage is not collected"));
	}
}

static void test_something_behind_it(void **state)
{
	_cleanup_free_ char *more = malloc(len + 1);

	(void)state;
	memcpy(more, answer, len);
	for (int c = 0; c < 256; c++) {
		more[len] = (char)c;
		ask(more, len + 1, len + 1);
		assert_false(heard.complete);
	}
}

/* A record less, a record twice: the count at the end says so, whichever it is. */
static void test_lost_and_doubled(void **state)
{
	_cleanup_free_ char *other = malloc(2 * len);
	static const char fields[256] = {
		['A'] = 1, ['P'] = 2, ['L'] = 5, ['S'] = 1, ['F'] = 2, ['Z'] = 1
	};

	(void)state;
	for (size_t at = 0, size; at < len; at += size) {
		size_t n = 0;

		for (int f = fields[(unsigned char)answer[at]]; f > 0; f--)
			n += strlen(answer + at + n) + 1;
		size = n;
		memcpy(other, answer, at);
		memcpy(other + at, answer + at + size, len - at - size);
		ask(other, len - size, len);
		assert_false(heard.complete);
		memcpy(other, answer, at + size);
		memcpy(other + at + size, answer + at, len - at);
		ask(other, len + size, 2 * len);
		assert_false(heard.complete);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_cut_short),
		cmocka_unit_test(test_something_behind_it),
		cmocka_unit_test(test_lost_and_doubled),
	};

	log_setup("test", LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, setup, teardown);
}
