/* The greeting: see handshake.h. */
#include "wire/handshake.h"

#include "wire/limits.h"

/* Both sides tell their features; what both have counts. */
static int exchange_features(struct wire_in *in, struct wire_out *out, struct arena *a,
			     unsigned *ret)
{
	struct strv theirs = {};

	int r = wire_strv(in, a, WIRE_FEATURES_MAX, WIRE_NAME_MAX, &theirs);
	if (r)
		return r;
	wire_put_u64(out, n_wire_features);
	for (size_t i = 0; i < n_wire_features; i++) {
		wire_put_str(out, wire_features[i].name);
		if (strv_has(&theirs, wire_features[i].name))
			*ret |= wire_features[i].bit;
	}
	return 0;
}

static int negotiate(struct wire_in *in, struct wire_out *out, unsigned *ret_version)
{
	uint64_t magic, version;

	int r = wire_u64(in, &magic);
	if (r)
		return r;
	if (magic != WIRE_MAGIC_CLIENT)
		return err_set(in->e, WIRE_BAD, "protocol mismatch");
	/* Clients up to 2.20 wait for the answer before they go on. */
	wire_put_u64(out, WIRE_MAGIC_SERVER);
	wire_put_u64(out, WIRE_VERSION);
	r = wire_number(in, UINT32_MAX, &version);
	if (r)
		return r;
	*ret_version = version < WIRE_VERSION ? (unsigned)version : WIRE_VERSION;
	return 0;
}

int wire_handshake(struct wire_in *in, struct wire_out *out, struct arena *a,
		   const struct wire_hello *hello, unsigned *ret_version, unsigned *ret_features)
{
	uint64_t v;

	*ret_features = 0;

	int r = negotiate(in, out, ret_version);
	if (!r && *ret_version < WIRE_VERSION_MIN)
		return err_set(in->e, WIRE_BAD, "the Nix client version is too old");
	if (!r && wire_gate(*ret_version, GATE_FEATURES))
		r = exchange_features(in, out, a, ret_features);
	if (!r)
		r = wire_u64(in, &v); /* obsolete: processor affinity, then its number */
	if (!r && v)
		r = wire_u64(in, &v);
	if (!r)
		r = wire_u64(in, &v); /* obsolete: reserve space */
	if (r)
		return r;
	if (wire_gate(*ret_version, GATE_VERSION_STRING))
		wire_put_str(out, hello->daemon_version);
	if (wire_gate(*ret_version, GATE_TRUST))
		wire_put_u64(out, hello->trusted ? 1 : 2);
	return out->rc;
}
