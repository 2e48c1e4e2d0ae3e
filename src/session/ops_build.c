/* Builds: the request goes to the core; events come back and become the client's log. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "session/build.h"
#include "session/ops.h"

/* 1.15 brought the mode; older clients are not served. */
static int get_request(struct session *s, struct build *b, struct err *e)
{
	int r = wire_derived_paths(&s->in, s->client.store_dir, s->version, &s->arena, &b->targets);
	if (!r)
		r = wire_u64(&s->in, &b->mode);
	if (r)
		return r;
	if (b->mode > BUILD_CHECK)
		return err_set(e, WIRE_BAD, "Invalid build mode");
	request_read(s);
	if (b->mode == BUILD_REPAIR && !s->client.trusted)
		return err_set(e, OP_FAILED,
			       "repairing is not allowed because you are not in 'trusted-users'");
	return session_may_ask(s, &b->targets, e);
}

/* What is not whole, and what has to be built for it. */
static int scan_targets(struct session *s, struct build *b, struct err *e)
{
	int r = 0;

	for (size_t i = 0; !r && i < b->targets.n && b->mode == BUILD_REPAIR && !b->drv; i++) {
		const struct derived_path *t = &b->targets.v[i];

		r = store_valid(s, &t->path, e);
		store_release(s);
		if (r == DB_ABSENT || t->chain.n) {
			r = 0; /* the core has a sentence */
		} else if (!r && t->built) {
			r = repair_scan(s, &b->repair, &t->path, &t->outputs, t->all, e);
		} else if (!r) {
			r = repair_is_whole(s, &b->repair, &t->path, e);
			r = r == 1 ? 0 : r;
		}
	}
	return r;
}

static bool is_good(uint64_t status)
{
	return status <= 2 || status == 13; /* enum build_status: built, valid, and by what it resolves to */
}

/* The targets are whole or were repaired; is what they refer to? */
static int closure_repaired(struct session *s, const struct build *b, struct err *e)
{
	const struct session_built *all = &b->built;

	for (size_t i = 0; b->repair.more.n && !all->ok && i < all->results.n; i++) {
		const struct session_result *r = &all->results.v[i];

		if (is_good(r->status) || !strv_has(&b->repair.more, r->target))
			continue;
		tell(s, LVL_ERROR, "error: %s", r->error);
		return err_set(e, OP_FAILED,
			       "some paths in the output closure of derivation '%s' could not be "
			       "repaired",
			       store_print(s, b->targets.v[0].path.base));
	}
	return 0;
}

static int send_request(struct session *s, struct build *b, struct err *e)
{
	struct session_build msg = { .mode = b->mode,
				     .with_results = b->with_results,
				     .drv = b->drv };

	for (size_t i = 0; i < b->targets.n; i++) {
		char *t = derived_path_base(&s->arena, &b->targets.v[i]);
		if (!t || strv_add_arena(&b->asked, &s->arena, t) < 0)
			return too_large(e);
	}
	msg.broken = b->repair.broken;
	msg.targets = b->asked;
	for (size_t i = 0; i < b->repair.more.n; i++)
		if (!strv_has(&b->asked, b->repair.more.v[i]) &&
		    strv_add_arena(&msg.targets, &s->arena, b->repair.more.v[i]) < 0)
			return too_large(e);
	return core_send(s, SESSION_BUILD, &session_build_layout, &msg, &b->id);
}

static uint64_t open_activity(struct session *s, enum wire_activity type)
{
	struct wire_start start = { .id = activity_id(s), .type = type, .text = "" };

	wire_put_start(&s->out, s->version, &start);
	return start.id;
}

/* The three that upstream's worker opens, in its order. */
static void open_activities(struct session *s, struct build *b)
{
	b->act_realise = open_activity(s, ACT_REALISE);
	b->act_builds = open_activity(s, ACT_BUILDS);
	b->act_copies = open_activity(s, ACT_COPY_PATHS);
}

static void close_activities(struct session *s, struct build *b)
{
	logs_done(s, &b->logs);
	wire_put_stop(&s->out, s->version, b->act_copies);
	wire_put_stop(&s->out, s->version, b->act_builds);
	wire_put_stop(&s->out, s->version, b->act_realise);
}

