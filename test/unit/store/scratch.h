/* A scratch directory per test, and short ways to make rows. For the tests of libdb. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "store/db.h"

#define STORE "/nix/store"

/* cmocka setup and teardown: *state is the directory's path. */
int scratch_setup(void **state);
int scratch_teardown(void **state);
/* dir "/" name, in one of a few static buffers. */
const char *in_scratch(void *const *state, const char *name);

/* "<letter x 32>-<name>" */
struct store_path path_of(char letter, const char *name);
/* The i-th of many: digests that differ. */
struct store_path path_nr(unsigned int i, const char *name);
struct registration reg_of(struct store_path p, struct arena *a, ...); /* bases of refs, NULL */
struct db *open_db(void *const *state, enum db_mode mode);
void register_ok(struct db *db, struct registration *v, size_t n);
/* Runs a shell line; its output without the last newline goes to `out`. Returns the exit status. */
int shell(char *out, size_t size, const char *fmt, ...) _printf_(3, 4);
