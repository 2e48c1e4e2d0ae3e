/* See goals_int.h: goals, who waits for whom, and what a goal does next. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "core/gc_auto.h"
#include "core/goals_int.h"
#include "core/realise.h"

static uint64_t now_sec(void)
{
	return (uint64_t)time(NULL);
}

uint64_t goal_mode(const struct goal *g)
{
	return g->check ? BUILD_CHECK : g->repair ? BUILD_REPAIR : BUILD_NORMAL;
}

/* '?', '+' and '!' cannot stand behind a .drv's name: the kinds never meet. */
static char *key_of(const struct store_path *drv, uint64_t mode, const char *text)
{
	char hex[64 + 1] = "", *key;
	uint8_t digest[32];
	static const char *const marks[] = { "", "+", "?" };

	if (text) {
		sha256(text, strlen(text), digest);
		base16_encode(digest, sizeof(digest), hex);
	}
	if (asprintf(&key, "%s%s%s%s", drv->base, marks[mode], text ? "!" : "", hex) < 0)
		return NULL;
	return key;
}

struct goal *goal_get(struct goals *g, const struct store_path *drv, uint64_t mode)
{
	return goal_get_given(g, drv, mode, NULL);
}

struct goal *goal_get_given(struct goals *g, const struct store_path *drv, uint64_t mode,
			    const char *text)
{
	_cleanup_free_ char *key = key_of(drv, mode, text);
	struct goal *goal;

	if (!key)
		return NULL;
	goal = smap_get(&g->by_key, key);
	if (goal)
		return goal;
	goal = calloc(1, sizeof(*goal));
	if (!goal)
		return NULL;
	goal->goals = g;
	goal->drv_path = *drv;
	goal->check = mode == BUILD_CHECK;
	goal->repair = mode == BUILD_REPAIR;
	goal->arena = ARENA_INIT(GOAL_MEMORY);
	goal->given = text ? arena_strdup(&goal->arena, text) : NULL;
	if ((text && !goal->given) || smap_put(&g->by_key, key, goal) < 0) {
		arena_done(&goal->arena);
		free(goal);
		return NULL;
	}
	goal->key = TAKE_PTR(key);
	goal_push(goal);
	return goal;
}

void goal_push(struct goal *g)
{
	if (g->queued || g->state == GOAL_DONE)
		return;
	g->queued = true;
	g->next_queued = NULL;
	*g->goals->queue_end = g;
	g->goals->queue_end = &g->next_queued;
	goals_kick(g->goals);
}

static void edge_free(struct edge *e)
{
	*e->link_down = e->next_down;
	if (e->next_down)
		e->next_down->link_down = e->link_down;
	*e->link_up = e->next_up;
	if (e->next_up)
		e->next_up->link_up = e->link_up;
	free(e);
}

static int edge_add(struct goal *up, struct goal *down)
{
	struct edge *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->up = up;
	e->down = down;
	e->link_down = &up->needs;
	e->next_down = up->needs;
	if (e->next_down)
		e->next_down->link_down = &e->next_down;
	up->needs = e;
	e->link_up = &down->needed_by;
	e->next_up = down->needed_by;
	if (e->next_up)
		e->next_up->link_up = &e->next_up;
	down->needed_by = e;
	up->n_waiting++;
	return 0;
}

/* Leaves the graph; the memory goes at the end of the round. */
static void goal_retire(struct goal *g)
{
	if (g->state == GOAL_DONE)
		return;
	if (g->state == GOAL_READY)
		goal_unready(g);
	if (g->state == GOAL_RUNNING)
		slot_free(g);
	if (g->run)
		build_run_cancel(g->run);
	g->run = NULL;
	goal_drop_hook(g);
	g->state = GOAL_DONE;
	(void)smap_remove(&g->goals->by_key, g->key);
	while (g->needs)
		edge_free(g->needs);
	while (g->needed_by)
		edge_free(g->needed_by);
	g->next_dead = g->goals->dead;
	g->goals->dead = g;
	goals_kick(g->goals);
}

void goals_sweep(struct goals *g)
{
	while (g->dead) {
		struct goal *goal = g->dead;

		g->dead = goal->next_dead;
		drv_opts_done(&goal->opts);
		arena_done(&goal->arena);
		free(goal->key);
		free(goal);
	}
}

