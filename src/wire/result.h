/* Build results as ops 36 and 46 carry them (features.md 1.2). Pure. */
#pragma once

#include "wire/proto.h"
#include "wire/writer.h"

struct wire_built_output {
	const char *name, *path; /* path: base name */
};
struct wire_build_result {
	uint64_t status;
	const char *error;
	uint64_t times_built, start_time, stop_time;
	bool non_deterministic, cpu_known;
	uint64_t cpu_user_usec, cpu_system_usec;
	const struct wire_built_output *outputs;
	size_t n_outputs;
	const uint8_t *drv_hash; /* 32 bytes, or NULL: zeros are sent */
};
void wire_put_build_result(struct wire_out *out, unsigned version, unsigned features,
			   const struct wire_build_result *r);
