/* Derivations: the ATerm text of a .drv file, its hash modulo and its output paths.
 *
 *   drv    = "Derive(" outputs "," inputs "," srcs "," str "," str "," strs "," env ")"
 *   output = "(" name "," path "," algo "," hash ")"   algo: "" or ["r:"/"text:"/"git:"] hash name
 *   input  = "(" drvpath "," node ")"      env = "[" *( "(" str "," str ")" ) "]"
 *   node   = strs / "(" strs ",[" *( "(" name "," node ")" ) "])"
 *
 * The second form of a node names outputs of derivations that are outputs themselves; only a text
 * that begins with DrvWithVersion("xp-dyn-drv", instead of Derive( has it.
 *   str    = DQUOTE *( char / "\" one of "\nrt"" ) DQUOTE
 *
 * Pure: other derivations are asked for through a callback. Printing gives the same bytes. */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "path/path.h"

enum { DRV_BAD = 1, DRV_DEPTH_MAX = 16 };
enum { DRV_MAX = 64 << 20 }; /* bytes of a .drv */
/* Each has a lock, a path and a look of the core's while others wait. Packages have a handful. */
enum { DRV_OUTPUTS_MAX = 1024 };

enum drv_kind { DRV_INPUT_ADDRESSED, DRV_FIXED, DRV_FLOATING, DRV_DEFERRED, DRV_IMPURE };

struct drv_output {
	char *name;
	char *path; /* full path, "" when not known beforehand */
	char *algo; /* "", "sha256", "r:sha256" … as in the file */
	char *hash; /* base 16 as in the file, or "" */
	/* What `algo` says, when it is not "". */
	enum ca_method method;
	enum hash_algo hash_algo;
};
/* Outputs of a derivation that is itself the output `name` of the nearest node before this one
 * whose depth is one less; at depth 1, of the input. */
struct drv_node {
	size_t depth; /* from 1 */
	char *name;
	struct strv outputs;
};
struct drv_input {
	char *path; /* full path of the .drv */
	struct strv outputs;
	struct drv_node *nodes;
	size_t n_nodes;
};
struct drv_env {
	char *name, *value;
};
struct drv {
	char *name; /* from the .drv's store path: "hello-1.0" */
	struct {
		struct drv_output *v;
		size_t n;
	} outputs; /* in file order, which is sorted by name */
	struct {
		struct drv_input *v;
		size_t n;
	} inputs;
	struct strv srcs; /* full paths */
	char *platform, *builder;
	struct strv args;
	struct {
		struct drv_env *v;
		size_t n;
	} env; /* sorted by name */
	enum drv_kind kind;
	/* DRV_FIXED: */
	struct ca fixed;
};

/* `path` is the .drv's own store path (its name gives drv->name; NULL: name ""). Everything lands
 * in `a`. DRV_BAD with the byte offset in the sentence. */
int drv_parse(const char *store_dir, const struct store_path *path, const char *text, size_t len,
	      struct arena *a, struct drv *ret, struct err *e);
int drv_print(const struct drv *d, struct buf *b);
/* The experimental feature without which upstream would not read it, or NULL; `*ret_why` is what
 * upstream puts in brackets behind the name, or NULL. */
const char *drv_feature(const struct drv *d, const char **ret_why);
bool drv_has_dynamic_input(const struct drv *d);
const char *drv_env_get(const struct drv *d, const char *name); /* NULL when absent */
const struct drv_output *drv_output_get(const struct drv *d, const char *name);

/* Gives the hash modulo of an input derivation: `ret_n` hashes, one per output for fixed ones is
 * not needed: see drv_hash. 0 or an error. */
struct drv_hash {
	bool fixed; /* then `bytes` is sha256("fixed:out:<algo>:<hash>:<path>") of its one output */
	bool deferred;	   /* it or one of its inputs has outputs whose paths only a build tells */
	uint8_t bytes[32]; /* hash modulo, shared by all outputs */
};
typedef int (*drv_hash_lookup)(void *ctx, const char *drv_path, struct drv_hash *ret,
			       struct err *e);

/* Hash modulo of a derivation. With `mask_outputs` the own output paths and their environment
 * variables are blanked (that hash makes output paths); without, it is what dependants use. */
int drv_hash_modulo(const struct drv *d, bool mask_outputs, drv_hash_lookup lookup, void *ctx,
		    struct drv_hash *ret, struct err *e);

/* The derivation in which each input is replaced by what it gave, all in `a`: outputs of inputs
 * become sources, their placeholders in arguments and environment become paths, and outputs that
 * waited for this get theirs. `d` stays as it is; the two share what is the same.
 *
 * drv_resolve_find gives the full path of an output that is there: of derivation `drv_path`,
 * through the outputs chain[0..depth), output `output`. 0 or an error. */
typedef int (*drv_resolve_find)(void *ctx, const struct drv_input *in, const char *const *chain,
				size_t depth, const char *output, char **ret, struct err *e);
int drv_resolve(const char *store_dir, const struct drv *d, drv_resolve_find find, void *ctx,
		struct arena *a, struct drv *ret, struct err *e);
/* Upstream: must it be resolved before it is built? `ca`: the feature ca-derivations is on. */
bool drv_should_resolve(const struct drv *d, bool ca);

/* That name, outputs and environment agree with what the contents say they must be: upstream's
 * checkInvariants. DRV_BAD with upstream's sentence. On success ret (may be NULL) is the hash
 * that dependants use. */
int drv_check(const char *store_dir, const struct drv *d, drv_hash_lookup lookup, void *ctx,
	      struct drv_hash *ret, struct err *e);