struct interest *interest_find(const struct goal *g, const struct request *r)
{
	for (struct interest *i = g->interests; i; i = i->next_of_goal)
		if (i->request == r)
			return i;
	return NULL;
}

static struct interest *interest_new(struct request *r, struct goal *g)
{
	struct interest *i = calloc(1, sizeof(*i));

	if (!i)
		return NULL;
	i->goal = g;
	i->request = r;
	i->link_of_goal = &g->interests;
	i->next_of_goal = g->interests;
	if (i->next_of_goal)
		i->next_of_goal->link_of_goal = &i->next_of_goal;
	g->interests = i;
	i->link_of_request = &r->interests;
	i->next_of_request = r->interests;
	if (i->next_of_request)
		i->next_of_request->link_of_request = &i->next_of_request;
	r->interests = i;
	return i;
}

static void interest_free(struct interest *i)
{
	*i->link_of_goal = i->next_of_goal;
	if (i->next_of_goal)
		i->next_of_goal->link_of_goal = i->link_of_goal;
	*i->link_of_request = i->next_of_request;
	if (i->next_of_request)
		i->next_of_request->link_of_request = i->link_of_request;
	free(i);
}

/* A request joins a goal that may be in any state. */
static void joined(struct interest *i)
{
	struct goal *g = i->goal;
	struct request *r = i->request;

	if (g->counted) {
		r->progress.expected++;
		r->progress_due = true;
	}
	if (g->state == GOAL_READY && request_is_at_limit(g->payer) && g->payer != r) {
		goal_unready(g);
		goal_ready(g); /* finds a payer with room, if there is one */
	}
	if (g->state == GOAL_HOOK)
		r->progress.running++;
	if (g->state == GOAL_RUNNING) {
		r->progress.running++;
		if (g->started)
			report_started(g, i);
	}
}

/* Pushes what `g` needs and the request does not wait for yet. */
static int push_needs(struct strv *stack, const struct goal *g, const struct request *r,
		      size_t *cap)
{
	for (const struct edge *e = g->needs; e; e = e->next_down) {
		if (interest_find(e->down, r))
			continue;
		if (stack->n == *cap) {
			size_t want = *cap ? *cap * 2 : 64;
			char **v = reallocarray(stack->v, want, sizeof(*v));

			if (!v)
				return -ENOMEM;
			stack->v = v;
			*cap = want;
		}
		stack->v[stack->n++] = (char *)e->down;
	}
	return 0;
}

int interest_add(struct request *r, struct goal *top, struct target *t)
{
	struct strv stack = {}; /* of goals; only its vector is used */
	struct goal *g = top;
	size_t cap = 0;
	int ret = 0;

	while (g) {
		struct interest *i = interest_find(g, r);

		if (!i) {
			i = interest_new(r, g);
			ret = i ? push_needs(&stack, g, r, &cap) : -ENOMEM;
			if (i)
				joined(i);
			if (ret < 0)
				break;
		}
		if (g == top && t) {
			t->next_of_interest = i->targets;
			i->targets = t;
		}
		g = stack.n ? (struct goal *)stack.v[--stack.n] : NULL;
	}
	free(stack.v);
	return ret;
}

/* After an interest went: a goal that nobody waits for is dropped. */
static void goal_left(struct goal *g, struct request *by)
{
	if (g->state == GOAL_DONE)
		return;
	if (!g->interests)
		goal_retire(g);
	else if (g->payer == by)
		goal_repay(g, by);
}

void interests_drop_all(struct request *r)
{
	while (r->interests) {
		struct goal *g = r->interests->goal;

		if (g->counted) {
			r->progress.expected--;
			r->progress_due = true;
		}
		if (g->state == GOAL_RUNNING)
			r->progress.running--;
		interest_free(r->interests);
		goal_left(g, r);
	}
}

