/* What the tests of this folder share. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/fd.h"
#include "nar/tree.h"

enum { ANY_SIZE = 64 << 20 };

struct scratch {
	char path[64];
	int fd;
};

void scratch_make(struct scratch *s);
void scratch_drop(struct scratch *s);

/* A byte sink that appends to the struct buf that is its context. */
int to_buf(void *ctx, const uint8_t *data, size_t len);
void put_file(int dirfd, const char *name, const void *data, size_t len, mode_t mode);
/* Dumps with our code; fails the test when that fails. */
void dump(int dirfd, const char *name, struct buf *out);
/* Restores in pieces of `piece` bytes. The value of the last tree_writer_feed(). */
int restore(int dirfd, const char *name, const void *data, size_t len, size_t piece,
	    size_t *ret_used, struct err *e);
/* Runs the stock nix-store; false when there is none. Input and output are optional. */
bool oracle(const char *verb, const char *path, const struct buf *in, struct buf *out);
void assert_buf_equal(const struct buf *a, const struct buf *b);
/* Permission bits, after checking the modification time and (regular files) the link count. */
mode_t canonical_mode_of(int dirfd, const char *name);
