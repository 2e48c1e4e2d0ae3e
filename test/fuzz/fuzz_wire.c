/* libFuzzer: the worker protocol's codec on any bytes, in pieces of any size. */
#include <stddef.h>
#include <stdint.h>

#include "wire/derived.h"
#include "wire/frames.h"
#include "wire/handshake.h"
#include "wire/info.h"
#include "wire/limits.h"
#include "wire/logline.h"

struct source {
	const uint8_t *data;
	size_t len, at, step;
};

static int more(struct wire_in *in)
{
	struct source *s = in->ctx;
	size_t n = s->len - s->at < s->step ? s->len - s->at : s->step;

	if (n == 0)
		return WIRE_EOF;
	in->p = s->data + s->at;
	in->end = in->p + n;
	s->at += n;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct wire_hello hello = { .daemon_version = "1", .trusted = false };
	struct wire_out out = { .b = BUF_INIT(1 << 20), .store_dir = "/nix/store" };
	struct arena a = ARENA_INIT(1 << 20);
	struct err e = {};
	struct log_message m;
	struct derived_paths paths;
	struct wire_info info = {};
	struct wire_framed f;
	unsigned version = WIRE_VERSION, features;

	if (len < 2)
		return 0;
	struct source s = { .data = data + 2, .len = len - 2, .step = 1 + data[1] };
	struct wire_in in = { .more = more, .ctx = &s, .e = &e };
	wire_framed_init(&f, &in);
	switch (data[0] % 6) {
	case 0:
		(void)wire_handshake(&in, &out, &a, &hello, &version, &features);
		break;
	case 1:
		if (wire_get_info(&in, "/nix/store", &a, &info) == 0)
			wire_put_info(&out, &info);
		break;
	case 2:
		(void)wire_derived_paths(&in, "/nix/store", 1 << 8 | data[1] % 40, &a, &paths);
		break;
	case 3:
		if (wire_get_info(&f.in, "/nix/store", &a, &info) == 0)
			(void)wire_framed_end(&f, 1000);
		break;
	case 4:
		while (wire_skip_str(&in) == 0)
			;
		break;
	default:
		(void)log_message_parse((const char *)s.data, s.len, &a, &m);
	}
	arena_done(&a);
	buf_done(&out.b);
	err_done(&e);
	return 0;
}