static int paths_valid(struct goals *g, const struct strv *names, const struct strv *paths,
		       const struct strv *wanted, bool repair, const char **ret_unknown)
{
	int missing = OUTPUTS_VALID;
	size_t n_found = 0;

	for (size_t i = 0; i < names->n; i++) {
		struct store_path p;
		int r;

		if (wanted->n && !strv_has(wanted, names->v[i]))
			continue;
		n_found++;
		r = store_path_parse_base(paths->v[i], &p, NULL) ? DB_ABSENT
								 : db_path_valid(g->core->db, &p);
		if (r < 0)
			return r;
		if (r == DB_ABSENT || (repair && smap_has(&g->broken, p.base)))
			missing = OUTPUTS_MISSING;
	}
	if (n_found < wanted->n) {
		for (size_t i = 0; ret_unknown && i < wanted->n; i++)
			if (!strv_has(names, wanted->v[i]))
				*ret_unknown = wanted->v[i];
		return OUTPUTS_NO_SUCH;
	}
	return missing;
}

int outputs_valid(struct goals *g, const struct store_path *drv, const struct strv *wanted,
		  bool repair, const char **ret_unknown)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(16 << 20);
	_cleanup_err_ struct err e = {};
	struct strv names = {}, paths = {};
	int r = realise_outputs(g->core, drv, NULL, &a, &names, &paths, &e);

	if (r == DB_ABSENT)
		return OUTPUTS_NO_DRV;
	if (r < 0)
		return r;
	if (r)
		return OUTPUTS_MISSING; /* what is wrong with it is told when it is built */
	return paths_valid(g, &names, &paths, wanted, repair, ret_unknown);
}

int outputs_valid_of(struct goals *g, const struct drv *d, bool repair)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(16 << 20);
	_cleanup_err_ struct err e = {};
	struct strv names = {}, paths = {};
	int r = realise_drv_outputs(g->core, d, &a, &names, &paths, &e);

	if (r)
		return r < 0 ? r : OUTPUTS_MISSING;
	return paths_valid(g, &names, &paths, &(struct strv){}, repair, NULL);
}

/* For a request that cannot ask the database. */
static void keep_made(const struct goal *g, struct request *r, struct target *t)
{
	t->made.v = arena_array(&r->arena, g->made.n, sizeof(*t->made.v));
	for (size_t i = 0; t->made.v && i < g->made.n; i++) {
		struct drv_row *row = &t->made.v[t->made.n];

		row->output = arena_strdup(&r->arena, g->made.v[i].output);
		row->path = arena_strdup(&r->arena, g->made.v[i].path);
		if (row->output && row->path)
			t->made.n++;
	}
}

/* A derivation that the target leads through was built, or not. */
static void step_done(struct request *r, struct target *t, bool ok, const char *error)
{
	_cleanup_free_ char *text = NULL;

	if (ok) {
		t->follows = r->follows = true;
		return;
	}
	note_error(r, error);
	text = text_no_derivation(r, t);
	target_done(r, t, DEPENDENCY_FAILED, text ? text : "out of memory");
}

/* As upstream counts: what failed, or need not be built any more, is not expected either, and a
 * goal whose dependency failed has not failed itself. */
static void count_done(struct request *r, bool ok, uint64_t status)
{
	if (ok && status == BUILT)
		r->progress.done++;
	else
		r->progress.expected--;
	if (!ok && status != DEPENDENCY_FAILED)
		r->progress.failed++;
	r->progress_due = true;
}

/* The goal is over for one request, whose interest ends. `alone`: others still wait for it, so that
 * no goal above it can fail for this request's sake; the request is over, keep-going or not. */
static void interest_done(struct interest *i, bool was_running, bool ok, uint64_t status,
			  const char *error, bool alone)
{
	struct goal *g = i->goal;
	struct request *r = i->request;
	bool is_target = i->targets != NULL;

	for (struct target *t = i->targets; t; t = t->next_of_interest) {
		t->times_built = was_running && ok;
		t->start_time = g->start_time;
		t->stop_time = g->stop_time;
		t->cpu_known = g->cpu_known;
		t->cpu_user_usec = g->cpu_user_usec;
		t->cpu_system_usec = g->cpu_system_usec;
		if (ok)
			keep_made(g, r, t);
		if (t->n_followed < t->chain.n) {
			step_done(r, t, ok, error);
			continue;
		}
		target_done(r, t, status, error);
	}
	interest_free(i);
	if (was_running)
		r->progress.running--;
	if (g->counted)
		count_done(r, ok, status);
	if (ok || r->over)
		return;
	if (!is_target)
		note_error(r, error);
	if (!r->settings.keep_going || (alone && !is_target)) {
		request_give_up(r, g);
		interests_drop_all(r);
	}
}

