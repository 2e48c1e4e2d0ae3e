/* When paths were last used and by whom, for `keep-recent`, for collections that take the oldest
 * first, and for users whose processes the tracer of roots could not look at in full (ipc/roots.h,
 * F): what such a user has used since the machine's start stays.
 *
 * A path is used when a client holds it (adds it, asks for a temporary root, is told it was built)
 * and when it is in the closure of a build's inputs; to ask about it, or to read its files, is
 * none. A valid path counts as used when it was registered.
 *
 * Stamps lie in <state>/airplant/used-by, not in the database, which is upstream's:
 *
 *   file = *( digest hours user )  digest: 32 characters; hours: since the epoch; user: a uid or
 *                                  what stands below; 4 bytes each, little endian
 *
 * It is appended to every five seconds at most, without a flush; of several records of one digest
 * the latest hour counts, and all users. used-by.1 is an older part. A stamp that is lost makes a
 * path look older, no more. Linked by airplantd. */
#pragma once

#include <stdint.h>

#include "base/err.h"

struct core;
struct graph;
struct used;
struct used_reader;

struct used *used_new(struct core *core);
void used_free(struct used *u); /* writes what waits */
enum {
	USED_BY_NOBODY = UINT32_MAX,	  /* a build's input, say */
	USED_BY_SEVERAL = UINT32_MAX - 1, /* counts for everybody */
};

/* `base` is used now. Costs a look into a hash map; nothing when it was noted within this hour. */
void used_note(struct core *core, uint32_t user, const char *base);

/* Reads all stamps into g->hours and, of those since the machine's start, g->user. Opens: 0 or
 * -errno with a sentence. Step: GRAPH_MORE, 0 at the end, or -errno. NULL is fine for close. */
int used_read_open(struct core *core, struct used_reader **ret, struct err *e);
int used_read_step(struct used_reader *r, struct graph *g, uint64_t until_usec);
/* After the end: writes the file anew when most of it is out of date. */
void used_compact(struct used_reader *r, const struct graph *g);
void used_read_close(struct used_reader *r);

uint32_t used_now(void); /* hours since the epoch */
