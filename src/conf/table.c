/* Every setting of Nix 2.34 (and the few that only older ones had), with the members of struct
 * settings that Airplant acts on. Names without a member are accepted, checked and dropped, so
 * that an existing nix.conf is read without complaint. */
#include "conf/table.h"

#include <string.h>

#define ALIAS(...)                                                                                 \
	.alias = (const char *const[])                                                             \
	{                                                                                          \
		__VA_ARGS__, NULL                                                                  \
	}
#define WORDS(...)                                                                                 \
	.words = (const char *const[])                                                             \
	{                                                                                          \
		__VA_ARGS__, NULL                                                                  \
	}
#define KEEP(m)	   .stored = true, .offset = offsetof(struct settings, m)
#define KEEP_OWN(m) .own = true, KEEP(m)
#define U32	   .max = UINT32_MAX
#define I64	   .max = INT64_MAX
#define U64	   .max = UINT64_MAX
#define FEATURE(f) .feature = (f)

/* clang-format off */
const struct conf_row conf_table[] = {
	/* who may connect, and who is believed */
	{ "allowed-users", CONF_LIST, GROUP_OTHER, KEEP(allowed_users) },
	{ "trusted-users", CONF_LIST, GROUP_OTHER, KEEP(trusted_users) },
	{ "build-users-group", CONF_STRING, GROUP_STORE, KEEP(build_users_group) },

	/* scheduling */
	{ "max-jobs", CONF_JOBS, GROUP_STORE, ALIAS("build-max-jobs"), KEEP(max_jobs) },
	{ "cores", CONF_INT, GROUP_STORE, U32, ALIAS("build-cores"), KEEP(cores) },
	{ "max-substitution-jobs", CONF_INT, GROUP_STORE, U32, ALIAS("substitution-max-jobs") },
	{ "build-poll-interval", CONF_INT, GROUP_STORE, U32 },
	{ "keep-going", CONF_BOOL, GROUP_STORE, KEEP(keep_going) },
	{ "keep-failed", CONF_BOOL, GROUP_STORE, KEEP(keep_failed) },
	{ "fallback", CONF_BOOL, GROUP_STORE, ALIAS("build-fallback"), KEEP(fallback) },
	{ "timeout", CONF_INT, GROUP_STORE, I64, ALIAS("build-timeout"), KEEP(timeout) },
	{ "max-silent-time", CONF_INT, GROUP_STORE, I64, ALIAS("build-max-silent-time"), KEEP(max_silent_time) },

	/* the sandbox */
	{ "sandbox", CONF_SANDBOX, GROUP_STORE, ALIAS("build-use-chroot", "build-use-sandbox"), KEEP(sandbox) },
	{ "sandbox-paths", CONF_CHROOT, GROUP_STORE, ALIAS("build-chroot-dirs", "build-sandbox-paths"), KEEP(sandbox_paths) },
	{ "sandbox-build-dir", CONF_ABS_PATH, GROUP_STORE, KEEP(sandbox_build_dir) },
	{ "sandbox-dev-shm-size", CONF_STRING, GROUP_STORE, KEEP(sandbox_dev_shm_size) },
	{ "sandbox-fallback", CONF_BOOL, GROUP_STORE },
	{ "filter-syscalls", CONF_BOOL, GROUP_STORE, KEEP(filter_syscalls) },
	{ "allow-new-privileges", CONF_BOOL, GROUP_STORE, KEEP(allow_new_privileges) },
	{ "impersonate-linux-26", CONF_BOOL, GROUP_STORE, ALIAS("build-impersonate-linux-26"), KEEP(impersonate_linux_26) },
	{ "auto-allocate-uids", CONF_BOOL, GROUP_STORE, FEATURE("auto-allocate-uids") },
	{ "start-id", CONF_INT, GROUP_STORE, U32, KEEP(start_id) },
	{ "id-count", CONF_INT, GROUP_STORE, U32, KEEP(id_count) },
	{ "use-cgroups", CONF_BOOL, GROUP_STORE },
	{ "require-drop-supplementary-groups", CONF_BOOL, GROUP_STORE },
	{ "allowed-impure-host-deps", CONF_SET, GROUP_STORE },
	{ "impure-env", CONF_MAP, GROUP_STORE, FEATURE("configurable-impure-env"), KEEP(impure_env) },
	{ "ignored-acls", CONF_SET, GROUP_STORE, KEEP(ignored_acls) },
	{ "build-dir", CONF_OPT_PATH, GROUP_STORE, KEEP(build_dir) },
	{ "external-builders", CONF_JSON, GROUP_STORE },

	/* hooks and remote builds */
	{ "build-hook", CONF_LIST, GROUP_STORE },
	{ "builders", CONF_STRING, GROUP_STORE },
	{ "builders-use-substitutes", CONF_BOOL, GROUP_STORE },
	{ "diff-hook", CONF_OPT_PATH, GROUP_STORE, KEEP(diff_hook) },
	{ "run-diff-hook", CONF_BOOL, GROUP_STORE, KEEP(run_diff_hook) },
	{ "pre-build-hook", CONF_STRING, GROUP_STORE, KEEP(pre_build_hook) },
	{ "post-build-hook", CONF_STRING, GROUP_STORE, KEEP(post_build_hook) },

	/* logs */
	{ "log-lines", CONF_INT, GROUP_STORE, U64, KEEP(log_lines) },
	{ "max-build-log-size", CONF_INT, GROUP_STORE, U64, ALIAS("build-max-log-size"), KEEP(max_build_log_size) },
	{ "keep-build-log", CONF_BOOL, GROUP_STORE, ALIAS("build-keep-log"), KEEP(keep_build_log) },
	{ "compress-build-log", CONF_BOOL, GROUP_STORE, ALIAS("build-compress-log"), KEEP(compress_build_log) },
	{ "json-log-path", CONF_OPT_PATH, GROUP_OTHER },

	/* the store and its garbage */
	{ "store", CONF_STORE, GROUP_STORE },
	{ "keep-derivations", CONF_BOOL, GROUP_STORE, ALIAS("gc-keep-derivations"), KEEP(keep_derivations) },
	{ "keep-outputs", CONF_BOOL, GROUP_STORE, ALIAS("gc-keep-outputs"), KEEP(keep_outputs) },
	{ "keep-env-derivations", CONF_BOOL, GROUP_OTHER, ALIAS("env-keep-derivations"), KEEP(keep_env_derivations) },
	{ "min-free", CONF_INT, GROUP_STORE, U64, KEEP(min_free) },
	{ "max-free", CONF_INT, GROUP_STORE, U64, KEEP(max_free) },
	{ "min-free-check-interval", CONF_INT, GROUP_STORE, U64, KEEP(min_free_check_interval) },
	{ "gc-reserved-space", CONF_INT, GROUP_STORE, I64, KEEP(gc_reserved_space) },
	{ "fsync-metadata", CONF_BOOL, GROUP_STORE, KEEP(fsync_metadata) },
	{ "fsync-store-paths", CONF_BOOL, GROUP_STORE },
	{ "sync-before-registering", CONF_BOOL, GROUP_STORE },
	{ "auto-optimise-store", CONF_BOOL, GROUP_STORE, KEEP(auto_optimise_store) },
	{ "allow-symlinked-store", CONF_BOOL, GROUP_STORE },
	{ "use-sqlite-wal", CONF_BOOL, GROUP_STORE },
	{ "nar-buffer-size", CONF_INT, GROUP_STORE, U64 },
	{ "warn-large-path-threshold", CONF_INT, GROUP_STORE, U64 },
	{ "preallocate-contents", CONF_BOOL, GROUP_OTHER },
	{ "use-case-hack", CONF_BOOL, GROUP_OTHER },

	/* signatures and substitution */
	{ "require-sigs", CONF_BOOL, GROUP_STORE, KEEP(require_sigs) },
	{ "trusted-public-keys", CONF_LIST, GROUP_STORE, ALIAS("binary-cache-public-keys"), KEEP(trusted_public_keys) },
	{ "secret-key-files", CONF_LIST, GROUP_STORE, KEEP(secret_key_files) },
	{ "substitute", CONF_BOOL, GROUP_STORE, ALIAS("build-use-substitutes"), KEEP(substitute) },
	{ "substituters", CONF_STORE_LIST, GROUP_STORE, ALIAS("binary-caches"), KEEP(substituters) },
	{ "trusted-substituters", CONF_STORE_SET, GROUP_STORE, ALIAS("trusted-binary-caches"), KEEP(trusted_substituters) },
	{ "always-allow-substitutes", CONF_BOOL, GROUP_STORE },
	{ "narinfo-cache-meta-ttl", CONF_INT, GROUP_STORE, U32 },
	{ "narinfo-cache-negative-ttl", CONF_INT, GROUP_STORE, U32 },
	{ "narinfo-cache-positive-ttl", CONF_INT, GROUP_STORE, U32 },
	{ "hashed-mirrors", CONF_LIST, GROUP_STORE, KEEP(hashed_mirrors) },
	{ "connect-timeout", CONF_INT, GROUP_TRANSFER, U64, KEEP(connect_timeout) },
	{ "download-attempts", CONF_INT, GROUP_TRANSFER, U32, KEEP(download_attempts) },
	{ "download-buffer-size", CONF_INT, GROUP_TRANSFER, U64 },
	{ "download-speed", CONF_INT, GROUP_TRANSFER, U32 },
	{ "http-connections", CONF_INT, GROUP_TRANSFER, U64, ALIAS("binary-caches-parallel-connections") },
	{ "http2", CONF_BOOL, GROUP_TRANSFER },
	{ "netrc-file", CONF_ABS_PATH, GROUP_TRANSFER, KEEP(netrc_file) },
	{ "ssl-cert-file", CONF_OPT_PATH, GROUP_TRANSFER, KEEP(ssl_cert_file) },
	{ "stalled-download-timeout", CONF_INT, GROUP_TRANSFER, U64,
	  KEEP(stalled_download_timeout) },
	{ "user-agent-suffix", CONF_STRING, GROUP_TRANSFER, KEEP(user_agent_suffix) },

	/* the system */
	{ "system", CONF_STRING, GROUP_STORE, KEEP(system) },
	{ "extra-platforms", CONF_SET, GROUP_STORE, KEEP(extra_platforms) },
	{ "system-features", CONF_SET, GROUP_STORE, KEEP(system_features) },
	{ "experimental-features", CONF_FEATURES, GROUP_OTHER, KEEP(experimental_features) },

	/* in 2.8 and gone since */
	{ "enforce-determinism", CONF_BOOL, GROUP_OTHER },
	{ "repeat", CONF_INT, GROUP_OTHER, U32 },

	/* the evaluator's and the command line's: nothing for a daemon */
	{ "abort-on-warn", CONF_BOOL, GROUP_OTHER },
	{ "accept-flake-config", CONF_BOOL, GROUP_OTHER, FEATURE("flakes") },
	{ "access-tokens", CONF_MAP, GROUP_OTHER },
	{ "allow-dirty", CONF_BOOL, GROUP_OTHER },
	{ "allow-dirty-locks", CONF_BOOL, GROUP_OTHER, FEATURE("flakes") },
	{ "allow-import-from-derivation", CONF_BOOL, GROUP_OTHER },
	{ "allow-unsafe-native-code-during-evaluation", CONF_BOOL, GROUP_OTHER },
	{ "allowed-uris", CONF_LIST, GROUP_OTHER },
	{ "bash-prompt", CONF_STRING, GROUP_OTHER },
	{ "bash-prompt-prefix", CONF_STRING, GROUP_OTHER },
	{ "bash-prompt-suffix", CONF_STRING, GROUP_OTHER },
	{ "commit-lock-file-summary", CONF_STRING, GROUP_OTHER, ALIAS("commit-lockfile-summary"), FEATURE("flakes") },
	{ "debugger-on-trace", CONF_BOOL, GROUP_OTHER },
	{ "debugger-on-warn", CONF_BOOL, GROUP_OTHER },
	{ "eval-attrset-update-layer-rhs-threshold", CONF_INT, GROUP_OTHER, U32 },
	{ "eval-cache", CONF_BOOL, GROUP_OTHER },
	{ "eval-profile-file", CONF_PATH, GROUP_OTHER },
	{ "eval-profiler", CONF_ENUM, GROUP_OTHER, WORDS("disabled", "flamegraph") },
	{ "eval-profiler-frequency", CONF_INT, GROUP_OTHER, U32 },
	{ "eval-system", CONF_STRING, GROUP_OTHER },
	{ "flake-registry", CONF_STRING, GROUP_OTHER, FEATURE("flakes") },
	{ "ignore-try", CONF_BOOL, GROUP_OTHER },
	{ "lint-absolute-path-literals", CONF_ENUM, GROUP_OTHER, WORDS("ignore", "warn", "fatal") },
	{ "lint-short-path-literals", CONF_ENUM, GROUP_OTHER, WORDS("ignore", "warn", "fatal") },
	{ "lint-url-literals", CONF_ENUM, GROUP_OTHER, WORDS("ignore", "warn", "fatal") },
	{ "max-call-depth", CONF_INT, GROUP_OTHER, U32 },
	{ "nix-path", CONF_LIST, GROUP_OTHER },
	{ "nix-shell-always-looks-for-shell-nix", CONF_BOOL, GROUP_OTHER },
	{ "nix-shell-shebang-arguments-relative-to-script", CONF_BOOL, GROUP_OTHER },
	{ "plugin-files", CONF_LIST, GROUP_OTHER },
	{ "print-missing", CONF_BOOL, GROUP_STORE },
	{ "pure-eval", CONF_BOOL, GROUP_OTHER },
	{ "restrict-eval", CONF_BOOL, GROUP_OTHER },
	{ "show-trace", CONF_BOOL, GROUP_OTHER },
	{ "tarball-ttl", CONF_INT, GROUP_OTHER, U32 },
	{ "trace-function-calls", CONF_BOOL, GROUP_OTHER },
	{ "trace-import-from-derivation", CONF_BOOL, GROUP_OTHER },
	{ "trace-verbose", CONF_BOOL, GROUP_OTHER },
	{ "trust-tarballs-from-git-forges", CONF_BOOL, GROUP_OTHER },
	{ "upgrade-nix-store-path-url", CONF_STRING, GROUP_OTHER },
	{ "use-registries", CONF_BOOL, GROUP_OTHER, FEATURE("flakes") },
	{ "use-xdg-base-directories", CONF_BOOL, GROUP_STORE },
	{ "warn-dirty", CONF_BOOL, GROUP_OTHER },
	{ "warn-short-path-literals", CONF_BOOL, GROUP_OTHER },

	/* Airplant's own */
	{ "may", CONF_STRING, GROUP_OTHER, KEEP_OWN(may) },
	{ "ids", CONF_ENUM, GROUP_OTHER, WORDS("auto", "broker", "subid", "single"), KEEP_OWN(ids) },
	{ "ids-socket", CONF_ABS_PATH, GROUP_OTHER, KEEP_OWN(ids_socket) },
	{ "nested-sandboxes", CONF_BOOL, GROUP_OTHER, KEEP_OWN(nested_sandboxes) },
	{ "pasta-path", CONF_OPT_PATH, GROUP_OTHER, KEEP_OWN(pasta_path) },
	{ "fixed-output-loopback", CONF_BOOL, GROUP_OTHER, KEEP_OWN(fixed_output_loopback) },
	{ "roots", CONF_ENUM, GROUP_OTHER, WORDS("auto", "tracer", "own"), KEEP_OWN(roots) },
	{ "roots-socket", CONF_ABS_PATH, GROUP_OTHER, KEEP_OWN(roots_socket) },
	{ "keep-recent", CONF_AGE, GROUP_OTHER, KEEP_OWN(keep_recent) },
	{ "keep-size", CONF_INT, GROUP_OTHER, U64, KEEP_OWN(keep_size) },
	{ "durable", CONF_ENUM, GROUP_OTHER, WORDS("background", "strict"), KEEP_OWN(durable) },
	{ "build-cgroup", CONF_OPT_PATH, GROUP_OTHER, KEEP_OWN(build_cgroup) },
	{ "build-pids-max", CONF_COUNT, GROUP_OTHER, KEEP_OWN(build_pids_max) },
	{ "build-memory-max", CONF_MEMORY, GROUP_OTHER, KEEP_OWN(build_memory_max) },
	{ "build-memory-high", CONF_MEMORY, GROUP_OTHER, KEEP_OWN(build_memory_high) },
	{ "hook-timeout", CONF_INT, GROUP_OTHER, U32, KEEP_OWN(hook_timeout) },
	{ "build-cpu-weight", CONF_INT, GROUP_OTHER, .max = 10000, KEEP_OWN(build_cpu_weight) },
};
/* clang-format on */