/* Gives its slot back, and is not to be dropped while it is told. */
static void goal_stand(struct goal *g)
{
	if (g->state == GOAL_READY)
		goal_unready(g);
	if (g->state == GOAL_RUNNING)
		slot_free(g);
	g->state = GOAL_WAITING;
	g->payer = NULL;
}

/* The goal is over. Who waits for it directly is told or moves on; nothing deeper is touched. */
void goal_done(struct goal *g, bool ok, uint64_t status, const char *error)
{
	bool was_running = g->state == GOAL_RUNNING || g->state == GOAL_HOOK;

	/* Recording what it gave commits what others wait for, and they may have dropped it. */
	if (g->state == GOAL_DONE)
		return;
	goal_stand(g);
	g->status = status;
	while (g->interests)
		interest_done(g->interests, was_running, ok, status, error, false);
	while (g->needed_by) {
		struct goal *up = g->needed_by->up;

		edge_free(g->needed_by);
		up->n_waiting--;
		up->resolved_status = status;
		if (!ok || goal_give(up, g) < 0)
			up->n_failed++;
		if (!up->n_waiting)
			goal_push(up);
	}
	goal_retire(g);
}

static void goal_fail(struct goal *g, uint64_t status, const struct err *e)
{
	goal_done(g, false, status, err_msg(e));
}

static void goal_fail_text(struct goal *g, uint64_t status, char *text)
{
	goal_done(g, false, status, text ? text : "out of memory");
	free(text);
}

int goal_need(struct goal *g, struct goal *dep)
{
	if (edge_add(g, dep) < 0)
		return -ENOMEM;
	for (struct interest *j = g->interests; j; j = j->next_of_goal)
		if (interest_add(j->request, dep, NULL) < 0)
			return -ENOMEM;
	return 0;
}

static bool any_request_with_jobs(const struct goal *g)
{
	for (struct interest *i = g->interests; i; i = i->next_of_goal)
		if (i->request->settings.max_jobs)
			return true;
	return false;
}

/* Derivations that were built are there now: what is wanted of them? True when the goal waits for
 * that, or is over. */
static bool more_inputs(struct goal *g)
{
	_cleanup_err_ struct err e = {};
	int r = drv_has_dynamic_input(&g->drv) ? goal_add_inputs(g, &e) : 0;

	if (r)
		goal_fail(g, MISC_FAILURE, &e);
	return r || g->n_waiting;
}

static void inputs_there(struct goal *g)
{
	char *text;

	if (g->n_failed) {
		goal_fail_text(g, DEPENDENCY_FAILED, text_dependency_failed(g, g->n_failed));
		return;
	}
	if (g->is_resolved) {
		goal_resolved(g);
		return;
	}
	if (more_inputs(g))
		return;
	if (drv_should_resolve(&g->drv, has_feature(g->goals->core, "ca-derivations"))) {
		goal_resolve(g);
		return;
	}
	text = text_rejected(g, !any_request_with_jobs(g));
	if (text)
		goal_fail_text(g, INPUT_REJECTED, text);
	else
		goal_ready(g);
}

/* Are all outputs there, and what does that mean in this mode? True when the goal is over. */
static bool settled_by_outputs(struct goal *g)
{
	_cleanup_err_ struct err e = {};
	int v;

	if (g->drv.kind == DRV_IMPURE)
		return false;
	v = g->given ? outputs_valid_of(g->goals, &g->drv, g->repair)
		     : outputs_valid(g->goals, &g->drv_path, &(struct strv){}, g->repair, NULL);
	if (v < 0) {
		(void)err_errno(&e, v, "reading the outputs of '%s'", g->drv_path.base);
		goal_fail(g, MISC_FAILURE, &e);
		return true;
	}
	if (!g->check && v == OUTPUTS_VALID) {
		goal_done(g, true, ALREADY_VALID, "");
		return true;
	}
	return false;
}

