/* What a server may say while an operation runs: log lines, activities, the end or an error.
 *
 *   frame = NEXT string / READ u64 / WRITE string / LAST / ERROR error / START activity
 *         / STOP id / RESULT id type fields
 * Pure. Source: features.md 1.4. */
#pragma once

#include "wire/proto.h"
#include "wire/writer.h"

struct wire_field {
	bool is_str;
	uint64_t num;
	const char *str;
};

struct wire_start {
	uint64_t id, level, type, parent;
	const char *text;
	const struct wire_field *fields;
	size_t n_fields;
};

void wire_put_last(struct wire_out *out);
/* A log line; a newline is put behind it. */
void wire_put_next(struct wire_out *out, const char *line);
void wire_put_error(struct wire_out *out, unsigned version, enum wire_level level,
		    const char *sentence);
/* These three need GATE_ACTIVITIES; START is a NEXT with "..." before it, the others nothing. */
void wire_put_start(struct wire_out *out, unsigned version, const struct wire_start *s);
void wire_put_stop(struct wire_out *out, unsigned version, uint64_t id);
void wire_put_result(struct wire_out *out, unsigned version, uint64_t id, uint64_t type,
		     const struct wire_field *fields, size_t n);
