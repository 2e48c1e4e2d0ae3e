/* Numbers of Nix's worker protocol: versions, frames, operations, log kinds.
 *
 * features.md 1.2 to 1.6 is the source; one table says which version changed what. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WIRE_VERSION = 1 << 8 | 38, WIRE_VERSION_MIN = 1 << 8 | 18 };

#define WIRE_MAGIC_CLIENT 0x6e697863u
#define WIRE_MAGIC_SERVER 0x6478696fu
#define WIRE_MAGIC_EXPORT 0x4558494eu

/* What a peer's version decides. The rows are in gates.c. */
enum wire_gate {
	GATE_ACTIVITIES,       /* START, STOP, RESULT frames */
	GATE_NAR_READ,	       /* op 39 pulls its NAR with READ frames */
	GATE_SUBSTITUTABLE_CA, /* op 30 takes a map of path to content address */
	GATE_NAR_FRAMED,       /* op 39 takes a framed NAR */
	GATE_ADD_FRAMED,       /* op 7 takes a method and a framed dump */
	GATE_ERROR_STRUCT,     /* ERROR frames are structured */
	GATE_VALID_SUBSTITUTE, /* op 31 has a substitute flag */
	GATE_RESULT_OUTPUTS,   /* build results carry outputs */
	GATE_RESULT_TIMES,     /* build results carry times */
	GATE_DERIVED_PATH,     /* a bare .drv target means the file itself */
	GATE_REALISATION_JSON, /* realisations are JSON texts */
	GATE_VERSION_STRING,   /* the handshake names the daemon's version */
	GATE_TRUST,	       /* the handshake tells whether the client is trusted */
	GATE_RESULT_CPU,       /* build results carry processor times */
	GATE_FEATURES,	       /* the handshake exchanges features */
	N_WIRE_GATES,
};
/* `version` is major << 8 | minor, as negotiated. */
bool wire_gate(unsigned version, enum wire_gate gate);

/* What both sides can do beyond the version. The rows are in gates.c. */
enum wire_feature {
	WIRE_FEATURE_DELETE_REFERRERS = 1, /* op 20 says whether the whole store is meant */
	WIRE_FEATURE_REALISATION_PATH = 2, /* realisations name a derivation, not its hash */
	WIRE_FEATURE_TEMP_ROOTS = 4,	   /* op 49 */
};
struct wire_feature_name {
	const char *name;
	enum wire_feature bit;
};
extern const struct wire_feature_name wire_features[];
extern const size_t n_wire_features;

enum wire_frame {
	FRAME_NEXT = 0x6f6c6d67,
	FRAME_READ = 0x64617461,
	FRAME_WRITE = 0x64617416,
	FRAME_LAST = 0x616c7473,
	FRAME_ERROR = 0x63787470,
	FRAME_START_ACTIVITY = 0x53545254,
	FRAME_STOP_ACTIVITY = 0x53544f50,
	FRAME_RESULT = 0x52534c54,
};

enum wire_level {
	LVL_ERROR,
	LVL_WARN,
	LVL_NOTICE,
	LVL_INFO,
	LVL_TALKATIVE,
	LVL_CHATTY,
	LVL_DEBUG,
	LVL_VOMIT
};

enum wire_activity {
	ACT_UNKNOWN = 0,
	ACT_COPY_PATH = 100,
	ACT_FILE_TRANSFER = 101,
	ACT_REALISE = 102,
	ACT_COPY_PATHS = 103,
	ACT_BUILDS = 104,
	ACT_BUILD = 105,
	ACT_OPTIMISE_STORE = 106,
	ACT_POST_BUILD_HOOK = 110,
};

enum wire_result_type {
	RES_BUILD_LOG_LINE = 101,
	RES_SET_PHASE = 104,
	RES_PROGRESS = 105,
	RES_SET_EXPECTED = 106,
	RES_POST_BUILD_LOG_LINE = 107,
};

enum wire_op {
	OP_IS_VALID_PATH = 1,
	OP_HAS_SUBSTITUTES = 3,
	OP_QUERY_PATH_HASH = 4,
	OP_QUERY_REFERENCES = 5,
	OP_QUERY_REFERRERS = 6,
	OP_ADD_TO_STORE = 7,
	OP_ADD_TEXT_TO_STORE = 8,
	OP_BUILD_PATHS = 9,
	OP_ENSURE_PATH = 10,
	OP_ADD_TEMP_ROOT = 11,
	OP_ADD_INDIRECT_ROOT = 12,
	OP_SYNC_WITH_GC = 13,
	OP_FIND_ROOTS = 14,
	OP_EXPORT_PATH = 16,
	OP_QUERY_DERIVER = 18,
	OP_SET_OPTIONS = 19,
	OP_COLLECT_GARBAGE = 20,
	OP_QUERY_SUBSTITUTABLE_PATH_INFO = 21,
	OP_QUERY_DERIVATION_OUTPUTS = 22,
	OP_QUERY_ALL_VALID_PATHS = 23,
	OP_QUERY_PATH_INFO = 26,
	OP_IMPORT_PATHS = 27,
	OP_QUERY_DERIVATION_OUTPUT_NAMES = 28,
	OP_QUERY_PATH_FROM_HASH_PART = 29,
	OP_QUERY_SUBSTITUTABLE_PATH_INFOS = 30,
	OP_QUERY_VALID_PATHS = 31,
	OP_QUERY_SUBSTITUTABLE_PATHS = 32,
	OP_QUERY_VALID_DERIVERS = 33,
	OP_OPTIMISE_STORE = 34,
	OP_VERIFY_STORE = 35,
	OP_BUILD_DERIVATION = 36,
	OP_ADD_SIGNATURES = 37,
	OP_NAR_FROM_PATH = 38,
	OP_ADD_TO_STORE_NAR = 39,
	OP_QUERY_MISSING = 40,
	OP_QUERY_DERIVATION_OUTPUT_MAP = 41,
	OP_REGISTER_DRV_OUTPUT = 42,
	OP_QUERY_REALISATION = 43,
	OP_ADD_MULTIPLE_TO_STORE = 44,
	OP_ADD_BUILD_LOG = 45,
	OP_BUILD_PATHS_WITH_RESULTS = 46,
	OP_ADD_PERM_ROOT = 47,
	OP_ADD_TEMP_ROOTS = 49,
};
