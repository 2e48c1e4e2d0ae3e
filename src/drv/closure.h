/* Hashes modulo of derivations in a store, with those of everything they use: found with a stack of
 * its own, remembered for the next time. Pure: derivations are read through a callback. Linked by
 * the core and by sessions. */
#pragma once

#include "drv/drv.h"

struct drv_hashes {
	struct smap v; /* base name of a .drv -> struct drv_hash, heap */
};

/* Reads a derivation into `a`. */
typedef int (*drv_load)(void *ctx, const struct store_path *path, struct arena *a, struct drv *ret,
			struct err *e);

void drv_hashes_done(struct drv_hashes *h);
int drv_hashes_put(struct drv_hashes *h, const char *base, const struct drv_hash *hash);
/* Brings the hashes of the inputs of `d`, which need those of theirs, into `h`. 0, what `load`
 * gives, or DRV_BAD with a sentence. */
int drv_hashes_know(struct drv_hashes *h, const char *store_dir, const struct drv *d, drv_load load,
		    void *ctx, struct err *e);
/* For drv_check and drv_hash_modulo after drv_hashes_know: `ctx` is the struct drv_hashes. */
int drv_hashes_lookup(void *ctx, const char *drv_path, struct drv_hash *ret, struct err *e);
/* What upstream calls a derivation's static output hash: its outputs are realised under it. */
int drv_hashes_of(struct drv_hashes *h, const char *store_dir, const struct drv *d, drv_load load,
		  void *ctx, uint8_t ret[32], struct err *e);
