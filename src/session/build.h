/* A build that a client asked for, from the request to its results. Shared by ops_build.c and
 * ops_build_drv.c. */
#pragma once

#include "session/buildlog.h"
#include "session/repair.h"
#include "session/session.h"
#include "wire/derived.h"
#include "wire/result.h"

struct build {
	struct derived_paths targets;
	uint64_t mode;
	bool with_results;
	char *drv;	   /* the derivation itself, when the client sent it; else NULL */
	struct strv asked; /* the targets as the core was told them */
	struct repair repair; /* BUILD_REPAIR: what was found */
	uint32_t id;
	struct build_logs logs;
	uint64_t act_realise, act_builds, act_copies;
	struct session_built built; /* in the request's arena */
	bool ended;
};

/* Asks the core, and tells the client what happens until it is over. */
int build_run(struct session *s, struct build *b, struct err *e);
/* Makes a valid path anew by building what it came from. OP_FAILED with the sentence. */
int build_repair(struct session *s, const struct store_path *p, struct err *e);
/* `drv_hash`: under what the outputs are realised, or NULL where the client has no use for it. */
int build_put_result(struct session *s, const struct session_result *from, const uint8_t *drv_hash,
		     struct err *e);
