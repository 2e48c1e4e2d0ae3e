/* Stock tools that root runs beside the daemon, without asking it. Linked by the core.
 *
 * Upstream's processes agree on three things in the state directory, and so do we:
 *
 *   gc.lock         flock(2): a collector has it alone; who promises a path has it shared for that
 *                   moment
 *   temproots/PID   full paths, each with a NUL, that process PID was promised; locked as long as
 * it lives. A collector reads them when it has gc.lock gc-socket       where a collector is told of
 * promises while it runs: a path and a newline, and "1" comes back when it knows
 *
 * A stock process writes its file with every promise. We promise much more, so we have gc.lock
 * shared for as long as anything is promised, and write nothing: it costs nothing. When a collector
 * waits for it (the kernel lists who waits), everything that is promised goes into our file, and
 * the lock is let go. From then until it is free again each promise is told to that collector
 * first.
 *
 * A collection of ours (gc.c) has gc.lock alone, serves gc-socket for root and for the daemon's
 * user, and hears of stock processes' files from the tracer, since the core may not read them. */
#pragma once

#include <stdbool.h>

#include "base/err.h"

struct core;
struct beside;

/* With the store; makes what is missing of the three. 0, or negative with a sentence. */
int beside_open(struct core *core, struct beside **ret, struct err *e);
void beside_close(struct beside *b);

/* Before anything is promised. True: another collector runs, and has to be told what (beside_tell).
 */
bool beside_promise(struct core *core);
/* Waits until that collector knows of a path; it may be deleting it just now. Nothing to do without
 * a collector. 0, or -errno: then it must not be promised. */
int beside_tell(struct core *core, const char *base);

/* The collector's right, for one of our own. 0, 1 when somebody else has it, or -errno. */
int beside_collect(struct core *core, struct err *e);
void beside_collected(struct core *core);
