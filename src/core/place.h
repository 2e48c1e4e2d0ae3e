/* The one way into the store: staged objects are renamed into place and registered, many per
 * transaction (group commit at the end of each loop round).
 *
 * Never: a row whose files are not there; a valid path touched; half of a batch registered. */
#pragma once

#include "base/err.h"
#include "drv/drv.h"
#include "store/db.h"

struct core;
struct place;

struct staged {
	struct path_info info; /* registration_time 0: now */
	int dirfd;	       /* directory that holds it; stays the caller's */
	const char *name;      /* its name there */
	bool replace;	     /* takes the place of a valid one (repair); its row is written anew */
	bool refs_discarded; /* of a build: it may name itself although it has no such reference */
};

/* Told after the commit, or at once on failure. `e` is NULL on success. */
typedef void (*place_done)(void *ctx, const struct err *e);

struct place *place_new(struct core *core);
void place_free(struct place *p);
enum place_flags {
	PLACE_CHECK_SIGS = 1, /* not content-addressed: wants a signature by a trusted key */
	PLACE_FOREIGN = 2,    /* from a session: the top of each object is looked at */
	PLACE_SIGNED = 4,     /* as far as anybody wants it: the daemon's keys do not sign */
	PLACE_CHECK_VALID = 8, /* valid ones too must be content-addressed or signed: who adds them
				* is shown them */
};

/* Checks every object (content-addressed ones: that the path follows from ca and refs; .drv files:
 * parsed, drv_check, their output rows), moves them, registers them with all batches of this round.
 * Objects that are already valid are left alone and their staged files stay where they are.
 * All or nothing per call. Everything is copied: nothing of `v` is needed after the call.
 * For what a build of this daemon made: ultimate objects are signed with the secret keys. */
void place_objects(struct place *p, const struct staged *v, size_t n, place_done done, void *ctx);
/* The same for objects that did not come from a build of this daemon. `flags`: enum place_flags. */
void place_objects_from(struct place *p, const struct staged *v, size_t n, unsigned int flags,
			place_done done, void *ctx);
/* The text of a valid .drv, compared with its hash in the database: heap. DB_ABSENT when it is not
 * valid, DRV_BAD when it was changed since. */
int place_read_drv(struct core *core, const struct store_path *path, char **ret, size_t *ret_len,
		   struct err *e);
/* Under what the outputs of a derivation are realised (drv/closure.h). */
int place_drv_hash(struct place *p, const struct drv *d, uint8_t ret[32], struct err *e);
/* Commits what waits, now (a build start needs its inputs on record). */
void place_flush(struct place *p);
