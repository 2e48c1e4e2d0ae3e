/* Collecting garbage. The core does it; here its list becomes the client's log and answer.
 *
 * The list is a file that grows (ipc/session.h): a client that reads slowly delays nobody. */
#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "session/ops.h"
#include "wire/handshake.h"

enum { LIST_PART = 64 << 10 };

struct collect {
	struct session_collect o;
	uint32_t id;
	int list;
	uint64_t told; /* bytes of the list that became lines */
	struct session_collected end;
	bool ended;
};

static bool has_feature(const struct session *s)
{
	return s->features & WIRE_FEATURE_DELETE_REFERRERS;
}

/* With the feature the paths may be left out, or be those from which to delete. */
static int get_paths(struct session *s, struct session_collect *o, struct err *e)
{
	int r = 0;

	if (has_feature(s)) {
		r = wire_u64(&s->in, &o->whole_store);
		if (r || o->whole_store)
			return r;
	}
	r = wire_paths(&s->in, s->client.store_dir, &s->arena, &o->paths);
	if (!r && has_feature(s))
		return wire_u64(&s->in, &o->delete_referrers);
	o->whole_store = o->action != SESSION_GC_SPECIFIC;
	(void)e;
	return r;
}

static int get_request(struct session *s, struct session_collect *o, struct err *e)
{
	uint64_t unused;

	int r = wire_u64(&s->in, &o->action);
	if (!r)
		r = get_paths(s, o, e);
	if (!r)
		r = wire_u64(&s->in, &o->ignore_liveness);
	if (!r)
		r = wire_u64(&s->in, &o->max_freed);
	for (int i = 0; !r && i < 3; i++) /* obsolete */
		r = wire_u64(&s->in, &unused);
	if (r)
		return r;
	if (o->action > SESSION_GC_SPECIFIC)
		return err_set(e, WIRE_BAD, "Invalid garbage collection action");
	request_read(s);
	return 0;
}

/* Calls `fn` for each name between `from` and `to`. */
static int each_name(struct session *s, int fd, uint64_t from, uint64_t to,
		     int (*fn)(struct session *s, const char *name))
{
	_cleanup_free_ char *part = malloc(LIST_PART);

	if (!part)
		return -ENOMEM;
	while (from < to) {
		size_t want = to - from < LIST_PART ? to - from : LIST_PART, at = 0;
		ssize_t n = pread(fd, part, want, (off_t)from);
		char *nul;

		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		while ((nul = memchr(part + at, 0, (size_t)n - at))) {
			int r = fn(s, part + at);
			if (r)
				return r;
			at = (size_t)(nul - part) + 1;
		}
		if (at == 0)
			return -EBADMSG; /* no name is so long */
		from += at;
	}
	return 0;
}

static int tell_deleted(struct session *s, const char *name)
{
	tell(s, LVL_INFO, "deleting '%s/%s'", s->client.store_dir, name);
	/* Not more than a buffer's worth in memory. */
	return s->out.b.len > LIST_PART ? conn_flush(s) : 0;
}

static int tell_list(struct session *s, struct collect *c, uint64_t size)
{
	if (c->o.action < SESSION_GC_DELETE || s->verbosity < LVL_INFO || size <= c->told)
		return 0;
	int r = each_name(s, c->list, c->told, size, tell_deleted);
	c->told = size;
	return r;
}

static int on_garbage(struct session *s, struct collect *c, struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 16);
	struct session_garbage g;

	if (msg_decode(m, &session_garbage_layout, &a, &g))
		return -EBADMSG;
	if (m->n_fds > 0 && c->list < 0)
		c->list = TAKE_FD(m->fds[0]);
	return tell_list(s, c, g.list_size);
}

static int on_note(struct session *s, const struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(SESSION_MSG_MAX);
	struct session_note note;

	if (msg_decode(m, &session_note_layout, &a, &note))
		return -EBADMSG;
	if (note.level <= s->verbosity)
		wire_put_next(&s->out, note.text);
	return 0;
}

static int handle(struct session *s, struct collect *c, struct msg *m)
{
	if (m->id != c->id)
		return 0;
	switch (m->type) {
	case SESSION_EV_GARBAGE:
		return on_garbage(s, c, m);
	case SESSION_EV_TEXT:
		return on_note(s, m);
	case SESSION_COLLECTED:
		c->ended = true;
		return msg_decode(m, &session_collected_layout, &s->arena, &c->end) ? -EBADMSG : 0;
	default:
		return 0;
	}
}

static int run(struct session *s, struct collect *c)
{
	int r = core_send(s, SESSION_COLLECT, &session_collect_layout, &c->o, &c->id);

	store_release(s); /* a reader would be in the way of the database's log */
	while (!r && !c->ended) {
		_cleanup_msg_ struct msg m = MSG_INIT;

		r = conn_flush(s);
		if (!r)
			r = core_event(s, &m);
		if (!r)
			r = handle(s, c, &m);
	}
	if (!r)
		r = tell_list(s, c, c->end.list_size);
	return r ?: s->out.rc;
}

static uint64_t n_names;

static int count_name(struct session *s, const char *name)
{
	(void)s;
	(void)name;
	n_names++;
	return 0;
}

static int put_name(struct session *s, const char *name)
{
	wire_put_path(&s->out, name);
	return s->out.b.len > LIST_PART ? conn_flush(s) : 0;
}

static int answer(struct session *s, const struct collect *c)
{
	n_names = 0;
	int r = each_name(s, c->list, 0, c->end.list_size, count_name);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, n_names);
	r = each_name(s, c->list, 0, c->end.list_size, put_name);
	if (r)
		return WIRE_EOF; /* in mid-answer there is no way to say why */
	wire_put_u64(&s->out, c->end.freed);
	wire_put_u64(&s->out, 0); /* obsolete */
	return 0;
}

int op_collect_garbage(struct session *s, struct err *e)
{
	struct collect c = { .list = -1 };

	int r = get_request(s, &c.o, e);
	if (r)
		return r;
	if (c.o.ignore_liveness && !client_may(s, RIGHT_IGNORE_LIVENESS))
		return err_set(e, OP_FAILED, "you are not allowed to ignore liveness");
	if (s->client.restricted) { /* as upstream: nothing happens */
		answer_begin(s);
		for (int i = 0; i < 3; i++)
			wire_put_u64(&s->out, 0);
		return 0;
	}
	r = run(s, &c);
	if (!r && !c.end.ok)
		r = err_set(e, OP_FAILED, "%s", c.end.error);
	if (!r)
		r = answer(s, &c);
	close_fdp(&c.list);
	return r;
}
