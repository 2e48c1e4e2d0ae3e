/* The text of a derivation with parts replaced, from which hashes are made. Internal to src/drv. */
#pragma once

#include "drv/drv.h"

/* An input as it is printed: `key` is the .drv's path, or the hash that stands for it. */
struct print_input {
	const char *key;
	struct strv outputs;
};

/* `mask_outputs` blanks the own output paths, and the environment variables named like an output.
 * 0, -E2BIG or -ENOMEM. */
int drv_print_with(const struct drv *d, bool mask_outputs, const struct print_input *inputs,
		   size_t n_inputs, struct buf *b);