const size_t conf_table_len = ELEMENTS(conf_table);

const char *const conf_features[] = {
	"auto-allocate-uids",
	"blake3-hashes",
	"ca-derivations",
	"cgroups",
	"configurable-impure-env",
	"daemon-trust-override",
	"dynamic-derivations",
	"external-builders",
	"fetch-closure",
	"fetch-tree",
	"flakes",
	"git-hashing",
	"impure-derivations",
	"local-overlay-store",
	"mounted-ssh-store",
	"nix-command",
	"parse-toml-timestamps",
	"pipe-operators",
	"read-only-local-store",
	"recursive-nix",
	"verified-fetches",
	NULL,
};

static bool is_alias(const struct conf_row *row, const char *name)
{
	for (const char *const *a = row->alias; a && *a; a++)
		if (!strcmp(*a, name))
			return true;
	return false;
}

const struct conf_row *conf_find(const char *name)
{
	for (size_t i = 0; i < conf_table_len; i++)
		if (!strcmp(conf_table[i].name, name) || is_alias(&conf_table[i], name))
			return &conf_table[i];
	return NULL;
}

bool conf_is_appendable(enum conf_type type)
{
	switch (type) {
	case CONF_LIST:
	case CONF_SET:
	case CONF_MAP:
	case CONF_FEATURES:
	case CONF_CHROOT:
	case CONF_STORE_LIST:
	case CONF_STORE_SET:
		return true;
	default:
		return false;
	}
}