static void goal_open(struct goal *g)
{
	_cleanup_err_ struct err e = {};
	int r = goal_load(g, &e);

	if (r == 0)
		pin_goal(g);
	if (r == 0 && settled_by_outputs(g))
		return;
	if (r == 0)
		r = goal_check_sources(g, &e);
	if (r == 0) {
		g->counted = true;
		for (struct interest *i = g->interests; i; i = i->next_of_goal) {
			i->request->progress.expected++;
			i->request->progress_due = true;
		}
		g->state = GOAL_WAITING;
		r = goal_add_inputs(g, &e);
	}
	if (r)
		goal_fail(g, r > 0 && r <= NO_SUBSTITUTERS ? (uint64_t)r : MISC_FAILURE, &e);
	else if (!g->n_waiting)
		inputs_there(g);
}

void goal_step(struct goal *g)
{
	if (g->state == GOAL_NEW)
		goal_open(g);
	else if (g->state == GOAL_WAITING && !g->n_waiting)
		inputs_there(g);
}

static void on_started(void *ctx)
{
	struct goal *g = ctx;

	g->started = true;
	report_started(g, NULL);
}

static void on_log(void *ctx, uint64_t size)
{
	struct goal *g = ctx;

	g->log_size = size;
	/* As upstream, a build that says something is an occasion to look. It goes on meanwhile. */
	(void)gc_auto_look(g->goals->core->gc_auto, &g->payer->settings);
	if (g->started)
		report_log(g);
}

static void on_note(void *ctx, uint64_t level, const char *text)
{
	report_note(ctx, level, text);
}

static void log_end(const struct goal *g, const struct build_outcome *o)
{
	const char *result = o->status == BUILT ? "built" : "failed";
	double sec = (double)(now_usec() - g->started_usec) / 1e6;
	double cpu = (double)(o->cpu_user_usec + o->cpu_system_usec) / 1e6;
	char procs[48] = "";

	if (o->peak_procs)
		snprintf(procs, sizeof(procs), ", %llu processes",
			 (unsigned long long)o->peak_procs);
	if (o->ran)
		log_info("build %lu: %s: %s as uid %u in %.3f s (%.3f s of processor, at most "
			 "%llu MiB%s)",
			 (unsigned long)g->build, g->drv_path.base, result,
			 (unsigned int)o->host_uid, sec, cpu,
			 (unsigned long long)(o->peak_memory_bytes >> 20), procs);
	else
		log_info("build %lu: %s: %s in %.3f s, before its builder was started",
			 (unsigned long)g->build, g->drv_path.base, result, sec);
}

/* ---- limits: one request's must not end the build of another ---- */

static bool is_laxer(uint64_t limit, uint64_t than)
{
	return than && (!limit || limit > than);
}

static struct limits limits_of(const struct settings *s)
{
	return (struct limits){ s->timeout, s->max_silent_time, s->max_build_log_size };
}

/* What of each two a run may have that serves both. */
static struct limits laxest(struct limits a, struct limits b)
{
	return (struct limits){
		is_laxer(b.timeout, a.timeout) ? b.timeout : a.timeout,
		is_laxer(b.silence, a.silence) ? b.silence : a.silence,
		is_laxer(b.log, a.log) ? b.log : a.log,
	};
}

/* The limit that ended the run is not, or need not be, one of this request's. */
static bool outlasts(const struct request *r, const struct goal *g, uint64_t status)
{
	struct limits own = limits_of(&r->settings);

	if (r->dead || r->over)
		return false;
	if (status == TIMED_OUT)
		return is_laxer(own.timeout, g->limits.timeout) ||
		       is_laxer(own.silence, g->limits.silence);
	return status == LOG_LIMIT_EXCEEDED && is_laxer(own.log, g->limits.log);
}

static struct interest *find_interest(const struct goal *g, uint64_t status, bool lax)
{
	struct interest *i = g->interests;

	while (i && outlasts(i->request, g, status) != lax)
		i = i->next_of_goal;
	return i;
}

/* Only those fail whose limits it were; for the others it is built again. */
static void build_again(struct goal *g, const struct build_outcome *o)
{
	struct interest *i;

	goal_stand(g);
	while ((i = find_interest(g, o->status, false)))
		interest_done(i, true, false, o->status, o->error, true);
	for (i = g->interests; i; i = i->next_of_goal) {
		i->request->progress.running--;
		i->request->progress_due = true;
	}
	g->again = true;
	g->started = false;
	g->log_size = 0;
	goal_push(g);
}

