/* Frames of the answer stream: see frames.h. */
#include "wire/frames.h"

void wire_put_last(struct wire_out *out)
{
	wire_put_u64(out, FRAME_LAST);
}

static void put_line(struct wire_out *out, const char *line, const char *tail)
{
	static const uint8_t zero[8];
	size_t a = strlen(line), b = strlen(tail);

	wire_put_u64(out, a + b);
	wire_put_raw(out, line, a);
	wire_put_raw(out, tail, b);
	if ((a + b) % 8)
		wire_put_raw(out, zero, 8 - (a + b) % 8);
}

void wire_put_next(struct wire_out *out, const char *line)
{
	wire_put_u64(out, FRAME_NEXT);
	put_line(out, line, "\n");
}

void wire_put_error(struct wire_out *out, unsigned version, enum wire_level level,
		    const char *sentence)
{
	wire_put_u64(out, FRAME_ERROR);
	if (!wire_gate(version, GATE_ERROR_STRUCT)) {
		wire_put_str(out, sentence);
		wire_put_u64(out, 1); /* exit status */
		return;
	}
	wire_put_str(out, "Error");
	wire_put_u64(out, level);
	wire_put_str(out, "Error");
	wire_put_str(out, sentence);
	wire_put_u64(out, 0); /* no position: clients abort on anything else */
	wire_put_u64(out, 0); /* traces */
}

static void put_fields(struct wire_out *out, const struct wire_field *fields, size_t n)
{
	wire_put_u64(out, n);
	for (size_t i = 0; i < n; i++) {
		wire_put_u64(out, fields[i].is_str);
		if (fields[i].is_str)
			wire_put_str(out, fields[i].str);
		else
			wire_put_u64(out, fields[i].num);
	}
}

void wire_put_start(struct wire_out *out, unsigned version, const struct wire_start *s)
{
	if (!wire_gate(version, GATE_ACTIVITIES)) {
		if (!*s->text)
			return;
		wire_put_u64(out, FRAME_NEXT);
		put_line(out, s->text, "...\n");
		return;
	}
	wire_put_u64(out, FRAME_START_ACTIVITY);
	wire_put_u64(out, s->id);
	wire_put_u64(out, s->level);
	wire_put_u64(out, s->type);
	wire_put_str(out, s->text);
	put_fields(out, s->fields, s->n_fields);
	wire_put_u64(out, s->parent);
}

void wire_put_stop(struct wire_out *out, unsigned version, uint64_t id)
{
	if (!wire_gate(version, GATE_ACTIVITIES))
		return;
	wire_put_u64(out, FRAME_STOP_ACTIVITY);
	wire_put_u64(out, id);
}

void wire_put_result(struct wire_out *out, unsigned version, uint64_t id, uint64_t type,
		     const struct wire_field *fields, size_t n)
{
	if (!wire_gate(version, GATE_ACTIVITIES))
		return;
	wire_put_u64(out, FRAME_RESULT);
	wire_put_u64(out, id);
	wire_put_u64(out, type);
	put_fields(out, fields, n);
}
