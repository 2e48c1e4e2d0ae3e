/* See goals_int.h: the build of a goal that has a slot. */
#include <stdio.h>
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
		.replace = g->repair ? &g->goals->broken : NULL, .goal = g
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

	if (goal_settled(g))
		return;
	if (!goal_lock(g, &e)) {
		if (e.code)
			goal_fail(g, MISC_FAILURE, &e);
		return;
	}
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
