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
