/* An error that a person will read: a class for programs and one sentence for people.
 *
 * Filled where the failure is seen, with context put in front on the way up
 * (`while adding '…': …`). The sentence is exactly what a nix client prints after "error: ". */
#pragma once

#include "base/macro.h"

struct err {
	int code;  /* 0: no error; negative errno: ours or the machine's; positive: an outcome */
	char *msg; /* heap, or NULL */
};

#define _cleanup_err_ _cleanup_(err_done)

void err_done(struct err *e);
/* Sets code and sentence; returns `code`, so that a caller can `return err_set(...)`.
 * `e` may be NULL (then only the code is returned). An earlier sentence is replaced. */
int err_set(struct err *e, int code, const char *fmt, ...) _printf_(3, 4);
/* As err_set, with ": " and the text of errno behind the sentence. `code` is a negative errno. */
int err_errno(struct err *e, int code, const char *fmt, ...) _printf_(3, 4);
/* Puts context in front of the sentence. Returns e->code. */
int err_prefix(struct err *e, const char *fmt, ...) _printf_(2, 3);
/* The sentence, or a generic one; never NULL. */
const char *err_msg(const struct err *e);
