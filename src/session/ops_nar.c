/* NARs with path info in (AddToStoreNar, AddMultipleToStore), and NARs out (NarFromPath). */
#include "base/fd.h"
#include "nar/tree.h"
#include "session/import.h"
#include "session/ops.h"
#include "session/spool.h"

static int get_flags(struct session *s, struct batch *b)
{
	int r = wire_bool(&s->in, &b->repair);

	return r ?: wire_bool(&s->in, &b->dont_check_sigs);
}

/* Before 1.21 the NAR follows as it is, and an error before its end closes the connection. */
static struct wire_in *nar_stream(struct session *s)
{
	if (wire_gate(s->version, GATE_NAR_FRAMED))
		return framed_open(s, false);
	return wire_gate(s->version, GATE_NAR_READ) ? framed_open(s, true) : &s->in;
}

static int add_nar(struct session *s, struct batch *b, struct err *e)
{
	struct wire_info info = {};

	int r = wire_path(&s->in, s->client.store_dir, &b->arena, &info.path);
	if (!r)
		r = wire_get_info(&s->in, s->client.store_dir, &b->arena, &info);
	if (!r)
		r = get_flags(s, b);
	if (r)
		return r;
	if (!s->client.trusted)
		info.ultimate = false;
	r = batch_take(s, b, nar_stream(s), &info, e);
	if (!r && s->framed)
		r = framed_close(s);
	if (!r)
		request_read(s);
	return r ?: batch_finish(s, b, e);
}

int op_add_to_store_nar(struct session *s, struct err *e)
{
	struct batch b;

	int r = batch_init(&b);
	if (!r)
		r = add_nar(s, &b, e);
	batch_done(s, &b);
	if (!r)
		answer_begin(s);
	return r;
}

static int add_one_of_many(struct session *s, struct batch *b, struct wire_in *in, struct err *e)
{
	struct wire_info info = {};

	int r = wire_path(in, s->client.store_dir, &b->arena, &info.path);
	if (!r)
		r = wire_get_info(in, s->client.store_dir, &b->arena, &info);
	if (r)
		return r;
	info.ultimate = false; /* upstream never takes it from here */
	return batch_take(s, b, in, &info, e);
}

static int add_multiple(struct session *s, struct batch *b, struct err *e)
{
	uint64_t n;

	int r = get_flags(s, b);
	if (r)
		return r;
	struct wire_in *in = framed_open(s, false);
	r = wire_u64(in, &n);
	for (uint64_t i = 0; !r && i < n && !s->batch_error; i++)
		r = add_one_of_many(s, b, in, e);
	if (!r)
		r = framed_close(s);
	return r ?: batch_finish(s, b, e);
}

int op_add_multiple_to_store(struct session *s, struct err *e)
{
	struct batch b;

	int r = batch_init(&b);
	if (!r)
		r = add_multiple(s, &b, e);
	batch_done(s, &b);
	if (!r)
		answer_begin(s);
	return r;
}

static int put_nar(void *ctx, const uint8_t *data, size_t len)
{
	struct wire_out *out = ctx;

	wire_put_raw(out, data, len);
	return out->rc;
}

int op_nar_from_path(struct session *s, struct err *e)
{
	struct store_path p;

	int r = wire_path(&s->in, s->client.store_dir, &s->arena, &p);
	if (r)
		return r;
	request_read(s);
	r = store_valid(s, &p, e);
	if (r == DB_ABSENT && s->client.restricted)
		return err_set(e, OP_FAILED, "cannot dump unknown path '%s/%s' in recursive Nix",
			       s->client.store_dir, p.base);
	if (r)
		return r == DB_ABSENT ? store_not_valid(s, &p, e) : r;
	store_release(s); /* a dump may take long */
	answer_begin(s);
	/* The NAR has no length: after its first byte an error can only be told by closing. */
	return tree_dump(s->store, p.base, put_nar, &s->out, e) ? WIRE_EOF : 0;
}
