/* Requests to the core, and the queue of answers that wait for it. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/fd.h"
#include "session/session.h"
#include "session/spool.h"

static int wait_for(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	while (poll(&p, 1, -1) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int core_send(struct session *s, uint32_t type, const struct layout *l, const void *record,
	      uint32_t *ret_id)
{
	uint32_t id = s->next_id++;
	int r;

	if (s->next_id == 0)
		s->next_id = 1;
	for (;;) {
		r = l ? chan_send_record(s->core, type, id, l, record, NULL, 0)
		      : chan_send(s->core, type, id, NULL, 0, NULL, 0);
		if (r != -EAGAIN)
			break;
		r = wait_for(s->core, POLLOUT);
		if (r < 0)
			return r;
	}
	if (r == 0 && ret_id)
		*ret_id = id;
	return r;
}

static int receive(struct session *s, struct msg *ret)
{
	for (;;) {
		int r = chan_recv(s->core, SESSION_MSG_MAX, ret);
		if (r == -EAGAIN)
			r = wait_for(s->core, POLLIN);
		else if (r > 0)
			return -EPIPE; /* the core is gone, and so is our purpose */
		else
			return r;
		if (r < 0)
			return r;
	}
}

static struct pending *pending_at(struct session *s, size_t i)
{
	return &s->pending[(s->pending_first + i) % PENDING_MAX];
}

/* Notes a DONE that belongs to a queued answer. False when it does not. */
static bool note_done(struct session *s, const struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(SESSION_MSG_MAX);
	struct session_done d;

	if (m->type != SESSION_DONE)
		return false;
	for (size_t i = 0; i < s->n_pending; i++) {
		struct pending *p = pending_at(s, i);
		if (p->id != m->id || p->done)
			continue;
		p->done = true;
		p->ok = msg_decode(m, &session_done_layout, &a, &d) == 0 && d.ok;
		if (!p->ok)
			p->error = strdup(d.error && *d.error ? d.error : "the request failed");
		return true;
	}
	return false;
}

int core_wait(struct session *s, uint32_t id, uint32_t type, struct msg *ret)
{
	for (;;) {
		_cleanup_msg_ struct msg m = MSG_INIT;
		int r = receive(s, &m);
		if (r < 0)
			return r;
		if (m.id == id && m.type == type) {
			*ret = m;
			m = MSG_INIT;
			return 0;
		}
		(void)note_done(s, &m); /* anything else has nobody waiting */
	}
}

int core_wait_done(struct session *s, uint32_t id, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(SESSION_MSG_MAX);
	_cleanup_msg_ struct msg m = MSG_INIT;
	struct session_done d;

	int r = core_wait(s, id, SESSION_DONE, &m);
	if (r < 0)
		return r;
	store_release(s); /* what was done must be seen */
	if (msg_decode(&m, &session_done_layout, &a, &d))
		return -EBADMSG;
	return d.ok ? 0 : err_set(e, OP_FAILED, "%s", d.error);
}

static int wait_for_either(struct session *s)
{
	struct pollfd p[] = {
		{ .fd = s->core, .events = POLLIN },
		{ .fd = s->fd_in, .events = POLLRDHUP },
		{ .fd = s->fd_out },
	};

	while (poll(p, ELEMENTS(p), -1) < 0)
		if (errno != EINTR)
			return -errno;
	/* Closing the channel ends what it asked for. */
	return p[1].revents || p[2].revents ? WIRE_EOF : 0;
}

int core_event(struct session *s, struct msg *ret)
{
	for (;;) {
		int r = wait_for_either(s); /* chan_recv would wait for the core alone */

		if (r)
			return r;
		r = chan_recv(s->core, SESSION_MSG_MAX, ret);
		if (r > 0)
			return -EPIPE;
		if (r != -EAGAIN)
			return r;
	}
}

int core_text(struct session *s, uint32_t type, const char *text, struct err *e)
{
	struct session_text t = { .text = (char *)text };
	uint32_t id;

	int r = core_send(s, type, &session_text_layout, &t, &id);
	return r ?: core_wait_done(s, id, e);
}

void pending_drop(struct pending *p)
{
	free(p->error);
	free(p->path);
	strv_done(&p->spool_names);
	buf_done(&p->reply.b);
	*p = (struct pending){};
}

int pending_add(struct session *s, struct pending *p)
{
	if (!s->pending)
		s->pending = calloc(PENDING_MAX, sizeof(*s->pending));
	if (!s->pending)
		return -ENOMEM;
	if (p->path && smap_put(&s->pending_paths, p->path, s) < 0)
		return -ENOMEM;
	*pending_at(s, s->n_pending++) = *p;
	*p = (struct pending){};
	return 0;
}

static void settle_failure(struct session *s, struct pending *p)
{
	/* What was not placed is deleted now; what was, the core has moved. */
	for (size_t i = 0; i < p->spool_names.n; i++)
		(void)rm_tree_at(s->spool, p->spool_names.v[i]);
	if (!p->silent)
		wire_put_error(&s->out, s->version, LVL_ERROR,
			       p->error ? p->error : "out of memory");
	else if (!s->batch_error)
		s->batch_error = p->error ? TAKE_PTR(p->error) : strdup("out of memory");
}

/* A path that was valid already is the client's to use once it is a root, if it lived until then.
 */
static int settle_existing(struct session *s, const struct pending *p)
{
	_cleanup_err_ struct err e = {};
	struct store_path path;

	int r = store_path_parse_base(p->path, &path, &e);
	r = r ?: store_valid(s, &path, &e);
	if (r == DB_ABSENT)
		err_set(&e, OP_FAILED,
			"path '%s/%s' was deleted while it was being added; please try again",
			s->client.store_dir, p->path);
	if (r)
		wire_put_error(&s->out, s->version, LVL_ERROR, err_msg(&e));
	return r;
}

/* Answers the oldest request. */
static int settle_one(struct session *s)
{
	struct pending *p = pending_at(s, 0);

	/* What the core does now must be seen afterwards, and a reader is in its way meanwhile. */
	if (p->id && !p->done)
		store_release(s);
	while (p->id && !p->done) {
		_cleanup_msg_ struct msg m = MSG_INIT;
		int r = receive(s, &m);
		if (r < 0)
			return r;
		(void)note_done(s, &m);
	}
	if (p->id && !p->ok)
		settle_failure(s, p);
	else if (!p->silent && !(p->existing && settle_existing(s, p))) {
		wire_put_last(&s->out);
		wire_put_raw(&s->out, p->reply.b.data, p->reply.b.len);
	}
	if (p->path)
		(void)smap_remove(&s->pending_paths, p->path);
	pending_drop(p);
	s->pending_first = (s->pending_first + 1) % PENDING_MAX;
	s->n_pending--;
	return s->out.rc < 0 ? s->out.rc : 0;
}

int pending_settle(struct session *s)
{
	while (s->n_pending > 0) {
		int r = settle_one(s);
		if (r)
			return r;
	}
	return 0;
}

int pending_room(struct session *s)
{
	return s->n_pending < PENDING_MAX ? 0 : settle_one(s);
}
