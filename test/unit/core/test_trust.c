/* Who is allowed, who is trusted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/trust.h"

static struct settings with(const char *allowed, const char *trusted)
{
	struct settings s;

	settings_init(&s);
	assert_int_equal(settings_set(&s, "allowed-users", allowed, NULL), 0);
	assert_int_equal(settings_set(&s, "trusted-users", trusted, NULL), 0);
	return s;
}

/* "a" allowed, "t" trusted, "-" neither. */
static const char *judge(const char *allowed, const char *trusted, uid_t uid, gid_t gid,
			 gid_t other)
{
	struct settings s = with(allowed, trusted);
	struct peer p = { .uid = uid, .gid = gid };
	const char *ret;

	p.groups = malloc(sizeof(gid_t));
	p.groups[0] = other;
	p.n_groups = 1;
	assert_int_equal(peer_judge(&p, &s), 0);
	assert_true(p.allowed || !p.trusted);
	ret = p.trusted ? "t" : p.allowed ? "a" : "-";
	peer_done(&p);
	settings_done(&s);
	return ret;
}

static void names_and_wildcards(void **state)
{
	(void)state;
	assert_string_equal(judge("*", "root", 0, 0, 0), "t");
	assert_string_equal(judge("*", "root", 4242, 4242, 4242), "a");
	assert_string_equal(judge("root", "", 4242, 4242, 4242), "-");
	assert_string_equal(judge("", "*", 4242, 4242, 4242), "t");
	/* A user without a name goes by the number; a prefix of it does not count. */
	assert_string_equal(judge("4242", "", 4242, 7, 7), "a");
	assert_string_equal(judge("424", "", 4242, 7, 7), "-");
	assert_string_equal(judge("roo root2 \"*", "", 0, 0, 0), "-");
}

static void groups(void **state)
{
	(void)state;
	assert_string_equal(judge("@root", "", 4242, 0, 4242), "a"); /* primary */
	assert_string_equal(judge("@root", "", 4242, 4242, 0), "a"); /* supplementary */
	assert_string_equal(judge("@root", "", 4242, 4242, 4242), "-");
	assert_string_equal(judge("root", "", 4242, 0, 0), "-"); /* a group is not a user */
	assert_string_equal(judge("@no-such-group-here", "@", 4242, 4242, 4242), "-");
	assert_string_equal(judge("@4242", "", 1, 4242, 7), "a"); /* a group without a name */
}

static void build_group_is_kept_out(void **state)
{
	struct settings s = with("*", "root");
	struct peer p = { .uid = 0, .gid = 0 };

	(void)state;
	assert_int_equal(settings_set(&s, "build-users-group", "root", NULL), 0);
	assert_int_equal(peer_judge(&p, &s), 0);
	assert_false(p.allowed);
	assert_false(p.trusted);
	peer_done(&p);
	settings_done(&s);
}

static void kernel_says_who(void **state)
{
	struct peer p = {};
	int pair[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(peer_read(pair[0], &p), 0);
	assert_int_equal(p.uid, geteuid());
	assert_int_equal(p.pid, getpid());
	peer_done(&p);
	close(pair[0]);
	close(pair[1]);
	assert_true(peer_read(0x7fffffff, &p) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_wildcards),
		cmocka_unit_test(groups),
		cmocka_unit_test(build_group_is_kept_out),
		cmocka_unit_test(kernel_says_who),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
