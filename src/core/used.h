/* When paths were last used, for `keep-recent` and for collections that take the oldest first.
 *
 * A path is used when a client holds it (adds it, asks for a temporary root, is told it was built)
 * and when it is in the closure of a build's inputs; to ask about it, or to read its files, is
 * none. A valid path counts as used when it was registered.
 *
 * Stamps lie in <state>/airplant/used, not in the database, which is upstream's:
 *
 *   file = *( digest hours )       digest: 32 characters; hours: since the epoch, 4 bytes, little
 * endian
 *
 * It is appended to once a minute at most, without a flush; of several records of one digest the
 * latest counts. used.1 is an older part. A stamp that is lost makes a path look older, no more.
 * Linked by airplantd. */
#pragma once

#include <stdint.h>

#include "base/err.h"

struct core;
struct graph;
struct used;
struct used_reader;

struct used *used_new(struct core *core);
void used_free(struct used *u); /* writes what waits */
/* `base` is used now. Costs a look into a hash map; nothing when it was noted within this hour. */
void used_note(struct core *core, const char *base);

/* Reads all stamps into g->hours. Opens: 0 or -errno with a sentence. Step:
 * GRAPH_MORE, 0 at the end, or -errno. NULL is fine for close. */
int used_read_open(struct core *core, struct used_reader **ret, struct err *e);
int used_read_step(struct used_reader *r, struct graph *g, uint64_t until_usec);
/* After the end: writes the file anew when most of it is out of date. */
void used_compact(struct used_reader *r, const struct graph *g);
void used_read_close(struct used_reader *r);

uint32_t used_now(void); /* hours since the epoch */
