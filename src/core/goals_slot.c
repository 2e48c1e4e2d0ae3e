/* See goals_int.h: which build starts when a slot is free.
 *
 * The cap is machine-wide: max-jobs where the administrator set it. Where he did not, the default
 * of 1, or more while a client asks for more (-j), up to twice the processors and at least
 * RAISE_LEAST. A waiting goal stands in the queue of one request,
 * its payer, whose own max-jobs bounds what it pays for at a time. A free slot goes to the user
 * with the fewest running builds; among equals, to the one whose last turn is longest ago; and
 * inside a user likewise to his requests. The cost is linear in the requests that are there, not in
 * their goals. */
#include <string.h>

#include "core/gc_auto.h"
#include "core/goals_int.h"

enum { RAISE_LEAST = 16 };

void slots_recount(struct goals *g)
{
	uint64_t cap = settings_max_jobs(&g->core->settings), most = 2 * g->processors;

	if (most < RAISE_LEAST)
		most = RAISE_LEAST;
	for (const struct request *r = g->core->settings.max_jobs_set ? NULL : g->requests; r;
	     r = r->next) {
		uint64_t wish = r->settings.max_jobs < most ? r->settings.max_jobs : most;

		if (!r->dead && wish > cap)
			cap = wish;
	}
	g->cap = cap;
}

bool request_is_at_limit(const struct request *r)
{
	return r->running >= r->settings.max_jobs;
}

bool request_has_platform(const struct request *r, const struct goal *g)
{
	const struct settings *s = &r->settings;

	return !strncmp(g->drv.builder, "builtin:", 8) || !strcmp(g->drv.platform, s->system) ||
	       strv_has(&s->extra_platforms, g->drv.platform);
}

/* Is `a` a better one than `b`? The build runs with his settings. */
static bool pays_better(const struct goal *g, const struct request *a, const struct request *b)
{
	if (request_has_platform(a, g) != request_has_platform(b, g))
		return request_has_platform(a, g);
	return request_is_at_limit(b) && !request_is_at_limit(a);
}

static struct request *choose_payer(const struct goal *g, const struct request *gone)
{
	struct request *best = NULL;

	for (struct interest *i = g->interests; i; i = i->next_of_goal) {
		struct request *r = i->request;

		if (r == gone || r->dead)
			continue;
		if (!best || pays_better(g, r, best))
			best = r;
	}
	return best;
}

void goal_ready(struct goal *g)
{
	struct request *r = choose_payer(g, NULL);

	if (!r) /* all who wait have given up: the goal is dropped with them */
		r = g->interests->request;
	g->state = GOAL_READY;
	g->payer = r;
	g->next_ready = NULL;
	g->link_ready = r->ready_end;
	*r->ready_end = g;
	r->ready_end = &g->next_ready;
}

void goal_unready(struct goal *g)
{
	if (g->state != GOAL_READY)
		return;
	*g->link_ready = g->next_ready;
	if (g->next_ready)
		g->next_ready->link_ready = g->link_ready;
	else
		g->payer->ready_end = g->link_ready;
	g->next_ready = NULL;
	g->link_ready = NULL;
	g->state = GOAL_WAITING;
}

void slot_taken(struct goal *g)
{
	struct request *r = g->payer;

	g->goals->running++;
	r->running++;
	r->owner->running++;
	r->last_turn = r->owner->last_turn = ++g->goals->turn;
}

void slot_free(struct goal *g)
{
	if (g->lent) {
		goal_unlend(g);
		return;
	}
	g->goals->running--;
	g->payer->running--;
	g->payer->owner->running--;
	goals_kick(g->goals);
}

void goal_repay(struct goal *g, struct request *gone)
{
	struct request *next = choose_payer(g, gone);

	if (!next)
		next = g->interests->request;
	if (g->state == GOAL_READY) {
		goal_unready(g);
		goal_ready(g);
	} else if (g->state == GOAL_RUNNING) {
		g->payer = next;
		if (g->lent)
			return;
		gone->running--;
		gone->owner->running--;
		next->running++;
		next->owner->running++;
	}
}

static bool comes_before(const struct request *a, const struct request *b)
{
	if (a->owner == b->owner)
		return a->last_turn < b->last_turn;
	if (a->owner->running != b->owner->running)
		return a->owner->running < b->owner->running;
	return a->owner->last_turn < b->owner->last_turn;
}

void slots_fill(struct goals *g)
{
	slots_give_back(g);
	while (!g->stopping && g->running < g->cap) {
		struct request *best = NULL;

		for (struct request *r = g->requests; r; r = r->next)
			if (!r->dead && !r->over && r->ready && !request_is_at_limit(r) &&
			    (!best || comes_before(r, best)))
				best = r;
		if (!best || gc_auto_look(g->core->gc_auto, &best->settings))
			return;
		goal_start(best->ready);
	}
}
