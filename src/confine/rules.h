/* How the tables of profiles.c and builder.c are spelled: one system call and what its arguments
 * must look like for the rule to apply. Read by those two files only. */
#pragma once

#include "confine/profiles.h"

#define INT 0xffffffffULL
/* clang-format off */
#define CALL(name) { name, 0, { } }
#define IS(name, arg, value) { name, 1, { { arg, INT, (uint32_t)(value) } } }
#define HAS(name, arg, bits) { name, 1, { { arg, bits, bits } } }
#define LACKS(name, arg, bits) { name, 1, { { arg, bits, 0 } } }
#define HAS2(name, a, abits, b, bbits) { name, 2, { { a, abits, abits }, { b, bbits, bbits } } }
/* The int is none of the values; and: the first int is a value while the second is not zero. */
#define NONE_OF(name, arg, ...) { name, 0, { }, arg, false, { .n = NONE_OF_N(__VA_ARGS__), .v = { __VA_ARGS__ } } }
#define IS_BUT_NOT_0(name, a, value, b) { name, 1, { { a, INT, (uint32_t)(value) } }, b, false, { .n = 1, .v = { 0 } } }
#define IS_WITH_POINTER(name, a, value, b) { name, 1, { { a, INT, (uint32_t)(value) } }, b, true, { .n = 1, .v = { 0 } } }
#define NONE_OF_N(...) (sizeof((uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t))
#define END { 0 }
/* clang-format on */
