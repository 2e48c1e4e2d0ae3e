/* Sharing equal files of the store (nar/optimise.h), in a child process, one job after the other:
 * a client's wish for the whole store, the outputs of a build, or what was added meanwhile
 * (setting auto-optimise-store). Nobody waits for it who did not ask. Linked by airplantd.
 *
 * A collection may run beside it: what it deletes is left alone. */
#pragma once

#include <stdint.h>

#include "base/err.h"
#include "base/strv.h"

struct core;
struct optimiser;
struct optimise_job;

struct optimise_events {
	void (*note)(void *ctx, uint64_t level, const char *text);
	void (*progress)(void *ctx, uint64_t done, uint64_t expected);
	/* The last call; `e` is NULL when all went well. */
	void (*done)(void *ctx, uint64_t files, uint64_t bytes, const struct err *e);
};

struct optimiser *optimiser_new(struct core *core);
void optimiser_free(struct optimiser *o);
/* All valid paths. 0, or -errno with a sentence. */
int optimise_store(struct core *core, const struct optimise_events *ev, void *ctx,
		   struct optimise_job **ret, struct err *e);
/* These paths (copied) before others that wait. `done` alone is called. 0 or -ENOMEM. */
int optimise_soon(struct core *core, const struct strv *paths, bool repaired,
		  const struct optimise_events *ev,
		  void *ctx, struct optimise_job **ret);
/* When there is nothing else to do. */
void optimise_later(struct core *core, const char *base, bool repaired);
/* Before `done` was called: no event comes any more. NULL is fine. */
void optimise_forget(struct optimise_job *job);
