/* A process of airplant-build as the core starts it, in whichever of its modes (ipc/build.h).
 * Linked by airplantd. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

struct core;

struct supervisor {
	int chan, pidfd; /* -1: there is none; the channel does not block */
	pid_t pid;
};

/* `mode` and `arg` are its arguments; NULL: none. 0, or -errno with a sentence, and then `ret` is
 * as it was. */
int supervisor_start(const struct core *core, const char *mode, const char *arg,
		     struct supervisor *ret, struct err *e);
