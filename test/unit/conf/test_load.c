/* Files: syntax, includes, order, warnings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/fd.h"
#include "conf/conf.h"

#define _cleanup_settings_ _cleanup_(settings_done)

static int setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	char *dir;

	if (asprintf(&dir, "%s/airplant-conf-XXXXXX", tmp ? tmp : "/tmp") < 0 || !mkdtemp(dir))
		return -1;
	*state = dir;
	return 0;
}

static int teardown(void **state)
{
	int r = rm_tree_at(AT_FDCWD, *state);

	free(*state);
	return r;
}

static void put(void **state, const char *name, const char *text, size_t len)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", (char *)*state, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, text, len), 0);
	close(fd);
}
#define PUT(name, text) put(state, name, text, strlen(text))

static void keep(void *ctx, const char *text)
{
	assert_int_equal(strv_add(ctx, text), 0);
}

static void load(void **state, struct settings *s, const char *env, struct strv *warnings)
{
	_cleanup_err_ struct err e = { 0 };

	settings_init(s);
	if (settings_load(s, *state, env, keep, warnings, &e))
		fail_msg("%s", err_msg(&e));
}

static void refuse(void **state, const char *env, const char *sentence)
{
	_cleanup_settings_ struct settings s;
	_cleanup_strv_ struct strv warnings = { 0 };
	_cleanup_err_ struct err e = { 0 };

	settings_init(&s);
	assert_int_equal(settings_load(&s, *state, env, keep, &warnings, &e), CONF_BAD);
	if (!strstr(err_msg(&e), sentence))
		fail_msg("'%s' is not in '%s'", sentence, err_msg(&e));
}

static void test_nothing(void **state)
{
	_cleanup_settings_ struct settings s;
	_cleanup_strv_ struct strv w = { 0 };

	load(state, &s, NULL, &w);
	assert_int_equal(s.max_jobs, 1);
	assert_int_equal(w.n, 0);
}

static void test_order(void **state)
{
	_cleanup_settings_ struct settings s;
	_cleanup_strv_ struct strv w = { 0 };

	PUT("nix.conf",
	    "# comment\n\n  max-jobs = 2 # two\ntimeout\t=\t5\ntrusted-users = a   b\r\n"
	    "system =\ncores = 3\nids = subid\nextra-trusted-users = c");
	PUT("airplant.conf", "max-jobs = 4\nids = single\n");
	load(state, &s, "cores = 9\nextra-trusted-users = d", &w);
	assert_int_equal(s.max_jobs, 4);
	assert_int_equal(s.timeout, 5);
	assert_int_equal(s.cores, 9);
	assert_int_equal(s.ids, IDS_USE_SINGLE);
	assert_int_equal(s.trusted_users.n, 4);
	assert_string_equal(s.trusted_users.v[1], "b");
	assert_string_equal(s.system, "");
	assert_int_equal(w.n, 0);
}

static void test_warnings(void **state)
{
	_cleanup_settings_ struct settings s;
	_cleanup_strv_ struct strv w = { 0 };

	PUT("nix.conf",
	    "max-job = 2\nmax-job = 3\nqqqqqqqqqqqq = 1\nextra-substituter = x\n"
	    "auto-allocate-uids = nonsense\nexperimental-features = bogus\nwarn-dirty = false\n");
	load(state, &s, "max-job = 4", &w);
	assert_int_equal(w.n, 5);
	assert_string_equal(w.v[0], "unknown experimental feature 'bogus'");
	assert_string_equal(w.v[1], "unknown setting 'max-job'; did you mean 'max-jobs'?");
	assert_string_equal(w.v[2], "unknown setting 'qqqqqqqqqqqq'");
	assert_string_equal(
		w.v[3], "unknown setting 'extra-substituter'; did you mean 'extra-substituters'?");
	assert_string_equal(w.v[4],
			    "Ignoring setting 'auto-allocate-uids' because experimental feature "
			    "'auto-allocate-uids' is not enabled");
}

static void test_features_first(void **state)
{
	PUT("nix.conf",
	    "auto-allocate-uids = nonsense\nexperimental-features = auto-allocate-uids\n");
	refuse(state, NULL, "Boolean setting 'auto-allocate-uids' has invalid value 'nonsense'");
}

static void test_include(void **state)
{
	_cleanup_settings_ struct settings s;
	_cleanup_strv_ struct strv w = { 0 };
	char path[4096];

	snprintf(path, sizeof(path), "%s/sub", (char *)*state);
	assert_int_equal(mkdir(path, 0755), 0);
	PUT("nix.conf", "max-jobs = 2\ninclude sub/a.conf\n!include missing.conf\ncores = 1\n");
	PUT("sub/a.conf", "max-jobs = 3\ncores = 7\n!include b.conf\n");
	PUT("sub/b.conf", "timeout = 8\n");
	load(state, &s, NULL, &w);
	assert_int_equal(s.max_jobs, 3);
	assert_int_equal(s.cores, 1);
	assert_int_equal(s.timeout, 8);
	PUT("nix.conf", "include missing.conf\n");
	refuse(state, NULL, "/missing.conf' included from '");
}

static void test_include_limits(void **state)
{
	PUT("nix.conf", "include nix.conf\n");
	refuse(state, NULL, "too many nested includes");
	PUT("nix.conf", "!include a.conf\n!include a.conf\n");
	PUT("a.conf", "!include nix.conf\n!include nix.conf\n");
	refuse(state, NULL, "too many nested includes");
}

static void test_refused(void **state)
{
	static const struct {
		const char *text, *sentence;
	} rows[] = {
		{ "max-jobs", "syntax error in configuration line 'max-jobs' in '" },
		{ "max-jobs 2", "syntax error" },
		{ "max-jobs=2", "syntax error" },
		{ "= 2", "syntax error" },
		{ "include", "syntax error" },
		{ "include a b", "syntax error" },
		{ "\n\nmax-jobs = x", "nix.conf:3: configuration setting 'max-jobs' should be" },
		{ "sandbox = maybe", "nix.conf:1: option 'sandbox' has invalid value 'maybe'" },
	};

	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		PUT("nix.conf", rows[i].text);
		refuse(state, NULL, rows[i].sentence);
	}
	put(state, "nix.conf", "max-jobs = 1\n\0require-sigs = true\n", 34);
	refuse(state, NULL, "NUL byte");
	PUT("nix.conf", "");
	refuse(state, "sandbox = maybe", "NIX_CONFIG:1: option");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_nothing), T(test_order),		 T(test_warnings), T(test_features_first),
		T(test_include), T(test_include_limits), T(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
