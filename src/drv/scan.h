/* The lexical half of the .drv reader: a cursor over foreign bytes that gives strings and
 * punctuation. Internal to src/drv. */
#pragma once

#include "drv/drv.h"

struct scan {
	const char *at, *end;
	const char *begin;
	const char *label_dir, *label; /* name the derivation in sentences; no dir: no path */
	struct arena *arena;
	struct err *err;
};

/* Sets the error for what stands at the cursor; returns DRV_BAD. */
int scan_fail(struct scan *s, const char *fmt, ...) _printf_(2, 3);
/* Consumes exactly `token`. 0 or DRV_BAD. */
int scan_token(struct scan *s, const char *token);
/* A quoted string, unescaped, in the arena. 0, DRV_BAD or -ENOMEM. */
int scan_string(struct scan *s, char **ret);
/* A string behind a comma. */
int scan_next_string(struct scan *s, char **ret);
/* Inside a list that has been opened: `*more` says whether an element follows, and its comma is
 * consumed. `first` on the first call of a list. */
int scan_list(struct scan *s, bool first, bool *more);
int scan_strings(struct scan *s, struct strv *ret);
