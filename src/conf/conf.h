/* nix.conf: what the daemon reads, in upstream's syntax and order (feature rows J1 to J3).
 *
 * One table of settings with type, default and who may change it; structs are filled from it.
 * Linked by the core. The client policy (which override an untrusted client may send) is shared
 * with the session for its warnings. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/strv.h"

enum sandbox_mode { SANDBOX_FALSE, SANDBOX_TRUE, SANDBOX_RELAXED };
enum roots_setting { ROOTS_USE_AUTO, ROOTS_USE_TRACER, ROOTS_USE_OWN };
enum ids_setting { IDS_AUTO, IDS_USE_BROKER, IDS_USE_SUBID, IDS_USE_SINGLE };

struct settings {
	struct strv allowed_users, trusted_users;
	char *build_users_group;
	char *may; /* rights of those who are not trusted: core/rights.h */
	bool max_jobs_set; /* the administrator gave a number: no client may ask for more */
	uint64_t max_jobs; /* UINT64_MAX means "auto", resolved to the number of processors */
	uint64_t cores;
	uint64_t sandbox; /* enum sandbox_mode */
	struct strv sandbox_paths;
	char *sandbox_build_dir, *sandbox_dev_shm_size;
	bool filter_syscalls, allow_new_privileges, impersonate_linux_26;
	uint64_t timeout, max_silent_time, max_build_log_size, log_lines;
	bool keep_failed, keep_going, fallback, substitute;
	bool keep_build_log, compress_build_log;
	bool keep_derivations, keep_outputs, keep_env_derivations;
	uint64_t min_free, max_free, min_free_check_interval; /* bytes, bytes, seconds */
	uint64_t gc_reserved_space;			      /* bytes */
	bool require_sigs;
	struct strv trusted_public_keys, secret_key_files;
	struct strv substituters, trusted_substituters;
	char *system;
	struct strv extra_platforms, system_features, experimental_features;
	bool fsync_metadata, auto_optimise_store;
	char *ssl_cert_file;	  /* "" when not set */
	/* Of builtin:fetchurl: */
	struct strv hashed_mirrors;
	char *netrc_file, *user_agent_suffix; /* netrc_file: "" is <conf_dir>/netrc */
	uint64_t connect_timeout, stalled_download_timeout, download_attempts; /* seconds */
	char *build_dir;	  /* "" when not set */
	char *pre_build_hook, *post_build_hook, *diff_hook; /* programs, or "" */
	bool run_diff_hook;
	struct strv impure_env;	  /* name=value: for builds that see a network, see impureEnvVars */
	struct strv ignored_acls; /* extended attributes that canonicalisation leaves alone */
	/* Airplant's own, in the same file or in airplant.conf beside it: */
	uint64_t ids;	  /* enum ids_setting: auto, broker, subid, single */
	char *ids_socket; /* the broker's socket */
	/* The broker's block, which it has from its own command line; 0: not said here. */
	uint64_t start_id, id_count;
	bool nested_sandboxes; /* builders may make namespaces of their own */
	char *pasta_path;      /* "": looked for */
	bool fixed_output_loopback;
	uint64_t roots;	    /* enum roots_setting: auto, tracer, own */
	char *roots_socket; /* the tracer's socket */
	uint64_t keep_recent; /* hours: what was used since then stays; 0: no such rule */
	uint64_t keep_size;   /* bytes: collections stop when the store has no more; 0: no limit */
	uint64_t durable;   /* 0 background (default), 1 strict */
	/* Of each build, in its cgroup; UINT64_MAX is none. Processes, bytes, and 1 to 10000
	 * where 0 is the kernel's default. */
	uint64_t build_pids_max, build_memory_max, build_memory_high, build_cpu_weight;
	char *build_cgroup; /* "": the daemon's own */
	uint64_t hook_timeout; /* seconds; 0: none */
};

void settings_init(struct settings *s); /* all defaults */
void settings_done(struct settings *s);
int settings_copy(const struct settings *from, struct settings *to);
/* max_jobs with "auto" resolved: the processors this process may run on. */
uint64_t settings_max_jobs(const struct settings *s);

/* Reads <conf_dir>/nix.conf (absent is fine), then <conf_dir>/airplant.conf, then NIX_CONFIG.
 * Unknown names are told to `warn` once each. Errors carry file and line. */
int settings_load(struct settings *s, const char *conf_dir, const char *nix_config,
		  void (*warn)(void *ctx, const char *text), void *ctx, struct err *e);

/* The same for somebody who wants to know where a value comes from: `assigned` hears of each
 * assignment in order, with the name of the setting as the table has it. */
struct conf_watch {
	void (*warn)(void *ctx, const char *text);
	void (*assigned)(void *ctx, const char *name, const char *value, const char *file,
			 unsigned int line);
	void *ctx;
};
int settings_load_watched(struct settings *s, const char *conf_dir, const char *nix_config,
			  const struct conf_watch *watch, struct err *e);
/* What a person may have meant by a name nobody knows; NULL: nothing near. */
const char *settings_nearest(const char *name);

enum { CONF_UNKNOWN = 1, CONF_BAD = 2 };
/* One assignment; "extra-" names append; aliases are known. CONF_BAD with upstream's sentence. */
int settings_set(struct settings *s, const char *name, const char *value, struct err *e);

/* Lines "name = value" of upstream's settings that have another value than by default: for a client
 * that is to work as the daemon does. Heap; NULL: ENOMEM. */
char *settings_print_changed(const struct settings *s);

/* What a client's override may do. */
enum client_rule {
	CLIENT_APPLY,  /* take it */
	CLIENT_IGNORE, /* drop it silently (experimental-features, plugin-files …) */
	CLIENT_REFUSE, /* drop it and warn: restricted setting, not trusted */
};
enum client_rule settings_client_rule(const char *name, const char *value, bool trusted,
				      const struct strv *known_substituters);
/* For a refused "substituters" (or its alias): upstream takes the known ones and warns about each
 * other. Both lists are on the heap and are added to. 0 or -ENOMEM. */
int settings_client_substituters(const char *value, const struct strv *known_substituters,
				 struct strv *ret_kept, struct strv *ret_refused);
