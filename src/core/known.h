/* Noting what a new indirect root may lead to, for when its place cannot be looked at (gc_known.c).
 */
#pragma once

#include "base/strv.h"

struct core;

/* `name`: of the link in gcroots/auto, made for the user's link `target` by somebody who holds
 * `held` (base names). 0 or -errno, -ENOBUFS for too much: then the root must not be promised. */
int known_note(struct core *core, const char *name, const char *target, const struct smap *held);
