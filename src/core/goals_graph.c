/* See goals_int.h: goals, which needs which, and who waits for which. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/goals_int.h"

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

void edge_free(struct edge *e)
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

void goal_retire(struct goal *g)
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
	goal_forget_nested(g);
	goal_drop_hook(g);
	goal_unlock(g);
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

void interest_free(struct interest *i)
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
			if (request_closes_circle(r, g)) {
				request_fail_circle(r);
				break;
			}
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

int goal_need(struct goal *g, struct goal *dep)
{
	if (edge_add(g, dep) < 0)
		return -ENOMEM;
	for (struct interest *j = g->interests; j; j = j->next_of_goal)
		if (interest_add(j->request, dep, NULL) < 0)
			return -ENOMEM;
	return 0;
}
