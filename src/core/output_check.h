/* allowedReferences and its relatives: what outputs may refer to, and how big they may be
 * (feature rows C12, C13). Reads the database for closures. Linked by the core. */
#pragma once

#include "core/drv_opts.h"
#include "store/db.h"

struct output_made {
	const char *name; /* "out" */
	struct path_info info;
};

enum { OUTPUT_REJECT = 1 };
/* OUTPUT_REJECT with upstream's sentence when an output breaks a rule. */
int output_check(struct db *db, const char *store_dir, const char *drv_base,
		 const struct drv_opts *opts, const struct output_made *outputs, size_t n,
		 struct err *e);