const struct conf_row *conf_find_extra(const char *name, bool *ret_append)
{
	/* The whole name first: "extra-platforms" is a setting of its own. */
	const struct conf_row *row = conf_find(name);

	*ret_append = false;
	if (row || strncmp(name, "extra-", 6))
		return row;
	row = conf_find(name + 6);
	if (!row || !conf_is_appendable(row->type))
		return NULL;
	*ret_append = true;
	return row;
}

enum conf_store conf_stored_as(enum conf_type type)
{
	switch (type) {
	case CONF_BOOL:
		return STORED_BOOL;
	case CONF_INT:
	case CONF_JOBS:
	case CONF_COUNT:
	case CONF_AGE:
	case CONF_MEMORY:
	case CONF_SANDBOX:
	case CONF_ENUM:
		return STORED_NUMBER;
	case CONF_LIST:
	case CONF_SET:
	case CONF_MAP:
	case CONF_FEATURES:
	case CONF_CHROOT:
	case CONF_STORE_LIST:
	case CONF_STORE_SET:
		return STORED_LIST;
	default:
		return STORED_TEXT;
	}
}

/* scheme ":" …, a path, or one of the words that stand for a store. */
bool conf_is_store_reference(const char *word)
{
	static const char *const names[] = { "auto", "daemon", "local" };
	size_t base = strcspn(word, "?"), scheme;

	if (!base || memchr(word, '/', base))
		return true;
	for (size_t i = 0; i < ELEMENTS(names); i++)
		if (base == strlen(names[i]) && !strncmp(word, names[i], base))
			return true;
	scheme = strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
	return scheme && word[scheme] == ':';
}
