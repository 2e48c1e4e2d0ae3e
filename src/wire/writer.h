/* The writer of the worker protocol. Errors stick: write all of an answer, then look once. Pure;
 * linked by the session. */
#pragma once

#include "base/buf.h"
#include "base/strv.h"
#include "path/path.h"

enum { WIRE_OUT_HIGH = 64 * 1024 }; /* from here on `flush` is called */

struct wire_out {
	struct buf b;
	int rc; /* the first failure, negative errno */
	/* Makes room by sending what is there; NULL: everything stays in `b`. */
	int (*flush)(struct wire_out *out);
	void *ctx;
	const char *store_dir;
};

void wire_put_raw(struct wire_out *out, const void *data, size_t len);
void wire_put_u64(struct wire_out *out, uint64_t v);
void wire_put_blob(struct wire_out *out, const void *data, size_t len);
void wire_put_str(struct wire_out *out, const char *s);
void wire_put_strv(struct wire_out *out, const struct strv *list);
/* Full paths out of base names. "" or NULL stays "". */
void wire_put_path(struct wire_out *out, const char *base);
void wire_put_paths(struct wire_out *out, const struct strv *bases);
