/* What a client wants built: a store path, or outputs of a derivation.
 *
 *   derived = path / path *( "!" name ) "!" ( "*" / name *( "," name ) )
 *
 * Names between two marks lead through derivations that are outputs of derivations.
 * Before version 1.30 a bare .drv means all its outputs. Pure. */
#pragma once

#include "path/path.h"
#include "wire/reader.h"

enum { DERIVED_DEPTH_MAX = 16 };

struct derived_path {
	struct store_path path;
	bool built; /* outputs of `path`, else `path` itself */
	bool all;
	struct strv chain;   /* outputs of `path`, of what that gives, and so on */
	struct strv outputs; /* when built and not all */
	char *text;	     /* as the client spelled it */
};

int derived_path_parse(const char *store_dir, unsigned version, struct arena *a, char *text,
		       struct derived_path *ret, struct err *e);
/* "base", "base!*" or "base!a,b"; NULL when memory or the limit is exhausted. */
char *derived_path_base(struct arena *a, const struct derived_path *d);
struct derived_paths {
	struct derived_path *v;
	size_t n;
};
int wire_derived_paths(struct wire_in *in, const char *store_dir, unsigned version, struct arena *a,
		       struct derived_paths *ret);
