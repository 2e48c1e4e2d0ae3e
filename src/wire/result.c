/* Build results: see result.h. */
#include "wire/result.h"

#include <errno.h>
#include <stdio.h>

#include "hash/hash.h"

/* A client uses the output's name and path. Where nothing else is known the hash in the id is one
 * that nothing has: upstream from 2.35 on sends zeros, too. */
static const uint8_t no_hash[32];

/* Names of outputs and store paths hold no character that JSON would quote. */
static void put_output(struct wire_out *out, const uint8_t hash[32],
		       const struct wire_built_output *o)
{
	char id[sizeof("sha256:!") + 64 + STORE_NAME_MAX], json[1024], hex[64 + 1];

	base16_encode(hash, 32, hex);
	int n = snprintf(id, sizeof(id), "sha256:%s!%s", hex, o->name);
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

/* Name, path and an empty set of signatures. */
static void put_plain_output(struct wire_out *out, const struct wire_built_output *o)
{
	wire_put_str(out, o->name);
	wire_put_path(out, o->path);
	wire_put_u64(out, 0);
}

static void put_cpu(struct wire_out *out, bool known, uint64_t usec)
{
	wire_put_u64(out, known);
	if (known)
		wire_put_u64(out, usec);
}

void wire_put_build_result(struct wire_out *out, unsigned version, unsigned features,
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
	if (!wire_gate(version, GATE_RESULT_OUTPUTS))
		return;
	wire_put_u64(out, r->n_outputs);
	for (size_t i = 0; i < r->n_outputs; i++)
		if (features & WIRE_FEATURE_REALISATION_PATH)
			put_plain_output(out, &r->outputs[i]);
		else
			put_output(out, r->drv_hash ? r->drv_hash : no_hash, &r->outputs[i]);
}
