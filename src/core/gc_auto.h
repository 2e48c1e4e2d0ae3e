/* Collections that start by themselves when the disk fills (settings min-free, max-free,
 * min-free-check-interval). */
#pragma once

#include <stdbool.h>

#include "conf/conf.h"

struct core;
struct gc_auto;

/* NULL: ENOMEM. Freed with free(), after the collector. */
struct gc_auto *gc_auto_new(struct core *core);
/* Looks at the free space, once per interval, and starts a collection where it is too small. True
 * while one is under way: builds and adds wait; they are resumed when it is over. */
bool gc_auto_look(struct gc_auto *a, const struct settings *set);
