/* The builtin builders; see builtins.c. */
#pragma once

#include "base/err.h"

struct build;

const char *builtin_env(const struct build *b, const char *name); /* NULL when absent */
void builtin_warn(const char *text);

/* buildenv.c: a user environment, a tree of symlinks to packages. 0 or an error. */
int builtin_buildenv(const struct build *b, struct err *e);
