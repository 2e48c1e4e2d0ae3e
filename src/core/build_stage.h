/* From what a supervisor says it made to what may enter the store. The supervisor has handled a
 * hostile tree: its claims are checked against the derivation and the inputs, never believed.
 * Linked by the core. */
#pragma once

#include "core/build_env.h"
#include "core/place.h"

struct build_stage_input {
	struct db *db;
	const char *store_dir, *drv_base;
	const struct drv *drv;
	const struct drv_opts *opts;
	const struct strv *inputs; /* base names, sorted */
	const struct build_end *end;
	const struct smap *replace;
	int out_dirfd; /* <scratch>/out */
};

enum { STAGE_REJECT = 1, STAGE_DIFFERS = 2 };
/* The outputs of a build that succeeded, checked (C12, C13). STAGE_REJECT with upstream's sentence
 * when they break a rule of the derivation; -EPROTO when the supervisor's claims make no sense. */
int build_stage(const struct build_stage_input *in, struct arena *a, struct staged **ret,
		size_t *ret_n, struct err *e);
/* The one object of a fixed output whose hash is not the wanted one: it is kept under the name its
 * real hash gives. */
int build_stage_mismatch(const struct build_stage_input *in, struct arena *a, struct staged *ret,
			 struct err *e);
/* --check: compares with what is registered. STAGE_DIFFERS, too, with upstream's sentence. */
int build_compare(const struct build_stage_input *in, struct store_path *ret_differs,
		  struct err *e);
