/* NARs with their path info, on the way into the store: ops 27, 39 and 44. */
#pragma once

#include "session/session.h"

enum { BATCH_OBJECTS = 256, BATCH_BYTES = 32 << 20 };

/* Objects that are spooled and checked, to be registered together. */
struct batch {
	struct arena arena; /* what the objects' fields point into */
	struct session_object *v;
	size_t n;
	uint64_t bytes;
	bool repair, dont_check_sigs;
};
int batch_init(struct batch *b);
/* Deletes what was not sent. */
void batch_done(struct session *s, struct batch *b);
/* Takes one object whose NAR comes from `in`; sends the batch when it is full. `info` lives in the
 * batch's arena. An object that is valid already is read over and made a root. */
int batch_take(struct session *s, struct batch *b, struct wire_in *in, struct wire_info *info,
	       struct err *e);
struct spooled;
/* As batch_take, for an object that is spooled already. */
int batch_put(struct session *s, struct batch *b, const struct wire_info *info, struct spooled *o,
	      struct err *e);
int batch_send(struct session *s, struct batch *b);
/* Sends the rest, waits for the core, and gives the first refusal. */
int batch_finish(struct session *s, struct batch *b, struct err *e);
