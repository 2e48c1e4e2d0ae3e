/* Values: types, aliases, "extra-", defaults, copies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "conf/table.h"

#define _cleanup_settings_ _cleanup_(settings_done)

static void expect(struct settings *s, const char *name, const char *value, int code,
		   const char *text)
{
	_cleanup_err_ struct err e = { 0 };
	int r = settings_set(s, name, value, &e);

	if (r != code || (text && strcmp(err_msg(&e), text)))
		fail_msg("%s = '%s': %d, %s", name, value, r, r ? err_msg(&e) : "");
}

static void test_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < conf_table_len; i++) {
		const struct conf_row *row = &conf_table[i];

		assert_ptr_equal(conf_find(row->name), row); /* no name and no alias twice */
		for (const char *const *a = row->alias; a && *a; a++)
			assert_ptr_equal(conf_find(*a), row);
		assert_int_equal(row->type == CONF_INT, row->max != 0);
		assert_int_equal(row->type == CONF_ENUM, row->words != NULL);
		for (size_t k = 0; k < i; k++)
			assert_false(row->stored && conf_table[k].stored &&
				     conf_table[k].offset == row->offset);
	}
}

static void test_defaults(void **state)
{
	_cleanup_settings_ struct settings s;

	(void)state;
	settings_init(&s);
	assert_string_equal(s.allowed_users.v[0], "*");
	assert_string_equal(s.trusted_users.v[0], "root");
	assert_int_equal(s.max_jobs, 1);
	assert_int_equal(s.cores, 0);
	assert_int_equal(s.sandbox, SANDBOX_TRUE);
	assert_int_equal(s.log_lines, 25);
	assert_string_equal(s.sandbox_build_dir, "/build");
	assert_string_equal(s.sandbox_dev_shm_size, "50%");
	assert_string_equal(s.build_dir, "");
	assert_string_equal(s.build_users_group, geteuid() ? "" : "nixbld");
	assert_true(s.substitute && s.require_sigs && s.filter_syscalls && s.keep_derivations &&
		    s.keep_build_log && s.compress_build_log && s.fsync_metadata);
	assert_false(s.keep_outputs || s.keep_failed || s.keep_going || s.fallback ||
		     s.auto_optimise_store || s.allow_new_privileges || s.impersonate_linux_26 ||
		     s.keep_env_derivations);
	assert_int_equal(s.substituters.n, 1);
	assert_string_equal(s.substituters.v[0], "https://cache.nixos.org/");
	assert_int_equal(s.ids, IDS_AUTO);
	assert_int_equal(s.durable, 0);
	assert_int_equal(s.ignored_acls.n, 3);
#if defined(__x86_64__)
	assert_string_equal(s.system, "x86_64-linux");
	assert_string_equal(s.extra_platforms.v[0], "i686-linux");
	assert_string_equal(s.extra_platforms.v[1], "x86_64-v1-linux");
#endif
	assert_true(strv_has(&s.system_features, "uid-range"));
	assert_int_equal(strv_has(&s.system_features, "kvm"), !access("/dev/kvm", R_OK | W_OK));
}

static void test_values(void **state)
{
	static const struct {
		const char *name, *value, *text; /* NULL: fine */
	} rows[] = {
		{ "keep-going", "yes", NULL },
		{ "keep-going", "1", NULL },
		{ "keep-going", "TRUE", "Boolean setting 'keep-going' has invalid value 'TRUE'" },
		{ "build-fallback", "", "Boolean setting 'fallback' has invalid value ''" },
		{ "timeout", "", "setting 'timeout' has invalid value ''" },
		{ "timeout", "-1", "setting 'timeout' has invalid value '-1'" },
		{ "timeout", "1.5", "setting 'timeout' has invalid value '1.5'" },
		{ "timeout", "1x", "setting 'timeout' has invalid value '1x'" },
		{ "timeout", "K", "setting 'timeout' has invalid value 'K'" },
		{ "timeout", "9223372036854775808",
		  "setting 'timeout' has invalid value '9223372036854775808'" },
		{ "cores", "4294967296", "setting 'cores' has invalid value '4294967296'" },
		{ "cores", "4T", "setting 'cores' has invalid value '4T'" },
		{ "max-free", "18446744073709551616",
		  "setting 'max-free' has invalid value '18446744073709551616'" },
		{ "max-free", "18446744073709551615K",
		  "setting 'max-free' has invalid value '18446744073709551615K'" },
		{ "max-free", "50G", NULL },
		{ "max-jobs", "many",
		  "configuration setting 'max-jobs' should be 'auto' or an integer" },
		{ "max-jobs", "1K",
		  "configuration setting 'max-jobs' should be 'auto' or an integer" },
		{ "sandbox", "yes", "option 'sandbox' has invalid value 'yes'" },
		{ "sandbox-build-dir", "",
		  "setting 'sandbox-build-dir' is a path and paths cannot be empty" },
		{ "sandbox-build-dir", "build",
		  "setting 'sandbox-build-dir': not an absolute path: 'build'" },
		{ "build-dir", "", NULL },
		{ "build-dir", "x", "setting 'build-dir': not an absolute path: 'x'" },
		{ "substituters", "https://x nonsense", "Cannot parse Nix store 'nonsense'" },
		{ "substituters", "daemon local /some/where s3://b?region=x", NULL },
		{ "eval-profiler", "x",
		  "option 'eval-profiler' has invalid value 'x' (expected one of 'disabled', "
		  "'flamegraph')" },
		{ "ids", "root",
		  "option 'ids' has invalid value 'root' (expected one of 'auto', 'broker', "
		  "'subid', 'single')" },
		{ "warn-dirty", "maybe", "Boolean setting 'warn-dirty' has invalid value 'maybe'" },
	};
	_cleanup_settings_ struct settings s;

	(void)state;
	settings_init(&s);
	for (size_t i = 0; i < ELEMENTS(rows); i++)
		expect(&s, rows[i].name, rows[i].value, rows[i].text ? CONF_BAD : 0, rows[i].text);
	expect(&s, "no-such", "1", CONF_UNKNOWN, "unknown setting 'no-such'");
	expect(&s, "extra-timeout", "1", CONF_UNKNOWN, NULL);
	expect(&s, "extra-sandbox", "true", CONF_UNKNOWN, NULL);
	/* a refused value leaves the old one */
	assert_int_equal(s.timeout, 0);
	assert_string_equal(s.sandbox_build_dir, "/build");
}