static void on_ended(void *ctx, const struct build_outcome *o)
{
	struct goal *g = ctx;
	_cleanup_err_ struct err e = {};
	bool ok = o->status == BUILT;
	int r;

	g->run = NULL;
	g->stop_time = now_sec();
	g->cpu_known = o->cpu_known;
	g->cpu_user_usec = o->cpu_user_usec;
	g->cpu_system_usec = o->cpu_system_usec;
	g->log_size = o->log_size;
	log_end(g, o);
	if (g->started)
		report_ended(g, ok);
	if (find_interest(g, o->status, true)) {
		build_again(g, o);
		return;
	}
	for (size_t i = 0; ok && !g->check && i < o->n_outputs; i++)
		(void)smap_remove(&g->goals->broken, o->outputs[i].path);
	if (ok && !g->check) {
		r = g->drv.kind == DRV_IMPURE ? goal_note_made(g, o->outputs, o->n_outputs)
					      : realise_register(g->goals->core, &g->drv,
								 o->outputs, o->n_outputs, &e);
		if (r) {
			goal_fail(g, MISC_FAILURE, &e);
			return;
		}
	}
	if (ok && g->state != GOAL_DONE && goal_post_hook(g))
		return;
	goal_done(g, ok, o->status, o->error);
}

void goal_hooked(struct goal *g)
{
	goal_done(g, true, BUILT, "");
}

static const struct build_run_events run_events = {
	.started = on_started, .log = on_log, .note = on_note, .ended = on_ended
};

/* Told to the supervisor as settings. The payer's are good for a first run: what he pays for is
 * usually his alone. */
static int start_run(struct goal *g, struct err *e)
{
	struct build_job job = {
		.drv_base = g->drv_path.base, .drv = &g->drv, .opts = &g->opts, .check = g->check,
		.replace = g->repair ? &g->goals->broken : NULL
	};
	struct settings s;
	int r = settings_copy(&g->payer->settings, &s);

	if (r < 0)
		return err_errno(e, r, "starting a build");
	g->limits = limits_of(&s);
	for (struct interest *i = g->interests; i; i = i->next_of_goal)
		job.trusted |= i->request->trusted;
	for (struct interest *i = g->again ? g->interests : NULL; i; i = i->next_of_goal)
		g->limits = laxest(g->limits, limits_of(&i->request->settings));
	for (size_t i = 0; r == 0 && i < g->extra_paths.n; i++)
		r = strv_add(&s.sandbox_paths, g->extra_paths.v[i]);
	if (r < 0) {
		settings_done(&s);
		return err_errno(e, r, "starting a build");
	}
	s.timeout = g->limits.timeout;
	s.max_silent_time = g->limits.silence;
	s.max_build_log_size = g->limits.log;
	job.settings = &s;
	job.keep_uid = g->payer->owner->uid;
	r = build_run_start(g->goals->runs, &job, &run_events, g, &g->run, e);
	settings_done(&s);
	return r;
}

static void run_or_fail(struct goal *g)
{
	_cleanup_err_ struct err e = {};
	int r = start_run(g, &e);

	if (!r)
		return;
	g->run = NULL;
	goal_fail(g, r > 0 && r <= NO_SUBSTITUTERS ? (uint64_t)r : MISC_FAILURE, &e);
}

void goal_prepared(struct goal *g, const char *error)
{
	if (error)
		goal_done(g, false, MISC_FAILURE, error);
	else
		run_or_fail(g);
}

/* It has a slot. The outputs are looked for once more: another goal may have made the same fixed
 * output, or another daemon the same build. */
void goal_start(struct goal *g)
{
	_cleanup_err_ struct err e = {};

	if (settled_by_outputs(g))
		return;
	goal_unready(g);
	g->state = GOAL_RUNNING;
	slot_taken(g);
	g->build = ++g->goals->next_build;
	g->start_time = g->stop_time = now_sec();
	g->started_usec = now_usec();
	for (struct interest *i = g->interests; i; i = i->next_of_goal) {
		i->request->progress.running++;
		i->request->progress_due = true;
	}
	if (goal_pre_hook(g, &e))
		return;
	if (e.code)
		goal_fail(g, MISC_FAILURE, &e);
	else
		run_or_fail(g);
}
