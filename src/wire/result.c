/* Build results: see result.h. */
#include "wire/result.h"

#include <errno.h>
#include <stdio.h>

/* A client uses the output's name and path. The hash in the id is one that nothing has: upstream
 * from 2.35 on sends zeros, too. */
#define NO_HASH "sha256:0000000000000000000000000000000000000000000000000000000000000000"

/* Names of outputs and store paths hold no character that JSON would quote. */
static void put_output(struct wire_out *out, const struct wire_built_output *o)
{
	char id[sizeof(NO_HASH) + 1 + STORE_NAME_MAX], json[1024];

	int n = snprintf(id, sizeof(id), NO_HASH "!%s", o->name);
	int m = snprintf(json, sizeof(json),
			 "{\"dependentRealisations\":{},\"id\":\"%s\",\"outPath\":\"%s\","
			 "\"signatures\":[]}",
			 id, o->path);
	if (n < 0 || (size_t)n >= sizeof(id) || m < 0 || (size_t)m >= sizeof(json)) {
		out->rc = out->rc ?: -EOVERFLOW;
		return;
	}
	wire_put_str(out, id);
	wire_put_str(out, json);
}

static void put_cpu(struct wire_out *out, bool known, uint64_t usec)
{
	wire_put_u64(out, known);
	if (known)
		wire_put_u64(out, usec);
}

void wire_put_build_result(struct wire_out *out, unsigned version,
			   const struct wire_build_result *r)
{
	wire_put_u64(out, r->status);
	wire_put_str(out, r->error);
	if (wire_gate(version, GATE_RESULT_TIMES)) {
		wire_put_u64(out, r->times_built);
		wire_put_u64(out, r->non_deterministic);
		wire_put_u64(out, r->start_time);
		wire_put_u64(out, r->stop_time);
	}
	if (wire_gate(version, GATE_RESULT_CPU)) {
		put_cpu(out, r->cpu_known, r->cpu_user_usec);
		put_cpu(out, r->cpu_known, r->cpu_system_usec);
	}
	if (wire_gate(version, GATE_RESULT_OUTPUTS)) {
		wire_put_u64(out, r->n_outputs);
		for (size_t i = 0; i < r->n_outputs; i++)
			put_output(out, &r->outputs[i]);
	}
}
