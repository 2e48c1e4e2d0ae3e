/* See goals_int.h: what a goal does next, until it has a slot, and its end: who waited for it is told or
 * moves on. */
#include <errno.h>
#include <string.h>

#include "core/goals_int.h"
#include "core/realise.h"

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

void interest_done(struct interest *i, bool was_running, bool ok, uint64_t status,
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

void goal_stand(struct goal *g)
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

void goal_fail(struct goal *g, uint64_t status, const struct err *e)
{
	goal_done(g, false, status, err_msg(e));
}

static void goal_fail_text(struct goal *g, uint64_t status, char *text)
{
	goal_done(g, false, status, text ? text : "out of memory");
	free(text);
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

bool goal_settled(struct goal *g)
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
	if (r == 0 && goal_settled(g))
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
