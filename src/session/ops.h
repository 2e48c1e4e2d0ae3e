/* The operations of the worker protocol: one row and one small function each. */
#pragma once

#include "session/session.h"

/* Reads the request's payload and writes its answer behind a LAST frame (answer_begin). */
typedef int (*op_fn)(struct session *s, struct err *e);

struct op {
	enum wire_op number;
	const char *name;
	op_fn run;
};

const struct op *op_find(uint64_t number);

static inline void answer_begin(struct session *s)
{
	wire_put_last(&s->out);
}

/* ops_query.c */
int op_is_valid_path(struct session *s, struct err *e);
int op_query_referrers(struct session *s, struct err *e);
int op_query_valid_derivers(struct session *s, struct err *e);
int op_query_all_valid_paths(struct session *s, struct err *e);
int op_query_path_info(struct session *s, struct err *e);
int op_query_path_from_hash_part(struct session *s, struct err *e);
int op_query_valid_paths(struct session *s, struct err *e);
int op_query_substitutable_paths(struct session *s, struct err *e);
int op_query_substitutable_path_info(struct session *s, struct err *e);
int op_query_substitutable_path_infos(struct session *s, struct err *e);
/* ops_drv.c */
int op_query_missing(struct session *s, struct err *e);
int op_query_derivation_outputs(struct session *s, struct err *e);
int op_query_derivation_output_names(struct session *s, struct err *e);
int op_query_derivation_output_map(struct session *s, struct err *e);
/* ops_realise.c */
int op_register_drv_output(struct session *s, struct err *e);
int op_query_realisation(struct session *s, struct err *e);
/* ops_add.c */
int op_add_to_store(struct session *s, struct err *e);
int op_add_text_to_store(struct session *s, struct err *e);
/* ops_nar.c */
int op_add_to_store_nar(struct session *s, struct err *e);
int op_add_multiple_to_store(struct session *s, struct err *e);
int op_nar_from_path(struct session *s, struct err *e);
/* ops_export.c */
int op_export_path(struct session *s, struct err *e);
int op_import_paths(struct session *s, struct err *e);
/* ops_build.c */
int op_build_paths(struct session *s, struct err *e);
int op_build_paths_with_results(struct session *s, struct err *e);
int op_ensure_path(struct session *s, struct err *e);
/* ops_build_drv.c */
int op_build_derivation(struct session *s, struct err *e);
/* ops_roots.c */
int op_add_temp_root(struct session *s, struct err *e);
int op_add_temp_roots(struct session *s, struct err *e);
int op_add_indirect_root(struct session *s, struct err *e);
int op_find_roots(struct session *s, struct err *e);
/* "/a//b/./c/../d" becomes "/a/b/d", by its text alone, in place. */
void path_canonical(char *path);
/* ops_gc.c */
int op_collect_garbage(struct session *s, struct err *e);
int op_sync_with_gc(struct session *s, struct err *e);
int op_add_signatures(struct session *s, struct err *e);
/* ops_trusted.c */
int op_add_build_log(struct session *s, struct err *e);
int op_add_perm_root(struct session *s, struct err *e);
/* ops_optimise.c */
int op_optimise_store(struct session *s, struct err *e);
/* ops_verify.c */
int op_verify_store(struct session *s, struct err *e);
/* ops_options.c */
int op_set_options(struct session *s, struct err *e);
/* ops_legacy.c */
int op_has_substitutes(struct session *s, struct err *e);
int op_query_path_hash(struct session *s, struct err *e);
int op_query_references(struct session *s, struct err *e);
int op_query_deriver(struct session *s, struct err *e);
