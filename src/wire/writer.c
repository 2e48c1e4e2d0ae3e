/* The writer: see writer.h. */
#include "wire/writer.h"

void wire_put_raw(struct wire_out *out, const void *data, size_t len)
{
	if (out->rc < 0)
		return;
	/* Nearly always there is room: answers are many short pieces. */
	if (len && len <= out->b.cap - out->b.len && len <= out->b.max - out->b.len) {
		memcpy(out->b.data + out->b.len, data, len);
		out->b.len += len;
	} else {
		out->rc = buf_append(&out->b, data, len);
	}
	if (out->rc == 0 && out->flush && out->b.len >= WIRE_OUT_HIGH)
		out->rc = out->flush(out);
}

void wire_put_u64(struct wire_out *out, uint64_t v)
{
	uint8_t b[8];

	for (int i = 0; i < 8; i++)
		b[i] = (uint8_t)(v >> 8 * i);
	wire_put_raw(out, b, sizeof(b));
}

static void put_padding(struct wire_out *out, size_t len)
{
	static const uint8_t zero[8];

	if (len % 8)
		wire_put_raw(out, zero, 8 - len % 8);
}

void wire_put_blob(struct wire_out *out, const void *data, size_t len)
{
	wire_put_u64(out, len);
	wire_put_raw(out, data, len);
	put_padding(out, len);
}

void wire_put_str(struct wire_out *out, const char *s)
{
	wire_put_blob(out, s, strlen(s));
}

void wire_put_strv(struct wire_out *out, const struct strv *list)
{
	wire_put_u64(out, list->n);
	for (size_t i = 0; i < list->n; i++)
		wire_put_str(out, list->v[i]);
}

void wire_put_path(struct wire_out *out, const char *base)
{
	if (!base || !*base) {
		wire_put_u64(out, 0);
		return;
	}
	size_t dir = strlen(out->store_dir), len = strlen(base);
	wire_put_u64(out, dir + 1 + len);
	wire_put_raw(out, out->store_dir, dir);
	wire_put_raw(out, "/", 1);
	wire_put_raw(out, base, len);
	put_padding(out, dir + 1 + len);
}

void wire_put_paths(struct wire_out *out, const struct strv *bases)
{
	wire_put_u64(out, bases->n);
	for (size_t i = 0; i < bases->n; i++)
		wire_put_path(out, bases->v[i]);
}
