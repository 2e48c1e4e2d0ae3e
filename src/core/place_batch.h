/* Shared by the files behind place.h: place.c (moving and committing), place_check.c (what may
 * become valid), place_drv.c (hashes of derivations). */
#pragma once

#include <sys/types.h>

#include "core/place.h"
#include "drv/closure.h"

enum { BATCH_MAX = 512 << 20 /* bytes */ };

/* One call of place_objects: all or nothing. */
struct batch {
	struct batch *next;
	struct arena arena;
	struct registration *regs;
	mode_t *modes;		/* per registration: st_mode of its top */
	bool *replaced;		/* and: it took the place of a valid one */
	size_t n_regs, n_moved; /* the first n_moved lie in the store */
	/* Objects that were valid before: only their signatures count. */
	struct path_info *sigs;
	size_t n_sigs, sigs_max; /* sigs_max: bytes, of one path */
	place_done done;
	void *ctx;
	struct err err;
};

struct place {
	struct core *core;
	struct batch *head, **tail;
	struct smap pending; /* base names that this round's batches register */
	bool deferred;
	bool txn; /* the round's transaction is open, also for what is looked up meanwhile */
	struct drv_hashes drv_hashes;
	/* The objects of the call that is being checked: their .drv files may use each other. */
	const struct staged *staged;
	size_t n_staged;
};

/* Fills `reg` (strings in `a`) and the mode of its top from one staged object that is to become
 * valid. 0, -errno, or PATH_BAD/DRV_BAD with the sentence that the client sees. */
int place_check(struct place *p, const struct staged *s, unsigned int flags, struct arena *a,
		struct registration *reg, mode_t *ret_mode, struct err *e);
/* The same for one that is valid: may who brings it say that it has the contents? */
int place_check_claim(struct place *p, const struct staged *s, struct arena *a, struct err *e);
/* Checks a staged .drv and fills the rows of its outputs. */
int place_check_drv(struct place *p, const struct staged *s, struct arena *a,
		    struct registration *reg, struct err *e);
void place_forget_hashes(struct place *p);
