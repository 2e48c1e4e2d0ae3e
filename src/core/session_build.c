/* Builds that a session asks for: its options on top of the daemon's settings, the request to the
 * goal graph, and the events on their way back. Linked by airplantd. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/nest.h"
#include "core/place.h"
#include "core/session_state.h"
#include "ipc/build.h"

static void refuse(struct session *s, uint32_t id, const char *text)
{
	const struct session_built b = { .ok = 0, .error = (char *)text };

	session_send(s, SESSION_BUILT, id, &session_built_layout, &b, -1, 0);
}

static void on_started(void *ctx, uint64_t build, const char *drv, int log_fd, uint64_t size)
{
	struct session *s = ctx;
	const struct session_ev_build ev = { .build = build, .drv = (char *)drv, .size = size };

	session_send(s, SESSION_EV_STARTED, s->build_id, &session_ev_build_layout, &ev, log_fd, 0);
}

static void on_log(void *ctx, uint64_t build, uint64_t size)
{
	struct session *s = ctx;
	const struct session_ev_build ev = { .build = build, .size = size };

	session_send(s, SESSION_EV_LOG, s->build_id, &session_ev_build_layout, &ev, -1, build + 1);
}

static void on_ended(void *ctx, uint64_t build, uint64_t size, bool ok)
{
	struct session *s = ctx;
	const struct session_ev_build ev = { .build = build, .size = size, .ok = ok };

	session_send(s, SESSION_EV_ENDED, s->build_id, &session_ev_build_layout, &ev, -1, 0);
}

static void on_hook(void *ctx, uint64_t build, const char *drv, const char *program, int log_fd)
{
	struct session *s = ctx;
	const struct session_ev_hook ev = { .build = build,
					    .drv = (char *)drv,
					    .program = (char *)program };

	session_send(s, SESSION_EV_HOOK, s->build_id, &session_ev_hook_layout, &ev, log_fd, 0);
}

static void on_progress(void *ctx, const struct session_progress *p)
{
	struct session *s = ctx;

	session_send(s, SESSION_EV_PROGRESS, s->build_id, &session_progress_layout, p, -1, 1);
}

static void on_note(void *ctx, uint64_t level, const char *text)
{
	struct session *s = ctx;
	const struct session_note n = { .level = level, .text = (char *)text };

	session_send(s, SESSION_EV_TEXT, s->build_id, &session_note_layout, &n, -1, 0);
}

/* What the client is told is there stays for as long as he does: he has yet to make his root. */
static void hold_results(struct session *s, const struct session_built *b)
{
	for (size_t i = 0; i < b->results.n; i++) {
		const struct session_result *r = &b->results.v[i];

		/* Nobody builds so much in one session that there is no room. */
		for (size_t k = 0; k < r->outputs.n; k++)
			(void)session_temp_root(s, r->outputs.v[k].path);
		if (!strchr(r->target, '!'))
			(void)session_temp_root(s, r->target);
	}
}

static void on_built(void *ctx, const struct session_built *b)
{
	struct session *s = ctx;

	s->building = false;
	s->request = NULL;
	if (s->peer.nested) {
		session_nest_built(s, b);
		return;
	}
	hold_results(s, b);
	session_send(s, SESSION_BUILT, s->build_id, &session_built_layout, b, -1, 0);
}

static const struct request_events events = {
	.started = on_started,
	.log = on_log,
	.ended = on_ended,
	.hook = on_hook,
	.progress = on_progress,
	.note = on_note,
	.built = on_built,
};

/* Everybody may set these, as with upstream. */
static void apply_fields(const struct session_options *o, struct settings *set)
{
	set->keep_failed = o->keep_failed;
	set->keep_going = o->keep_going;
	set->fallback = o->try_fallback;
	set->max_jobs = o->max_jobs;
	set->max_silent_time = o->max_silent_time;
	set->cores = o->cores;
	set->substitute = o->use_substitutes;
}

static int apply_overrides(const struct session *s, const struct session_options *o,
			   struct settings *set)
{
	const struct settings *daemon = session_daemon_settings(s);
	_cleanup_strv_ struct strv known = {};
	int r = 0;

	for (size_t i = 0; r == 0 && i < daemon->substituters.n; i++)
		r = strv_add(&known, daemon->substituters.v[i]);
	for (size_t i = 0; r == 0 && i < daemon->trusted_substituters.n; i++)
		r = strv_add(&known, daemon->trusted_substituters.v[i]);
	for (size_t i = 0; r == 0 && i < s->peer.rights.substituters.n; i++)
		r = strv_add(&known, s->peer.rights.substituters.v[i]);
	for (size_t i = 0; r == 0 && i < o->overrides.n; i++) {
		const struct session_setting *v = &o->overrides.v[i];
		bool trusted = s->peer.trusted || strv_has(&s->peer.rights.set, v->name);

		/* What is refused or unknown was the session's to warn about. */
		if (settings_client_rule(v->name, v->value, trusted, &known) ==
			    CLIENT_APPLY &&
		    settings_set(set, v->name, v->value, NULL) == -ENOMEM)
			r = -ENOMEM;
	}
	return r;
}

int session_settings(struct session *s, struct settings *ret)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(4 * SESSION_MSG_MAX);
	struct session_options o;
	int r = settings_copy(session_daemon_settings(s), ret);

	if (r < 0 || !s->options.data)
		return r;
	/* It was decoded when it came: what can fail is memory. */
	r = msg_decode(&s->options, &session_options_layout, &a, &o) == 0 ? 0 : -ENOMEM;
	if (r == 0) {
		apply_fields(&o, ret);
		r = apply_overrides(s, &o, ret);
	}
	if (r < 0)
		settings_done(ret);
	return r;
}

void session_build(struct session *s, uint32_t id, const struct session_build *b)
{
	struct core *core = s->all->core;
	struct session_build own = *b;
	_cleanup_err_ struct err e = {};
	struct settings set;
	int r;

	own.believed = session_may(s, RIGHT_BUILD_ANY);
	if (s->building) {
		session_misbehaves(s, "a second build while one is open");
		return;
	}
	if (b->mode > BUILD_CHECK) {
		session_misbehaves(s, "an unknown build mode");
		return;
	}
	if (!session_may(s, RIGHT_BUILD)) {
		refuse(s, id, "you are not allowed to build");
		return;
	}
	if (b->mode == BUILD_REPAIR && !s->peer.trusted) {
		refuse(s, id, "repairing is not allowed because you are not in 'trusted-users'");
		return;
	}
	place_flush(core->place); /* its targets may have been added in this round */
	if (s->peer.nested && session_nest_may_build(s, b, &e) != 0) {
		refuse(s, id, err_msg(&e));
		return;
	}
	r = session_settings(s, &set);
	if (r < 0) {
		refuse(s, id, "out of memory");
		return;
	}
	s->building = true;
	s->build_id = id;
	r = s->peer.nested ? request_new_within(nest_goal(s->peer.nest), &own, &events, s,
						&s->request, &e)
			   : request_new(core->goals, &own, &set, s->peer.uid, s->peer.trusted,
					 &events, s, &s->request, &e);
	settings_done(&set);
	if (r != 0) {
		s->building = false;
		s->request = NULL;
		refuse(s, id, err_msg(&e));
	} else if (!s->building) {
		s->request = NULL; /* it was over before the call returned */
	} else if (s->stopped) {
		session_build_cancel(s);
	}
}

void session_build_cancel(struct session *s)
{
	struct request *r = s->request;

	s->request = NULL;
	s->building = false;
	if (r)
		request_cancel(r);
}