static void put_progress(struct session *s, struct build *b, const struct session_progress *p)
{
	struct wire_field builds[] = { { .num = p->done },
				       { .num = p->expected },
				       { .num = p->running },
				       { .num = p->failed } };
	struct wire_field copies[4] = {};

	wire_put_result(&s->out, s->version, b->act_builds, RES_PROGRESS, builds, 4);
	wire_put_result(&s->out, s->version, b->act_copies, RES_PROGRESS, copies, 4);
	/* Bytes of downloads and copies: none, as long as nothing is substituted. */
	for (size_t i = 0; i < 2; i++) {
		struct wire_field expected[] = { { .num = i ? ACT_COPY_PATH : ACT_FILE_TRANSFER },
						 {} };
		wire_put_result(&s->out, s->version, b->act_realise, RES_SET_EXPECTED, expected, 2);
	}
}

static int build_event(struct session *s, struct build *b, struct msg *m)
{
	static const char *const verbs[] = { "building", "repairing outputs of",
					     "checking outputs of" };
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct session_ev_build ev;
	int log = -1;

	if (msg_decode(m, &session_ev_build_layout, &a, &ev))
		return -EBADMSG;
	switch (m->type) {
	case SESSION_EV_STARTED:
		if (m->n_fds > 0)
			log = TAKE_FD(m->fds[0]);
		return logs_started(s, &b->logs, &ev, verbs[b->mode], log);
	case SESSION_EV_LOG:
		return logs_grown(s, &b->logs, &ev);
	default:
		return logs_ended(s, &b->logs, &ev);
	}
}

static int hook_event(struct session *s, struct build *b, struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct session_ev_hook ev;

	if (msg_decode(m, &session_ev_hook_layout, &a, &ev))
		return -EBADMSG;
	return logs_hook(s, &b->logs, &ev, m->n_fds > 0 ? TAKE_FD(m->fds[0]) : -1);
}

static int other_event(struct session *s, struct build *b, const struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(SESSION_MSG_MAX);
	struct session_progress progress;
	struct session_note note;

	switch (m->type) {
	case SESSION_EV_PROGRESS:
		if (msg_decode(m, &session_progress_layout, &a, &progress))
			return -EBADMSG;
		put_progress(s, b, &progress);
		return 0;
	case SESSION_EV_TEXT:
		if (msg_decode(m, &session_note_layout, &a, &note))
			return -EBADMSG;
		if (note.level <= s->verbosity)
			wire_put_next(&s->out, note.text);
		return 0;
	case SESSION_BUILT:
		b->ended = true;
		return msg_decode(m, &session_built_layout, &s->arena, &b->built) ? -EBADMSG : 0;
	default:
		return 0;
	}
}

static int handle(struct session *s, struct build *b, struct msg *m)
{
	if (m->id != b->id)
		return 0;
	switch (m->type) {
	case SESSION_EV_STARTED:
	case SESSION_EV_LOG:
	case SESSION_EV_ENDED:
		return build_event(s, b, m);
	case SESSION_EV_HOOK:
		return hook_event(s, b, m);
	default:
		return other_event(s, b, m);
	}
}

/* Waits for the core, and for the client to leave. Its data stay where they are. */
static int wait_event(struct session *s)
{
	struct pollfd p[] = {
		{ .fd = s->core, .events = POLLIN },
		{ .fd = s->fd_in, .events = POLLRDHUP },
		{ .fd = s->fd_out },
	};

	for (;;) {
		int r = poll(p, ELEMENTS(p), -1);
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r < 0)
			continue;
		if (p[1].revents || p[2].revents)
			return WIRE_EOF; /* closing the channel cancels what only we wait for */
		return 0;
	}
}

/* Takes what the core has to say, as long as there is something without waiting. */
static int take_events(struct session *s, struct build *b)
{
	struct pollfd p = { .fd = s->core, .events = POLLIN };

	do {
		_cleanup_msg_ struct msg m = MSG_INIT;
		int r = chan_recv(s->core, SESSION_MSG_MAX, &m);
		if (r == -EAGAIN)
			return 0;
		if (r)
			return r > 0 ? -EPIPE : r;
		r = handle(s, b, &m);
		if (r || b->ended)
			return r;
	} while (poll(&p, 1, 0) > 0);
	return 0;
}

int build_run(struct session *s, struct build *b, struct err *e)
{
	int r = scan_targets(s, b, e);

	if (!r)
		r = send_request(s, b, e);
	repair_done(&b->repair);
	if (r)
		return r;
	open_activities(s, b);
	while (!r && !b->ended) {
		r = conn_flush(s);
		if (!r)
			r = wait_event(s);
		if (!r)
			r = take_events(s, b);
	}
	close_activities(s, b);
	store_release(s); /* what was built must be seen */
	return r ?: s->out.rc ?: closure_repaired(s, b, e);
}

