/* Which paths the outputs of a derivation are: known beforehand, or realised by a build (feature
 * row C4). Linked by the core. */
#pragma once

#include "base/err.h"
#include "drv/drv.h"
#include "store/db.h"

struct core;

/* Is the experimental feature on? */
bool has_feature(const struct core *core, const char *feature);
/* The sentence for one that is not; `why` may be NULL. Returns `code`. */
int feature_missing(struct err *e, int code, const char *feature, const char *why);

/* Reads and parses a valid .drv. 0; DB_ABSENT (it is not valid); or a sentence. */
int read_drv(struct core *core, const struct store_path *path, struct arena *a, struct drv *ret,
	     struct err *e);
/* Names and base names of a derivation's outputs; "" where nobody knows the path (yet). Whether
 * they are valid is another question. DB_ABSENT: the .drv is not valid. `d` may be NULL: then it is
 * read when it is needed. */
int realise_outputs(struct core *core, const struct store_path *path, const struct drv *d,
		    struct arena *a, struct strv *ret_names, struct strv *ret_paths, struct err *e);
/* The same for a derivation that need not be in the store. */
int realise_drv_outputs(struct core *core, const struct drv *d, struct arena *a,
			struct strv *ret_names, struct strv *ret_paths, struct err *e);
/* Records what the outputs of `d` are, signed with the daemon's keys. An output that is recorded
 * with another path which is still there keeps that. 0 or a sentence. */
int realise_register(struct core *core, const struct drv *d, const struct drv_row *v, size_t n,
		     struct err *e);
/* From a client: signatures count unless it is trusted. 0 or a sentence. */
int realise_add(struct core *core, struct realisation *row, bool trusted, struct err *e);

/* Registers the text of a derivation at once. 0 or a sentence. */
int realise_write_drv(struct core *core, const struct store_path *path, const struct drv *d,
		      const struct buf *text, struct err *e);
