/* The client policy: every known name for both kinds of clients, against a second, hand-written
 * list of Nix 2.34's rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "conf/table.h"

static const char *const for_anyone[] = { "timeout", "max-silent-time", "build-poll-interval",
					  "connect-timeout", NULL };
static const char *const for_nobody[] = { "experimental-features", "plugin-files", "ssh-auth-sock",
					  NULL };
/* Settings that are in neither of the two groups a trusted client reaches. */
static const char *const unreachable[] = {
	"allowed-users",
	"trusted-users",
	"ids",
	"ids-socket",
	"may",
	"nested-sandboxes",
	"pasta-path",
	"fixed-output-loopback",
	"roots",
	"roots-socket",
	"durable",
	"keep-recent",
	"keep-size",
	"build-cgroup",
	"build-pids-max",
	"build-memory-max",
	"build-memory-high",
	"hook-timeout",
	"build-cpu-weight",
	"show-trace",
	"json-log-path",
	"use-case-hack",
	"preallocate-contents",
	"keep-env-derivations",
	"enforce-determinism",
	"repeat",
	"abort-on-warn",
	"accept-flake-config",
	"access-tokens",
	"allow-dirty",
	"allow-dirty-locks",
	"allow-import-from-derivation",
	"allow-unsafe-native-code-during-evaluation",
	"allowed-uris",
	"bash-prompt",
	"bash-prompt-prefix",
	"bash-prompt-suffix",
	"commit-lock-file-summary",
	"debugger-on-trace",
	"debugger-on-warn",
	"eval-attrset-update-layer-rhs-threshold",
	"eval-cache",
	"eval-profile-file",
	"eval-profiler",
	"eval-profiler-frequency",
	"eval-system",
	"flake-registry",
	"ignore-try",
	"lint-absolute-path-literals",
	"lint-short-path-literals",
	"lint-url-literals",
	"max-call-depth",
	"nix-path",
	"nix-shell-always-looks-for-shell-nix",
	"nix-shell-shebang-arguments-relative-to-script",
	"pure-eval",
	"restrict-eval",
	"tarball-ttl",
	"trace-function-calls",
	"trace-import-from-derivation",
	"trace-verbose",
	"trust-tarballs-from-git-forges",
	"upgrade-nix-store-path-url",
	"use-registries",
	"warn-dirty",
	"warn-short-path-literals",
	NULL,
};

static bool in(const char *const *list, const char *name)
{
	for (; *list; list++)
		if (!strcmp(*list, name))
			return true;
	return false;
}

static void check(const char *name, const char *value, bool trusted, enum client_rule expected)
{
	enum client_rule got = settings_client_rule(name, value, trusted, &(struct strv){ 0 });

	if (got != expected)
		fail_msg("%s = '%s', %strusted: %d, not %d", name, value, trusted ? "" : "not ",
			 got, expected);
}

static void test_every_setting(void **state)
{
	(void)state;
	for (size_t i = 0; i < conf_table_len; i++) {
		const char *name = conf_table[i].name;

		if (in(for_nobody, name)) {
			check(name, "x", true, CLIENT_IGNORE);
			check(name, "x", false, CLIENT_IGNORE);
			continue;
		}
		check(name, "1", true, in(unreachable, name) ? CLIENT_IGNORE : CLIENT_APPLY);
		check(name, "1", false, in(for_anyone, name) ? CLIENT_APPLY : CLIENT_REFUSE);
		for (const char *const *a = conf_table[i].alias; a && *a; a++) {
			check(*a, "1", true, in(unreachable, name) ? CLIENT_IGNORE : CLIENT_APPLY);
			check(*a, "1", false, CLIENT_REFUSE);
		}
	}
}