int build_repair(struct session *s, const struct store_path *p, struct err *e)
{
	struct derived_path target = { .built = true, .all = true };
	struct build b = { .mode = BUILD_REPAIR, .targets = { &target, 1 } };
	struct wire_info info;
	int r = store_info_must(s, p, &info, e);

	if (!r && (!info.deriver || !*info.deriver ||
		   store_path_parse_base(info.deriver, &target.path, NULL)))
		r = DB_ABSENT;
	if (!r)
		r = store_valid(s, &target.path, e);
	store_release(s);
	if (r == DB_ABSENT)
		return err_set(e, OP_FAILED, "cannot repair path '%s'", store_print(s, p->base));
	if (!r)
		r = build_run(s, &b, e);
	if (!r && !b.built.ok)
		r = err_set(e, OP_FAILED, "%s", b.built.error);
	return r;
}

int op_build_paths(struct session *s, struct err *e)
{
	struct build b = {};

	int r = get_request(s, &b, e);
	if (!r)
		r = build_run(s, &b, e);
	if (r)
		return r;
	if (!b.built.ok)
		return err_set(e, OP_FAILED, "%s", b.built.error);
	answer_begin(s);
	wire_put_u64(&s->out, 1);
	return 0;
}

int build_put_result(struct session *s, const struct session_result *from, const uint8_t *drv_hash,
		     struct err *e)
{
	struct wire_built_output *o = arena_array(&s->arena, from->outputs.n + 1, sizeof(*o));

	if (!o)
		return too_large(e);
	for (size_t i = 0; i < from->outputs.n; i++)
		o[i] = (struct wire_built_output){ .name = from->outputs.v[i].name,
						   .path = from->outputs.v[i].path };
	struct wire_build_result r = {
		.status = from->status,
		.error = from->error,
		.times_built = from->times_built,
		.start_time = from->start_time,
		.stop_time = from->stop_time,
		.non_deterministic = from->status == 12,
		.cpu_known = from->cpu_known != 0,
		.cpu_user_usec = from->cpu_user_usec,
		.cpu_system_usec = from->cpu_system_usec,
		.outputs = o,
		.n_outputs = from->outputs.n,
		.drv_hash = drv_hash,
	};
	wire_put_build_result(&s->out, s->version, s->features, &r);
	return 0;
}

/* What was given up before it came to anything has no result: results are found by their target. */
static size_t match_results(const struct build *b, const struct session_result **ret)
{
	size_t n = 0;

	for (size_t i = 0; i < b->targets.n; i++) {
		ret[i] = NULL;
		if (n < b->built.results.n &&
		    strcmp(b->built.results.v[n].target, b->asked.v[i]) == 0)
			ret[i] = &b->built.results.v[n++];
	}
	return n;
}

int op_build_paths_with_results(struct session *s, struct err *e)
{
	struct build b = { .with_results = true };
	const struct session_result **results;
	size_t n;

	int r = get_request(s, &b, e);
	if (!r)
		r = build_run(s, &b, e);
	if (r)
		return r;
	results = arena_array(&s->arena, b.targets.n + 1, sizeof(*results));
	if (!results)
		return too_large(e);
	n = match_results(&b, results);
	/* A refusal of the whole request has a sentence and no results. */
	if ((n == 0 && b.targets.n > 0) || (n != b.built.results.n && !b.repair.more.n))
		return err_set(e, OP_FAILED, "%s",
			       *b.built.error ? b.built.error : "the build request failed");
	answer_begin(s);
	wire_put_u64(&s->out, n);
	for (size_t i = 0; i < b.targets.n; i++) {
		if (!results[i])
			continue;
		wire_put_str(&s->out, b.targets.v[i].text);
		if (build_put_result(s, results[i], NULL, e))
			return WIRE_EOF; /* in mid-answer there is no way to say why */
	}
	return 0;
}

int op_ensure_path(struct session *s, struct err *e)
{
	struct store_path p;

	int r = wire_path(&s->in, s->client.store_dir, &s->arena, &p);
	if (r)
		return r;
	request_read(s);
	r = core_text(s, SESSION_ENSURE, p.base, e);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, 1);
	return 0;
}
