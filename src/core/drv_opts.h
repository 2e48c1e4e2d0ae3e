/* What a derivation's attributes ask of the daemon, typed: read from its environment, or from
 * its structured attributes (feature rows C9 to C18). Pure. Linked by the core. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/strv.h"
#include "drv/drv.h"

struct json_t;

/* References named in a check: full store paths or output names. */
struct ref_set {
	bool present; /* absent and empty mean different things for the allowed ones */
	struct strv refs;
};

struct output_checks {
	char *output; /* which output they are for; NULL: each */
	bool ignore_self_refs;
	bool has_max_size, has_max_closure_size;
	uint64_t max_size, max_closure_size; /* bytes of NAR */
	struct ref_set allowed_references, allowed_requisites;
	struct ref_set disallowed_references, disallowed_requisites;
};

struct drv_graph { /* one entry of exportReferencesGraph */
	char *name;
	struct strv paths; /* full paths */
};

struct drv_opts {
	bool no_chroot;
	bool prefer_local_build, allow_substitutes;
	struct strv impure_env_vars, required_features, pass_as_file; /* sorted, unique */
	struct strv unsafe_discard; /* outputs whose references are dropped; sorted */
	struct {
		struct drv_graph *v;
		size_t n;
	} graphs;	     /* sorted by name */
	bool graphs_ignored; /* exportReferencesGraph is there and no object: upstream warns */
	struct {
		struct output_checks *v;
		size_t n;
	} checks;
	struct json_t *attrs; /* structured attributes, or NULL; freed by drv_opts_done */
};

enum { OPTS_BAD = 1 };
/* Everything but `attrs` lands in `a`. OPTS_BAD with upstream's sentence. */
int drv_opts_parse(const struct drv *d, struct arena *a, struct drv_opts *ret, struct err *e);
void drv_opts_done(struct drv_opts *o);

/* Splits at blanks as upstream's tokenizeString does; duplicates are dropped, the result is
 * sorted when `sorted`. 0 or -ENOMEM. */
int tokenize(struct arena *a, const char *text, bool sorted, struct strv *ret);

/* attrs.c: the same from structured attributes. */
int attrs_parse(const char *json, struct arena *a, struct drv_opts *ret, struct err *e);
