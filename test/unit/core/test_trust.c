/* Who is allowed, who is trusted. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/names.h"
#include "core/trust.h"

static struct settings with(const char *allowed, const char *trusted)
{
	struct settings s;

	settings_init(&s);
	assert_int_equal(settings_set(&s, "allowed-users", allowed, NULL), 0);
	assert_int_equal(settings_set(&s, "trusted-users", trusted, NULL), 0);
	return s;
}

/* As the listener does it, with this machine's user database. */
static int look_and_judge(struct peer *p, const struct settings *s)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	_cleanup_strv_ struct strv groups = {};
	struct names_question q = { .uid = p->uid, .gid = p->gid };
	struct names n;

	assert_int_equal(peer_groups(s, &groups), 0);
	q.groups = groups;
	assert_int_equal(names_look(&q, &a, &n), 0);
	assert_int_equal(n.error, 0);
	n.group_names = groups;
	assert_true(names_cover(&n, &groups));
	return peer_judge(p, &n, s);
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
	assert_int_equal(look_and_judge(&p, &s), 0);
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

/* What `may` gives a user named 4242 in the groups 4711 and root. */
static struct rights rights(const char *may, const char *trusted)
{
	gid_t *root = calloc(1, sizeof(*root));
	struct settings s = with("*", trusted);
	struct peer p = { .uid = 4242, .gid = 4711, .groups = root, .n_groups = 1 };
	struct rights ret;

	assert_int_equal(settings_set(&s, "may", may, NULL), 0);
	assert_int_equal(rights_check(s.may, NULL), 0);
	assert_int_equal(look_and_judge(&p, &s), 0);
	ret = p.rights;
	p.rights = (struct rights){};
	peer_done(&p);
	settings_done(&s);
	return ret;
}

static void rights_between(void **state)
{
	static const struct {
		const char *may;
		uint64_t mask;
	} rows[] = {
		{ "", RIGHTS_ALLOWED },
		{ "4242 import-unsigned", RIGHTS_ALLOWED | RIGHT_IMPORT_UNSIGNED },
		{ "424 import-unsigned; root see-roots", RIGHTS_ALLOWED },
		{ "@root import-unsigned", RIGHTS_ALLOWED | RIGHT_IMPORT_UNSIGNED },
		{ "@4711 add-logs ,  add-roots;", RIGHTS_ALLOWED | RIGHT_ADD_LOGS | RIGHT_ADD_ROOTS },
		{ "* not gc, not build", RIGHT_ADD | RIGHT_OPTIMISE },
		{ "* not gc; 4242 gc", RIGHTS_ALLOWED }, /* the later entry wins */
		{ "4242 gc; * not gc", RIGHTS_ALLOWED & ~RIGHT_GC },
		{ ";; * ignore-liveness ;", RIGHTS_ALLOWED | RIGHT_IGNORE_LIVENESS },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		struct rights r = rights(rows[i].may, "");

		assert_int_equal(r.mask, rows[i].mask);
		rights_done(&r);
		r = rights(rows[i].may, "4242"); /* trusted: nothing is taken away */
		assert_int_equal(r.mask, RIGHTS_TRUSTED);
		rights_done(&r);
	}
	struct rights r = rights("@root set sandbox, set extra-system-features; * add-substituter http://a/b; x set cores", "");
	assert_int_equal(r.set.n, 2);
	assert_string_equal(r.set.v[1], "extra-system-features");
	assert_int_equal(r.substituters.n, 1);
	assert_string_equal(r.substituters.v[0], "http://a/b");
	rights_done(&r);
}

static void rights_without_sense(void **state)
{
	static const char *const bad[] = { "alice", "* fly", "* not fly", "* not", "* set", "* set nothing",
					   "* set trusted-users", "* set experimental-features", "* set may",
					   "* gc,,build", "* gc, ", "* add-substituter", "* set cores sandbox",
					   "* gc build", "* not gc build add" };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++) {
		_cleanup_err_ struct err e = {};

		assert_int_equal(rights_check(bad[i], &e), -EINVAL);
		assert_non_null(strstr(err_msg(&e), "setting 'may'"));
	}
}

static void members_by_the_list(void **state)
{
	char *one[] = { (char *)"staff-here", (char *)"gone" };
	struct names_group v[] = { { .exists = true, .gid = 7, .lists_user = true }, {} };
	struct names n = { .user = (char *)"alice", .primary = (char *)"alice", .owns_name = true,
			   .groups = { v, 2 }, .group_names = { one, 2 } };
	struct settings s = with("@staff-here", "@gone @never-asked");
	struct peer p = { .uid = 4242, .gid = 4242 };

	(void)state;
	assert_int_equal(peer_judge(&p, &n, &s), 0);
	assert_true(p.allowed && !p.trusted && p.owns_name);
	v[0].lists_user = false;
	assert_int_equal(peer_judge(&p, &n, &s), 0);
	assert_false(p.allowed);
	p.gid = 7;
	assert_int_equal(peer_judge(&p, &n, &s), 0);
	assert_true(p.allowed);
	p.gid = 0; /* what does not exist has no number */
	assert_int_equal(peer_judge(&p, &n, &s), 0);
	assert_false(p.allowed || p.trusted);
	peer_done(&p);
	settings_done(&s);
}

static void build_group_is_kept_out(void **state)
{
	struct settings s = with("*", "root");
	struct peer p = { .uid = 0, .gid = 0 };

	(void)state;
	assert_int_equal(settings_set(&s, "build-users-group", "root", NULL), 0);
	assert_int_equal(look_and_judge(&p, &s), 0);
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
		cmocka_unit_test(rights_between),
		cmocka_unit_test(rights_without_sense),
		cmocka_unit_test(members_by_the_list),
		cmocka_unit_test(build_group_is_kept_out),
		cmocka_unit_test(kernel_says_who),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
