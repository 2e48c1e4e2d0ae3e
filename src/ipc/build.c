/* The layouts of build.h: one line per field, in the order of the struct. */
#include "ipc/build.h"

#include <strings.h>

/* clang-format off */
#define U64(T, m) { FIELD_U64, offsetof(struct T, m), NULL }
#define STR(T, m) { FIELD_STR, offsetof(struct T, m), NULL }
#define STRV(T, m) { FIELD_STRV, offsetof(struct T, m), NULL }
#define HASH(T, m) { FIELD_HASH, offsetof(struct T, m), NULL }
#define BYTES(T, m) { FIELD_BYTES, offsetof(struct T, m), NULL }
#define LIST(T, m, sub) { FIELD_LIST, offsetof(struct T, m), &(sub) }

LOCAL_LAYOUT(pair_layout, struct build_pair, STR(build_pair, name), STR(build_pair, value));
LOCAL_LAYOUT(output_layout, struct build_output, STR(build_output, name), STR(build_output, path),
	     STR(build_output, ca), U64(build_output, discard_refs));

LAYOUT(build_start_layout, struct build_start,
       STR(build_start, drv), STR(build_start, drv_name), STR(build_start, store_dir),
       STR(build_start, real_store), STR(build_start, scratch), STR(build_start, platform),
       STR(build_start, builder), STRV(build_start, args), STRV(build_start, fetch),
       LIST(build_start, env, pair_layout),
       LIST(build_start, files, pair_layout), STRV(build_start, inputs),
       LIST(build_start, outputs, output_layout), U64(build_start, fixed),
       BYTES(build_start, fixed_hash), U64(build_start, network), U64(build_start, net_loopback),
       STR(build_start, net_helper), U64(build_start, sandbox), STR(build_start, build_dir),
       LIST(build_start, binds, pair_layout), STR(build_start, shm_size), U64(build_start, uid),
       U64(build_start, gid), U64(build_start, n_ids),
       U64(build_start, kvm), U64(build_start, filter_syscalls),
       U64(build_start, allow_new_privileges), U64(build_start, impersonate_linux_26),
       U64(build_start, nested),
       U64(build_start, timeout_sec), U64(build_start, max_silent_sec),
       U64(build_start, max_log_bytes), U64(build_start, log_lines),
       U64(build_start, nix_log),
       U64(build_start, compress_log), U64(build_start, keep_failed), U64(build_start, check),
       U64(build_start, recursive), U64(build_start, cgroup), U64(build_start, max_procs));

LAYOUT(build_hook_layout, struct build_hook,
       STR(build_hook, program), STRV(build_hook, args), LIST(build_hook, env, pair_layout),
       U64(build_hook, errors_apart));

LAYOUT(build_ids_layout, struct build_ids,
       U64(build_ids, mode), U64(build_ids, count), U64(build_ids, host_base));
LAYOUT(build_names_layout, struct build_names, STRV(build_names, names));
LAYOUT(build_shown_layout, struct build_shown, U64(build_shown, ok), STR(build_shown, error));
LAYOUT(build_running_layout, struct build_running, U64(build_running, host_uid));
LAYOUT(build_log_layout, struct build_log, U64(build_log, size));

LOCAL_LAYOUT(made_layout, struct build_made,
       STR(build_made, name), STR(build_made, path), HASH(build_made, nar_hash), U64(build_made, nar_size),
       STRV(build_made, refs), STR(build_made, ca));
LAYOUT(build_end_layout, struct build_end,
       U64(build_end, status), STR(build_end, error), LIST(build_end, outputs, made_layout),
       STR(build_end, real_path), U64(build_end, cpu_user_usec), U64(build_end, cpu_system_usec),
       U64(build_end, peak_memory_bytes), U64(build_end, peak_procs), U64(build_end, log_size));
LAYOUT(build_bye_layout, struct build_bye, U64(build_bye, clean), STR(build_bye, error));

bool build_is_proxy(const char *name)
{
	static const char *const names[] = { "http_proxy", "https_proxy", "ftp_proxy", "all_proxy",
					     "no_proxy" };

	for (size_t i = 0; i < ELEMENTS(names); i++)
		if (!strcasecmp(name, names[i]))
			return true;
	return false;
}
