/* See goals_int.h: a goal that starts locks its outputs as upstream does (path_lock.h). Goals that
 * make the same outputs by different derivations, and other programs, thus take turns. Linked by
 * airplantd. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/goals_int.h"

enum { RETRY_USEC = 1000000 }; /* nothing tells when a file lock is free */

static int add_name(struct goal *g, const struct drv_output *o, struct strv *names)
{
	_cleanup_free_ char *text = NULL;
	struct store_path p;

	if (*o->path && store_path_parse(g->goals->core->store_dir, o->path, &p, NULL) == 0)
		return strv_add(names, p.base);
	/* Its path follows from what will be built. */
	if (asprintf(&text, "%s.%s", g->drv_path.base, o->name) < 0) {
		text = NULL;
		return -ENOMEM;
	}
	return strv_add(names, text);
}

static void on_lock_timer(void *ctx)
{
	struct goal *g = ctx;

	g->lock_timer = NULL;
	g->goals->n_lock_timers--;
	goal_push(g);
}

static void note_wait(struct goal *g, const char *name)
{
	_cleanup_free_ char *text = NULL;

	if (g->noted_lock)
		return;
	g->noted_lock = true;
	if (asprintf(&text, "waiting for lock on '%s/%s'", g->goals->core->store_dir, name) < 0)
		text = NULL;
	else
		report_note(g, 1, text);
}

/* Steps back from the queue of those that may start. */
static int wait_for_lock(struct goal *g, const char *name)
{
	note_wait(g, name);
	goal_unready(g);
	g->payer = NULL;
	if (loop_timer(g->goals->core->loop, RETRY_USEC, on_lock_timer, g, &g->lock_timer) < 0) {
		g->lock_timer = NULL;
		return -ENOMEM;
	}
	g->goals->n_lock_timers++;
	return 0;
}

bool goal_lock(struct goal *g, struct err *e)
{
	_cleanup_strv_ struct strv names = {};
	const char *busy = NULL;
	int r = 0;

	if (g->locks.fds)
		return true;
	for (size_t i = 0; r == 0 && i < g->drv.outputs.n; i++)
		r = add_name(g, &g->drv.outputs.v[i], &names);
	if (r == 0)
		r = path_locks_take(g->goals->core, &names, &g->locks, &busy, e);
	if (r == PATH_LOCK_BUSY)
		r = wait_for_lock(g, busy);
	if (r < 0 && !e->code)
		(void)err_errno(e, r, "locking the outputs of '%s'", g->drv_path.base);
	return g->locks.fds != NULL;
}

static void stop_waiting(struct goal *g)
{
	if (!g->lock_timer)
		return;
	loop_timer_cancel(g->lock_timer);
	g->lock_timer = NULL;
	g->goals->n_lock_timers--;
}

/* One of those who wait may wait for the one that ends: they look at once. */
static void wake_waiting(struct goals *g)
{
	struct smap_entry *e;

	for (size_t i = 0; g->n_lock_timers && (e = smap_next(&g->by_key, &i));) {
		struct goal *goal = e->value;

		if (goal->lock_timer) {
			stop_waiting(goal);
			goal_push(goal);
		}
	}
}

void goal_unlock(struct goal *g)
{
	stop_waiting(g);
	if (!g->locks.fds)
		return;
	path_locks_drop(g->goals->core, &g->locks);
	wake_waiting(g->goals);
}
