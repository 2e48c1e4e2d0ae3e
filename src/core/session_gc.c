/* Collections and searches for roots that a session asks for. Linked by airplantd. */
#include <errno.h>

#include "core/gc.h"
#include "core/roots.h"
#include "core/session_state.h"

static void refuse(struct session *s, uint32_t id, const char *text)
{
	const struct session_collected c = { .ok = 0, .error = (char *)text };

	session_send(s, SESSION_COLLECTED, id, &session_collected_layout, &c, -1, 0);
}

static void on_started(void *ctx, int list_fd)
{
	struct session *s = ctx;
	const struct session_garbage g = {};

	session_send(s, SESSION_EV_GARBAGE, s->gc_id, &session_garbage_layout, &g, list_fd, 0);
}

static void on_note(void *ctx, uint64_t level, const char *text)
{
	struct session *s = ctx;
	const struct session_note n = { .level = level, .text = (char *)text };

	session_send(s, SESSION_EV_TEXT, s->gc_id, &session_note_layout, &n, -1, 0);
}

/* Only the newest counts for one who reads slowly. */
static void on_progress(void *ctx, const struct gc_progress *p)
{
	struct session *s = ctx;
	const struct session_garbage g = { .done = p->n_done,
					   .expected = p->n_expected,
					   .freed = p->freed,
					   .list_size = p->list_size };

	session_send(s, SESSION_EV_GARBAGE, s->gc_id, &session_garbage_layout, &g, -1, 1);
}

static void on_done(void *ctx, const struct gc_progress *p, const struct err *e)
{
	struct session *s = ctx;
	const struct session_collected c = { .ok = !e,
					     .error = e ? (char *)err_msg(e) : NULL,
					     .freed = p->freed,
					     .list_size = p->list_size };

	s->gc = NULL;
	session_send(s, SESSION_COLLECTED, s->gc_id, &session_collected_layout, &c, -1, 0);
}

static const struct gc_events events = {
	.started = on_started,
	.note = on_note,
	.progress = on_progress,
	.done = on_done,
};

void session_collect(struct session *s, uint32_t id, const struct session_collect *c)
{
	struct gc_options o = {
		.action = (enum gc_action)c->action,
		.ignore_liveness = c->ignore_liveness,
		.whole_store = c->whole_store,
		.delete_referrers = c->delete_referrers,
		.max_freed = c->max_freed,
		.paths = &c->paths,
	};
	struct settings set;
	int r;

	if (s->gc || c->action > GC_DELETE_SPECIFIC) {
		session_misbehaves(s, "a request for a collection that makes no sense");
		return;
	}
	if (c->action >= GC_DELETE_DEAD && !session_may(s, RIGHT_GC)) {
		refuse(s, id, "you are not allowed to collect garbage");
		return;
	}
	if (c->ignore_liveness && !session_may(s, RIGHT_IGNORE_LIVENESS)) {
		refuse(s, id, "you are not allowed to ignore liveness");
		return;
	}
	r = session_settings(s, &set);
	if (r == 0) {
		/* Whoever deletes one path against all roots means that path, not its derivation.
		 */
		o.keep_outputs = set.keep_outputs && !c->ignore_liveness;
		o.keep_derivations = set.keep_derivations && !c->ignore_liveness;
		settings_done(&set);
		s->gc_id = id;
		r = gc_collect(s->all->core->gc, &o, &events, s, &s->gc);
	}
	if (r < 0)
		refuse(s, id, "out of memory");
}

static void on_roots(void *ctx, const struct session_roots *roots)
{
	struct session *s = ctx;

	s->roots = NULL;
	session_send(s, SESSION_ROOTS, s->roots_id, &session_roots_layout, roots, -1, 0);
}

void session_find_roots(struct session *s, uint32_t id)
{
	if (s->roots) {
		session_misbehaves(s, "a second search for roots while one is open");
		return;
	}
	s->roots_id = id;
	if (roots_find(s->all->core, s->peer.uid, !session_may(s, RIGHT_SEE_ROOTS), on_roots, s,
		       &s->roots) < 0) {
		const struct session_roots none = { .error = (char *)"out of memory" };

		on_roots(s, &none);
	}
}

void session_gc_cancel(struct session *s)
{
	struct gc_request *r = s->gc;

	s->gc = NULL;
	if (r)
		gc_cancel(r);
	roots_forget(s->roots);
	s->roots = NULL;
}
