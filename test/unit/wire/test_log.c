/* Messages in build logs, and the JSON reader below them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "wire/json.h"
#include "wire/logline.h"

static int parse(struct arena *a, const char *line, struct log_message *m)
{
	return log_message_parse(line, strlen(line), a, m);
}

static void test_messages(void **state)
{
	struct arena a = ARENA_INIT(1 << 20);
	struct log_message m;

	(void)state;
	assert_int_equal(
		parse(&a, "@nix { \"action\": \"setPhase\", \"phase\": \"unpackPhase\" }", &m), 0);
	assert_int_equal(m.action, LOG_SET_PHASE);
	assert_string_equal(m.phase, "unpackPhase");
	assert_int_equal(
		parse(&a,
		      "@nix {\"action\":\"msg\",\"level\":3,\"msg\":\"a\\n\\u00e4\\ud83d\\ude00\"}",
		      &m),
		0);
	assert_int_equal(m.level, 3);
	assert_string_equal(m.msg, "a\n\xc3\xa4\xf0\x9f\x98\x80");
	assert_int_equal(
		parse(&a,
		      "@nix {\"action\":\"start\",\"id\":7,\"level\":0,\"type\":101,\"text\":\"t\","
		      "\"fields\":[1,\"two\"],\"more\":{\"x\":[1,{},[],null,-1.5e3]}}",
		      &m),
		0);
	assert_int_equal(m.action, LOG_START);
	assert_int_equal(m.n_fields, 2);
	assert_int_equal(m.fields[0].num, 1);
	assert_string_equal(m.fields[1].str, "two");
	assert_int_equal(parse(&a, "@nix {\"action\":\"result\",\"id\":7,\"type\":105}", &m), 0);
	assert_int_equal(m.n_fields, 0);
	assert_int_equal(parse(&a, "@nix {\"action\":\"unheard-of\"}", &m), 0);
	assert_int_equal(m.action, LOG_OTHER);
	arena_done(&a);
}

static void test_malformed(void **state)
{
	static const char *const lines[] = {
		"@nix ",
		"@nix {",
		"@nix {}",
		"@nix []",
		"@nix {\"action\":\"setPhase\"}",
		"@nix {\"action\":\"setPhase\",\"phase\":3}",
		"@nix {\"action\":\"setPhase\",\"phase\":\"x\"} x",
		"@nix {\"action\":\"setPhase\",\"phase\":\"x\",}",
		"@nix {\"action\":\"setPhase\",,\"phase\":\"x\"}",
		"@nix {\"action\":\"setPhase\" \"phase\":\"x\"}",
		"@nix {\"action\":\"setPhase\",\"phase\":\"x",
		"@nix {\"action\":\"setPhase\",\"phase\":\"\\u12\"}",
		"@nix {\"action\":\"setPhase\",\"phase\":\"\\ud800\"}",
		"@nix {\"action\":\"setPhase\",\"phase\":\"\\u0000\"}",
		"@nix {\"action\":\"setPhase\",\"phase\":\"\\x\"}",
		"@nix {\"action\":\"setPhase\",\"phase\":\"a\001b\"}",
		"@nix {\"action\":\"stop\",\"id\":-1}",
		"@nix {\"action\":\"stop\",\"id\":1.5}",
		"@nix {\"action\":\"stop\",\"id\":01}",
		"@nix {\"action\":\"stop\",\"id\":18446744073709551616}",
		"@nix {\"action\":\"result\",\"id\":7,\"type\":105,\"fields\":[null]}",
		"@nix {\"action\":\"result\",\"id\":7,\"type\":105,\"fields\":[1 2]}",
		"@nix {\"action\":\"msg\",\"msg\":\"x\"}",
	};
	struct arena a = ARENA_INIT(1 << 20);
	struct log_message m;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(lines); i++)
		assert_true(parse(&a, lines[i], &m) >= LOG_MALFORMED);
	/* Upstream tells them apart: no JSON at all, and JSON that says nothing. */
	assert_int_equal(parse(&a, "@nix ][", &m), LOG_MALFORMED);
	assert_int_equal(parse(&a, "@nix 1", &m), LOG_UNFIT);
	assert_int_equal(parse(&a, "@nix {}", &m), LOG_UNFIT);
	assert_int_equal(parse(&a, "@nix {\"action\":null}", &m), LOG_UNFIT);
	assert_int_equal(parse(&a, "@nixx {}", &m), LOG_PLAIN);
	assert_int_equal(parse(&a, "", &m), LOG_PLAIN);
	arena_done(&a);
}

static void test_depth(void **state)
{
	struct arena a = ARENA_INIT(1 << 20);
	char text[300];
	struct json j;

	(void)state;
	for (size_t depth = 1; depth < 140; depth++) {
		memset(text, '[', depth);
		memset(text + depth, ']', depth);
		json_init(&j, text, 2 * depth, &a);
		assert_int_equal(json_skip(&j), depth <= JSON_MAX_DEPTH ? 0 : JSON_BAD);
	}
	arena_done(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_messages),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_depth),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
