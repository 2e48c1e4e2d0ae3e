/* Fuzz target (libFuzzer): whatever parses must print to a text that parses to the same, and the
 * check must give an answer. Seeds: test/data/golden/drv and test/data/must-fail/drv. */
#include <stdio.h>
#include <string.h>

#include "drv/drv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int answer(void *ctx, const char *drv_path, struct drv_hash *ret, struct err *e)
{
	size_t *n = ctx;

	if (drv_path[11] == 'z')
		return err_set(e, DRV_BAD, "no such derivation");
	/* Few different answers, so that inputs coincide. */
	*ret = (struct drv_hash){ .bytes = { (uint8_t)((*n)++ % 3) } };
	return 0;
}

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "broken: %s\n", what);
	abort();
}

static void print(const struct drv *d, struct buf *b)
{
	require(drv_print(d, b) == 0, "what was parsed cannot be printed");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(64 << 20), a2 = ARENA_INIT(64 << 20);
	_cleanup_buf_ struct buf once = BUF_INIT(64 << 20), twice = BUF_INIT(64 << 20);
	_cleanup_err_ struct err e = {};
	struct store_path path;
	struct drv_hash hash;
	struct drv d, again;
	size_t n = 0;

	store_path_parse_base("6zr7yypsjvxf0qvf0d3g0y2r0p6dprch-simple-1.0.drv", &path, NULL);
	if (drv_parse("/nix/store", &path, (const char *)data, size, &a, &d, &e)) {
		require(e.msg && e.code == DRV_BAD, "a refusal without a sentence");
		return 0;
	}
	print(&d, &once);
	require(drv_parse("/nix/store", &path, (const char *)once.data, once.len, &a2, &again,
			  &e) == 0,
		"what was printed does not parse");
	print(&again, &twice);
	require(once.len == twice.len && !memcmp(once.data, twice.data, once.len),
		"the second printing differs");
	require(d.kind == again.kind && d.outputs.n == again.outputs.n && d.env.n == again.env.n &&
			d.inputs.n == again.inputs.n,
		"the second parsing differs");
	for (size_t i = 0; i < d.env.n; i++)
		require(!strcmp(d.env.v[i].value, again.env.v[i].value), "a value changed");
	(void)drv_check("/nix/store", &d, answer, &n, &hash, &e); /* either answer is right */
	return 0;
}
