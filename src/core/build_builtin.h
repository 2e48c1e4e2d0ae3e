/* The builtin builders that a program of their own does (src/fetch). Linked by the core. */
#pragma once

#include "core/build_env.h"

/* Fills `s->fetch` and what it needs to see when `s->builder` is one of them; after everything else
 * of `s`. 0, ENV_BAD with upstream's sentence, or -ENOMEM. */
int build_builtin(const struct build_env_input *in, struct arena *a, struct build_start *s,
		  struct err *e);