static void test_special(void **state)
{
	static const struct {
		const char *name, *value;
		enum client_rule trusted, untrusted;
	} rows[] = {
		{ "ssh-auth-sock", "/x", CLIENT_IGNORE, CLIENT_IGNORE },
		{ "builders", "", CLIENT_APPLY, CLIENT_APPLY },
		{ "builders", " ", CLIENT_APPLY, CLIENT_REFUSE },
		{ "builders", "ssh://evil", CLIENT_APPLY, CLIENT_REFUSE },
		{ "extra-substituters", "", CLIENT_APPLY, CLIENT_REFUSE },
		{ "extra-trusted-public-keys", "k", CLIENT_APPLY, CLIENT_REFUSE },
		{ "extra-timeout", "1", CLIENT_IGNORE, CLIENT_REFUSE },
		{ "extra-trusted-users", "me", CLIENT_IGNORE, CLIENT_REFUSE },
		{ "extra-experimental-features", "flakes", CLIENT_IGNORE, CLIENT_REFUSE },
		{ "no-such-setting", "", CLIENT_IGNORE, CLIENT_REFUSE },
		{ "", "", CLIENT_IGNORE, CLIENT_REFUSE },
		{ "Timeout", "1", CLIENT_IGNORE, CLIENT_REFUSE },
		{ "timeout ", "1", CLIENT_IGNORE, CLIENT_REFUSE },
		{ "build-timeout", "1", CLIENT_APPLY, CLIENT_REFUSE },
		{ "substituters", "", CLIENT_APPLY, CLIENT_APPLY },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		check(rows[i].name, rows[i].value, true, rows[i].trusted);
		check(rows[i].name, rows[i].value, false, rows[i].untrusted);
	}
}

static void test_substituters(void **state)
{
	static char a[] = "https://a.org/", b[] = "https://b.org",
		    c[] = "https://c.org/?priority=5";
	static char *known_v[] = { a, b, c };
	static const struct {
		const char *value;
		enum client_rule untrusted;
	} rows[] = {
		{ "https://a.org/", CLIENT_APPLY },
		{ "https://a.org", CLIENT_APPLY }, /* a slash may be missing … */
		{ "https://b.org", CLIENT_APPLY },
		{ "https://b.org/", CLIENT_REFUSE }, /* … but not be too many, as upstream has it */
		{ "https://a.org  https://b.org", CLIENT_APPLY },
		{ "https://a.org https://evil.org", CLIENT_REFUSE },
		{ "https://a.org//", CLIENT_REFUSE },
		{ "https://a.org/x", CLIENT_REFUSE },
		{ "https://a.or", CLIENT_REFUSE },
		{ "https://a.org?trusted=1", CLIENT_REFUSE },
		{ "https://c.org/?priority=5", CLIENT_APPLY },
		{ "https://c.org?priority=5", CLIENT_APPLY },
		{ "https://c.org", CLIENT_REFUSE },
		{ "http://a.org/", CLIENT_REFUSE },
		{ "\thttps://a.org\n", CLIENT_APPLY },
	};
	const struct strv known = { known_v, 3 };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		if (settings_client_rule("substituters", rows[i].value, false, &known) !=
			    rows[i].untrusted ||
		    settings_client_rule("binary-caches", rows[i].value, false, &known) !=
			    rows[i].untrusted)
			fail_msg("substituters = '%s'", rows[i].value);
		assert_int_equal(settings_client_rule("substituters", rows[i].value, true, &known),
				 CLIENT_APPLY);
	}
}

static void test_kept_and_refused(void **state)
{
	static char a[] = "https://a.org/";
	static char *known_v[] = { a };
	const struct strv known = { known_v, 1 };
	_cleanup_strv_ struct strv kept = { 0 }, refused = { 0 };

	(void)state;
	assert_int_equal(
		settings_client_substituters(" https://x https://a.org y", &known, &kept, &refused),
		0);
	assert_int_equal(kept.n, 1);
	assert_string_equal(kept.v[0], "https://a.org");
	assert_int_equal(refused.n, 2);
	assert_string_equal(refused.v[0], "https://x");
	assert_string_equal(refused.v[1], "y");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_setting),
		cmocka_unit_test(test_special),
		cmocka_unit_test(test_substituters),
		cmocka_unit_test(test_kept_and_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
