/* A reader for JSON texts of limited size: a cursor, no tree. Pure.
 *
 * Strings come out as UTF-8 in an arena; numbers that are not whole and not negative are told
 * apart; anything else can be skipped, with a limit on depth and no recursion. */
#pragma once

#include <stdbool.h>

#include "base/arena.h"

enum { JSON_BAD = 1, JSON_MAX_DEPTH = 64 };

struct json {
	const char *p, *end;
	struct arena *a;
};

enum json_kind {
	JSON_STRING,
	JSON_UINT,
	JSON_NUMBER,
	JSON_OBJECT,
	JSON_ARRAY,
	JSON_WORD,
	JSON_NONE
};

void json_init(struct json *j, const char *text, size_t len, struct arena *a);
enum json_kind json_peek(struct json *j);
/* 0 or JSON_BAD, all of them. */
int json_string(struct json *j, char **ret);
int json_uint(struct json *j, uint64_t *ret);
int json_skip(struct json *j);
/* Objects: json_enter, then json_key until it gives NULL (the object is left then); each key is
 * followed by reading or skipping its value. Arrays: json_enter, then json_more. */
int json_enter(struct json *j, char open);
int json_key(struct json *j, bool *first, char **ret);
int json_more(struct json *j, bool *first, bool *ret_more);
/* Only blanks are left. */
int json_end(struct json *j);
