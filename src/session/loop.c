/* Greets the client and serves its requests in order until it leaves. */
#include <errno.h>

#include "base/log.h"
#include "session/nest.h"
#include "session/ops.h"
#include "wire/handshake.h"

/* The last words of a connection; whether they arrive no longer matters. */
static int close_with(struct session *s, const struct err *e)
{
	if (pending_settle(s) == 0) {
		wire_put_error(&s->out, s->version, LVL_ERROR, err_msg(e));
		(void)conn_flush(s);
	}
	return 0;
}

/* Ends a connection that cannot go on. 0 when that was to be expected of a client. */
static int hang_up(struct session *s, int r, const struct err *e)
{
	if (r == WIRE_EOF || r == -EPIPE || r == -ECONNRESET) {
		(void)conn_flush(s);
		return 0;
	}
	if (r < 0 && e->code == 0) {
		_cleanup_err_ struct err own = {};
		(void)err_errno(&own, r, "the session cannot go on");
		return close_with(s, &own);
	}
	return close_with(s, e);
}

/* Asks the client for more of its stream. */
static int ask(struct wire_framed *f, size_t len)
{
	struct session *s = f->ask_ctx;

	wire_put_u64(&s->out, FRAME_READ);
	wire_put_u64(&s->out, len);
	return conn_flush(s);
}

struct wire_in *framed_open(struct session *s, bool pulled)
{
	if (pulled)
		wire_pulled_init(&s->frame, &s->in, ask, s);
	else
		wire_framed_init(&s->frame, &s->in);
	s->framed = &s->frame;
	request_read(s);
	return &s->frame.in;
}

int framed_close(struct session *s)
{
	struct wire_framed *f = TAKE_PTR(s->framed);

	return wire_framed_end(f, DRAIN_MAX);
}

/* A request failed. Where its input is read to the end the client hears why and may go on. */
static int answer_failure(struct session *s, struct err *e)
{
	if (s->framed) {
		/* Only then, as upstream: a client that hears of it earlier stops in mid-stream. */
		int r = framed_close(s);
		if (r)
			return r == WIRE_BAD ? hang_up(s, r, e) ?: WIRE_EOF : r;
	}
	wire_put_error(&s->out, s->version, LVL_ERROR, err_msg(e));
	return s->out.rc < 0 ? s->out.rc : 0;
}

static int serve_op(struct session *s, uint64_t number, struct err *e)
{
	const struct op *op = op_find(number);
	bool add = number == OP_ADD_TO_STORE || number == OP_ADD_TEXT_TO_STORE;

	if (!op)
		return err_set(e, WIRE_BAD, "invalid operation %llu", (unsigned long long)number);
	/* Everything but a further add must see what was added before. */
	if (!add) {
		int r = pending_settle(s);
		if (r)
			return r;
	}
	return s->client.restricted ? nest_run(s, op, e) : op->run(s, e);
}

/* One request. 0: go on. */
static int serve_one(struct session *s, struct err *e)
{
	uint64_t number;

	int r = conn_wait(s);
	if (!r)
		r = wire_u64(&s->in, &number);
	if (r)
		return r;
	s->consumed = false;
	s->framed = NULL;
	s->in.e = e;
	r = serve_op(s, number, e);
	/* Nonsense inside an intact frame leaves the connection in step. */
	if (r == WIRE_BAD && s->framed)
		r = OP_FAILED;
	if (r == 0)
		r = s->out.rc;
	else if (r != WIRE_EOF && r != WIRE_BAD && r != -EPIPE && s->consumed) {
		if (r < 0 && e->code == 0)
			(void)err_errno(e, r, "the operation failed");
		int p = pending_settle(s);
		r = p ?: answer_failure(s, e);
	}
	free(TAKE_PTR(s->batch_error));
	arena_done(&s->arena);
	s->arena = ARENA_INIT(WIRE_REQUEST_MAX);
	return r;
}

static int greet(struct session *s, struct err *e)
{
	struct wire_hello hello = {
		.daemon_version = s->client.daemon_version,
		.trusted = s->client.trusted != 0,
	};

	s->in.e = e;
	int r = wire_handshake(&s->in, &s->out, &s->arena, &hello, &s->version,
			       &s->features);
	if (!r)
		wire_put_last(&s->out);
	return r;
}

int session_run(struct session *s)
{
	_cleanup_err_ struct err e = {};

	s->out.store_dir = s->client.store_dir;
	conn_begin(s);
	s->version = WIRE_VERSION; /* for errors before both have spoken */
	int r = greet(s, &e);
	while (r == 0) {
		err_done(&e);
		r = serve_one(s, &e);
	}
	return hang_up(s, r, &e);
}
