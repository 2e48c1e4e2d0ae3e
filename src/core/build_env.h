/* From a derivation and the settings to what the builder sees: environment, arguments, files,
 * sandbox paths (feature rows C8 to C11, C17, C18, D14, D26). Pure: the store is not asked; what
 * the database knows is handed in. Linked by the core. */
#pragma once

#include "conf/conf.h"
#include "core/drv_opts.h"
#include "ipc/build.h"
#include "store/db.h"

/* One resolved entry of exportReferencesGraph. */
struct build_graph {
	char *name;
	struct {
		struct path_info *v;
		size_t n;
	} paths;		 /* sorted by path */
	uint64_t *closure_sizes; /* bytes of NAR, one per path; only for structured attributes */
};

struct build_env_input {
	const char *store_dir;
	const char *drv_base; /* base name of the .drv */
	const struct drv *drv;
	const struct drv_opts *opts;
	const struct settings *settings;
	const struct build_graph *graphs; /* n = opts->graphs.n, same order */
	const struct strv *inputs;	  /* base names, the whole input closure */
	const struct strv
		*sandbox_closure; /* base names: closure of store paths in sandbox-paths */
	const char *scratch;
	const char *host_dir; /* where a builder without a sandbox sees its directory; NULL: there */
	uint64_t n_processors;
	bool check;
	bool own_uid;		/* the builder has the daemon's own id (ids = single) */
	bool trusted;		/* somebody in 'trusted-users' asked for it */
	const char *net_helper; /* of network.h; for builds that may use the network */
	const char *ca_file;	/* may be NULL or empty */
	const char *fetcher;	/* path of airplant-fetch */
	const char *netrc_file; /* its passwords; may not exist */
	/* The daemon's own environment, for impureEnvVars; NULL when unset. */
	const char *(*get_env)(const char *name);
};

enum { ENV_BAD = 1 };
/* Fills `ret`; it points into `a` and into the input. ENV_BAD with upstream's sentence. */
int build_env_make(const struct build_env_input *in, struct arena *a, struct build_start *ret,
		   struct err *e);

/* One entry of sandbox-paths: "target=source", "path", either with '?' at the end. 0 or -ENOMEM. */
int sandbox_path_parse(struct arena *a, const char *entry, struct build_pair *ret,
		       bool *ret_optional);

/* "/" and the base 32 hash that stands for an output's path in the derivation. */
char *output_placeholder(struct arena *a, const char *output_name);

/* attrs.c: .attrs.json and .attrs.sh. */
int attrs_render(const struct build_env_input *in, struct arena *a, char **ret_json, char **ret_sh,
		 struct err *e);