static void test_stores(void **state)
{
	_cleanup_settings_ struct settings s;

	(void)state;
	settings_init(&s);
	expect(&s, "build-max-jobs", "auto", 0, NULL);
	assert_true(s.max_jobs == UINT64_MAX);
	assert_in_range(settings_max_jobs(&s), 1, 100000);
	expect(&s, "max-jobs", "7", 0, NULL);
	assert_int_equal(settings_max_jobs(&s), 7);
	expect(&s, "build-use-chroot", "relaxed", 0, NULL);
	assert_int_equal(s.sandbox, SANDBOX_RELAXED);
	expect(&s, "max-build-log-size", "2m", 0, NULL);
	assert_int_equal(s.max_build_log_size, 2 << 20);
	expect(&s, "build-dir", "/a//b/./c/../d/", 0, NULL);
	assert_string_equal(s.build_dir, "/a/b/d");
	expect(&s, "build-dir", "/../..", 0, NULL);
	assert_string_equal(s.build_dir, "/");
	expect(&s, "ids", "single", 0, NULL);
	assert_int_equal(s.ids, IDS_USE_SINGLE);
	expect(&s, "durable", "strict", 0, NULL);
	assert_int_equal(s.durable, 1);
	expect(&s, "keep-recent", "2w", 0, NULL);
	assert_int_equal(s.keep_recent, 14 * 24);
	expect(&s, "keep-recent", "36h", 0, NULL);
	assert_int_equal(s.keep_recent, 36);
	expect(&s, "keep-recent", "3", 0, NULL);
	assert_int_equal(s.keep_recent, 72);
	expect(&s, "keep-size", "2G", 0, NULL);
	assert_int_equal(s.keep_size, 2ULL << 30);
	expect(&s, "trusted-users", "b a b", 0, NULL);
	expect(&s, "extra-trusted-users", "c", 0, NULL);
	assert_int_equal(s.trusted_users.n, 4); /* a list keeps order and doubles */
	assert_string_equal(s.trusted_users.v[0], "b");
	assert_string_equal(s.trusted_users.v[3], "c");
	expect(&s, "system-features", "b a b", 0, NULL);
	expect(&s, "extra-system-features", "a c", 0, NULL);
	assert_int_equal(s.system_features.n, 3); /* a set does neither */
	assert_string_equal(s.system_features.v[0], "a");
	expect(&s, "extra-platforms", "x-y", 0, NULL); /* a name of its own: it replaces */
	assert_int_equal(s.extra_platforms.n, 1);
	expect(&s, "extra-extra-platforms", "z", 0, NULL);
	assert_int_equal(s.extra_platforms.n, 2);
	expect(&s, "experimental-features", "flakes bogus ca-derivations", 0, NULL);
	assert_int_equal(s.experimental_features.n, 3);
	assert_true(strv_has(&s.experimental_features, "fetch-tree"));
	expect(&s, "substituters", "", 0, NULL);
	assert_int_equal(s.substituters.n, 0);
}

static void test_sandbox_paths(void **state)
{
	_cleanup_settings_ struct settings s;

	(void)state;
	settings_init(&s);
	expect(&s, "build-chroot-dirs", "/bin/sh=/busybox /dev/kvm? /a=/1 /a=/2", 0, NULL);
	assert_int_equal(s.sandbox_paths.n, 3);
	assert_string_equal(s.sandbox_paths.v[0], "/a=/2");
	expect(&s, "extra-sandbox-paths", "/bin/sh=/evil /new /dev/kvm", 0, NULL);
	assert_int_equal(s.sandbox_paths.n, 4);
	assert_true(
		strv_has(&s.sandbox_paths, "/bin/sh=/busybox")); /* appending replaces nothing */
	assert_true(strv_has(&s.sandbox_paths, "/dev/kvm?"));
	assert_true(strv_has(&s.sandbox_paths, "/new"));
}

static void test_copy(void **state)
{
	_cleanup_settings_ struct settings s, copy;

	(void)state;
	settings_init(&s);
	expect(&s, "trusted-users", "a b", 0, NULL);
	expect(&s, "system", "odd-os", 0, NULL);
	expect(&s, "keep-going", "true", 0, NULL);
	assert_int_equal(settings_copy(&s, &copy), 0);
	expect(&s, "trusted-users", "c", 0, NULL);
	expect(&s, "system", "other", 0, NULL);
	assert_int_equal(copy.trusted_users.n, 2);
	assert_string_equal(copy.system, "odd-os");
	assert_true(copy.keep_going);
	assert_ptr_not_equal(s.allowed_users.v, copy.allowed_users.v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),	      cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_values),	      cmocka_unit_test(test_stores),
		cmocka_unit_test(test_sandbox_paths), cmocka_unit_test(test_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
