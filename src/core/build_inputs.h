/* What the database knows about a build's inputs: their closure, the reference graphs it asked
 * for, and the closure of store paths that the sandbox shows to every build. Linked by the core. */
#pragma once

#include "core/build_env.h"

struct build_inputs {
	struct strv closure;	     /* base names, sorted */
	struct strv with_added;	     /* and what a build with a daemon of its own added, likewise */
	struct build_graph *graphs;  /* one per opts->graphs */
	struct strv sandbox_closure; /* base names, sorted */
};

enum { INPUTS_BAD = 1 };
/* INPUTS_BAD with upstream's sentence: a missing output, a path outside the closure. All in `a`. */
int build_inputs_load(struct db *db, const char *store_dir, const char *drv_base,
		      const struct drv *d, const struct drv_opts *opts,
		      const struct settings *settings, struct arena *a, struct build_inputs *ret,
		      struct err *e);
