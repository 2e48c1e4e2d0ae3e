/* What the files that look at a build's outputs share.
 *
 *   outputs.c     what was left behind: checked, made canonical, measured
 *   outputs_ca.c  outputs whose path follows from their contents */
#pragma once

#include <errno.h>

#include "build/supervisor.h"
#include "path/path.h"

struct work {
	struct build *b;
	int store, out; /* the builder's store directory and <scratch>/out */
	struct build_made *made;
	size_t *order, n_ordered; /* of the outputs: what one refers to comes before it */
};

/* An outcome for the client, as opposed to a fault of the machine. */
enum { REJECTED = 1 };

static inline int out_of_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "out of memory");
}

/* outputs.c: TREE_BAD and its like are what the builder did; negative values are ours. */
int tree_result(int r, const struct work *w, const struct build_output *o, struct err *e);

/* outputs_ca.c */
/* The one output has the hash that was asked for. When it has another, it is kept under the path
 * that belongs to it: `*ret_real`. */
int outputs_check_fixed(struct work *w, char **ret_real, struct err *e);
/* Gives output `i` the path that follows from its contents: references to outputs before it in
 * `order`, and to itself, are rewritten. */
int outputs_address(struct work *w, size_t i, struct err *e);
