/* The table of operations (features.md 1.6). Two that upstream has removed since, and that no
 * client from 2.0 on asks for, are unknown here too: QueryFailedPaths and ClearFailedPaths. */
#include "session/ops.h"

static const struct op ops[] = {
	{ OP_IS_VALID_PATH, "IsValidPath", op_is_valid_path },
	{ OP_HAS_SUBSTITUTES, "HasSubstitutes", op_has_substitutes },
	{ OP_QUERY_PATH_HASH, "QueryPathHash", op_query_path_hash },
	{ OP_QUERY_REFERENCES, "QueryReferences", op_query_references },
	{ OP_QUERY_REFERRERS, "QueryReferrers", op_query_referrers },
	{ OP_ADD_TO_STORE, "AddToStore", op_add_to_store },
	{ OP_ADD_TEXT_TO_STORE, "AddTextToStore", op_add_text_to_store },
	{ OP_BUILD_PATHS, "BuildPaths", op_build_paths },
	{ OP_ENSURE_PATH, "EnsurePath", op_ensure_path },
	{ OP_ADD_TEMP_ROOT, "AddTempRoot", op_add_temp_root },
	{ OP_ADD_INDIRECT_ROOT, "AddIndirectRoot", op_add_indirect_root },
	{ OP_SYNC_WITH_GC, "SyncWithGC", op_sync_with_gc },
	{ OP_FIND_ROOTS, "FindRoots", op_find_roots },
	{ OP_EXPORT_PATH, "ExportPath", op_export_path },
	{ OP_QUERY_DERIVER, "QueryDeriver", op_query_deriver },
	{ OP_SET_OPTIONS, "SetOptions", op_set_options },
	{ OP_COLLECT_GARBAGE, "CollectGarbage", op_collect_garbage },
	{ OP_QUERY_SUBSTITUTABLE_PATH_INFO, "QuerySubstitutablePathInfo",
	  op_query_substitutable_path_info },
	{ OP_QUERY_DERIVATION_OUTPUTS, "QueryDerivationOutputs", op_query_derivation_outputs },
	{ OP_QUERY_ALL_VALID_PATHS, "QueryAllValidPaths", op_query_all_valid_paths },
	{ OP_QUERY_PATH_INFO, "QueryPathInfo", op_query_path_info },
	{ OP_IMPORT_PATHS, "ImportPaths", op_import_paths },
	{ OP_QUERY_DERIVATION_OUTPUT_NAMES, "QueryDerivationOutputNames",
	  op_query_derivation_output_names },
	{ OP_QUERY_PATH_FROM_HASH_PART, "QueryPathFromHashPart", op_query_path_from_hash_part },
	{ OP_QUERY_SUBSTITUTABLE_PATH_INFOS, "QuerySubstitutablePathInfos",
	  op_query_substitutable_path_infos },
	{ OP_QUERY_VALID_PATHS, "QueryValidPaths", op_query_valid_paths },
	{ OP_QUERY_SUBSTITUTABLE_PATHS, "QuerySubstitutablePaths", op_query_substitutable_paths },
	{ OP_QUERY_VALID_DERIVERS, "QueryValidDerivers", op_query_valid_derivers },
	{ OP_OPTIMISE_STORE, "OptimiseStore", op_optimise_store },
	{ OP_VERIFY_STORE, "VerifyStore", op_verify_store },
	{ OP_BUILD_DERIVATION, "BuildDerivation", op_build_derivation },
	{ OP_ADD_SIGNATURES, "AddSignatures", op_add_signatures },
	{ OP_NAR_FROM_PATH, "NarFromPath", op_nar_from_path },
	{ OP_ADD_TO_STORE_NAR, "AddToStoreNar", op_add_to_store_nar },
	{ OP_QUERY_MISSING, "QueryMissing", op_query_missing },
	{ OP_QUERY_DERIVATION_OUTPUT_MAP, "QueryDerivationOutputMap",
	  op_query_derivation_output_map },
	{ OP_REGISTER_DRV_OUTPUT, "RegisterDrvOutput", op_register_drv_output },
	{ OP_QUERY_REALISATION, "QueryRealisation", op_query_realisation },
	{ OP_ADD_MULTIPLE_TO_STORE, "AddMultipleToStore", op_add_multiple_to_store },
	{ OP_ADD_BUILD_LOG, "AddBuildLog", op_add_build_log },
	{ OP_BUILD_PATHS_WITH_RESULTS, "BuildPathsWithResults", op_build_paths_with_results },
	{ OP_ADD_PERM_ROOT, "AddPermRoot", op_add_perm_root },
	{ OP_ADD_TEMP_ROOTS, "AddTempRoots", op_add_temp_roots },
};

const struct op *op_find(uint64_t number)
{
	for (size_t i = 0; i < ELEMENTS(ops); i++)
		if (ops[i].number == number)
			return &ops[i];
	return NULL;
}
