/* Makes a filter smaller without changing one of its answers. For gen-filters alone. */
#pragma once

#include <linux/filter.h>
#include <stddef.h>

struct program {
	struct sock_filter v[BPF_MAXINSNS];
	size_t n;
};

/* Ends the process when the result differs from what went in, or the program has what no filter of
 * ours has. `process` is for that sentence. */
void shrink(struct program *p, const char *process);
