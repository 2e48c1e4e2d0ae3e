/* Which version of the protocol brought what. Pure. */
#include "wire/proto.h"

#include "base/macro.h"

static const uint8_t since_minor[N_WIRE_GATES] = {
	[GATE_ACTIVITIES] = 20,	      [GATE_NAR_READ] = 21,	  [GATE_SUBSTITUTABLE_CA] = 22,
	[GATE_NAR_FRAMED] = 23,	      [GATE_ADD_FRAMED] = 25,	  [GATE_ERROR_STRUCT] = 26,
	[GATE_VALID_SUBSTITUTE] = 27, [GATE_RESULT_OUTPUTS] = 28, [GATE_RESULT_TIMES] = 29,
	[GATE_DERIVED_PATH] = 30,     [GATE_VERSION_STRING] = 33, [GATE_TRUST] = 35,
	[GATE_RESULT_CPU] = 37,	      [GATE_FEATURES] = 38,	  [GATE_REALISATION_JSON] = 31,
};

bool wire_gate(unsigned version, enum wire_gate gate)
{
	return version >= (1u << 8 | since_minor[gate]);
}

/* The first two are upstream's since 2.35, the third is Determinate's. What only the socket inside
 * of a build offers (disable-set-options and its like) is not offered here: clients would then
 * send no options. */
const struct wire_feature_name wire_features[] = {
	{ "delete-dead-specific-referrers", WIRE_FEATURE_DELETE_REFERRERS },
	{ "realisation-with-path-not-hash", WIRE_FEATURE_REALISATION_PATH },
	{ "addTempRoots", WIRE_FEATURE_TEMP_ROOTS },
};
const size_t n_wire_features = ELEMENTS(wire_features);
