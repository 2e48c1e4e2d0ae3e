/* The layouts of session.h: one line per field, in the order of the struct. */
#include "ipc/session.h"

/* clang-format off */
#define U64(T, m) { FIELD_U64, offsetof(struct T, m), NULL }
#define STR(T, m) { FIELD_STR, offsetof(struct T, m), NULL }
#define STRV(T, m) { FIELD_STRV, offsetof(struct T, m), NULL }
#define HASH(T, m) { FIELD_HASH, offsetof(struct T, m), NULL }
#define LIST(T, m, sub) { FIELD_LIST, offsetof(struct T, m), &(sub) }

LAYOUT(session_client_layout, struct session_client,
       STR(session_client, store_dir), STR(session_client, daemon_version),
       STR(session_client, peer_name), U64(session_client, trusted), U64(session_client, peer_uid),
       U64(session_client, peer_pid), U64(session_client, log_lines),
       STRV(session_client, experimental_features), STR(session_client, state_dir),
       STR(session_client, log_dir), STR(session_client, system),
       STRV(session_client, substituters), U64(session_client, rights),
       STRV(session_client, may_set), U64(session_client, restricted));

LOCAL_LAYOUT(setting_layout, struct session_setting,
       STR(session_setting, name), STR(session_setting, value));
LAYOUT(session_options_layout, struct session_options,
       U64(session_options, keep_failed), U64(session_options, keep_going),
       U64(session_options, try_fallback), U64(session_options, max_jobs),
       U64(session_options, max_silent_time), U64(session_options, cores),
       U64(session_options, use_substitutes), LIST(session_options, overrides, setting_layout));

LOCAL_LAYOUT(object_layout, struct session_object,
       STR(session_object, path), STR(session_object, spool_name), HASH(session_object, nar_hash),
       U64(session_object, nar_size), STRV(session_object, refs), STR(session_object, deriver),
       STR(session_object, ca), STRV(session_object, sigs), U64(session_object, ultimate),
       U64(session_object, registration_time));
LAYOUT(session_add_layout, struct session_add,
       LIST(session_add, objects, object_layout), U64(session_add, dont_check_sigs),
       U64(session_add, repair));

LAYOUT(session_text_layout, struct session_text, STR(session_text, text));
LAYOUT(session_texts_layout, struct session_texts, STRV(session_texts, texts));
LAYOUT(session_sigs_layout, struct session_sigs, STR(session_sigs, path), STRV(session_sigs, sigs));
LAYOUT(session_log_layout, struct session_log, STR(session_log, drv), STR(session_log, spool_name));
LAYOUT(session_realisation_layout, struct session_realisation,
       HASH(session_realisation, drv_hash), STR(session_realisation, output),
       STR(session_realisation, path), STRV(session_realisation, sigs));
LAYOUT(session_build_layout, struct session_build,
       STRV(session_build, targets), U64(session_build, mode), STRV(session_build, broken),
       U64(session_build, with_results), STR(session_build, drv));
LAYOUT(session_done_layout, struct session_done, U64(session_done, ok), STR(session_done, error));

LAYOUT(session_root_layout, struct session_root, STR(session_root, link), STR(session_root, target));
LAYOUT(session_roots_layout, struct session_roots,
       U64(session_roots, ok), STR(session_roots, error), LIST(session_roots, roots, session_root_layout));

LOCAL_LAYOUT(output_layout, struct session_output, STR(session_output, name), STR(session_output, path));
LOCAL_LAYOUT(result_layout, struct session_result,
       STR(session_result, target), U64(session_result, status), STR(session_result, error),
       U64(session_result, times_built), U64(session_result, start_time),
       U64(session_result, stop_time), U64(session_result, cpu_known),
       U64(session_result, cpu_user_usec), U64(session_result, cpu_system_usec),
       LIST(session_result, outputs, output_layout));
LAYOUT(session_built_layout, struct session_built,
       U64(session_built, ok), STR(session_built, error),
       LIST(session_built, results, result_layout));

LAYOUT(session_ev_build_layout, struct session_ev_build,
       U64(session_ev_build, build), STR(session_ev_build, drv), U64(session_ev_build, size),
       U64(session_ev_build, ok));
LAYOUT(session_ev_hook_layout, struct session_ev_hook,
       U64(session_ev_hook, build), STR(session_ev_hook, drv), STR(session_ev_hook, program));
LAYOUT(session_progress_layout, struct session_progress,
       U64(session_progress, done), U64(session_progress, expected),
       U64(session_progress, running), U64(session_progress, failed));
LAYOUT(session_note_layout, struct session_note,
       U64(session_note, level), STR(session_note, text));

LAYOUT(session_collect_layout, struct session_collect,
       U64(session_collect, action), U64(session_collect, whole_store),
       U64(session_collect, delete_referrers), U64(session_collect, ignore_liveness),
       U64(session_collect, max_freed), STRV(session_collect, paths));
LAYOUT(session_garbage_layout, struct session_garbage,
       U64(session_garbage, done), U64(session_garbage, expected), U64(session_garbage, freed),
       U64(session_garbage, list_size));
LAYOUT(session_collected_layout, struct session_collected,
       U64(session_collected, ok), STR(session_collected, error), U64(session_collected, freed),
       U64(session_collected, list_size));
