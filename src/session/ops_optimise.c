/* OptimiseStore: the core has it done; here its progress becomes the client's. */
#include <errno.h>
#include <poll.h>

#include "base/fd.h"
#include "session/ops.h"

struct optimise {
	uint32_t id;
	uint64_t activity;
	struct session_done end;
	bool ended;
};

static void put_progress(struct session *s, const struct optimise *o,
			 const struct session_progress *p)
{
	const struct wire_field fields[] = { { .num = p->done }, { .num = p->expected }, {}, {} };

	wire_put_result(&s->out, s->version, o->activity, RES_PROGRESS, fields, ELEMENTS(fields));
}

static int handle(struct session *s, struct optimise *o, const struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct session_progress p;
	struct session_note note;

	if (m->id != o->id)
		return 0;
	switch (m->type) {
	case SESSION_EV_TEXT:
		if (msg_decode(m, &session_note_layout, &a, &note))
			return -EBADMSG;
		tell(s, (enum wire_level)note.level, "%s", note.text);
		return 0;
	case SESSION_EV_PROGRESS:
		if (msg_decode(m, &session_progress_layout, &a, &p))
			return -EBADMSG;
		put_progress(s, o, &p);
		return 0;
	case SESSION_DONE:
		o->ended = true;
		return msg_decode(m, &session_done_layout, &s->arena, &o->end) ? -EBADMSG : 0;
	default:
		return 0;
	}
}

static int run(struct session *s, struct optimise *o)
{
	int r = core_send(s, SESSION_OPTIMISE, NULL, NULL, &o->id);

	store_release(s);
	while (!r && !o->ended) {
		_cleanup_msg_ struct msg m = MSG_INIT;

		r = conn_flush(s);
		if (!r)
			r = core_event(s, &m);
		if (!r)
			r = handle(s, o, &m);
	}
	return r ?: s->out.rc;
}

int op_optimise_store(struct session *s, struct err *e)
{
	struct optimise o = { .activity = activity_id(s) };
	const struct wire_start start = { .id = o.activity,
					  .type = ACT_OPTIMISE_STORE,
					  .text = "" };

	request_read(s);
	wire_put_start(&s->out, s->version, &start);
	int r = run(s, &o);
	if (r)
		return r;
	wire_put_stop(&s->out, s->version, o.activity);
	if (!o.end.ok)
		return err_set(e, OP_FAILED, "%s", o.end.error);
	answer_begin(s);
	wire_put_u64(&s->out, 1);
	return 0;
}
