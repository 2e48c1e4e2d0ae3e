/* The greeting, step by step (features.md 1.3). Pure: `out` is flushed through its own callback. */
#pragma once

#include "wire/proto.h"
#include "wire/reader.h"
#include "wire/writer.h"

struct wire_hello {
	const char *daemon_version;
	bool trusted;
};

/* What both sides can do beyond the version (upstream's names are in handshake.c). */
enum wire_features { WIRE_FEATURE_DELETE_REFERRERS = 1 };

/* Reads and answers up to the point where start-up errors may be told. `ret_version` is the lower
 * of the two versions. WIRE_BAD with a sentence for a peer that is none or too old. */
int wire_handshake(struct wire_in *in, struct wire_out *out, struct arena *a,
		   const struct wire_hello *hello, unsigned *ret_version, unsigned *ret_features);
