/* The greeting, step by step (features.md 1.3). Pure: `out` is flushed through its own callback. */
#pragma once

#include "wire/proto.h"
#include "wire/reader.h"
#include "wire/writer.h"

struct wire_hello {
	const char *daemon_version;
	bool trusted;
};

/* Reads and answers up to the point where start-up errors may be told. `ret_version` is the lower
 * of the two versions, `ret_features` has the bits (enum wire_feature) that both know. WIRE_BAD with a sentence for a peer that is none or too old. */
int wire_handshake(struct wire_in *in, struct wire_out *out, struct arena *a,
		   const struct wire_hello *hello, unsigned *ret_version, unsigned *ret_features);
