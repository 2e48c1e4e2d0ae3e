/* See goals_int.h: requests that come from within a build (nest.h).
 *
 * Such a build, the outer one, waits for others without an edge that says so: it has a request,
 * whose `outer` it is. While all goes well that is the same as an edge; but nothing keeps it from
 * closing a circle, so that each new interest of such a request is looked at. And as long as it
 * waits it needs no slot: it gives its own back, lest all slots are held by builds that wait for
 * one. It has one again before it hears its answer, and comes before what has not been started. */
#include <errno.h>
#include <string.h>

#include "core/goals_int.h"

enum {
	DEPTH_MAX = 8, /* builds within builds */
	LENT_LEAST = 64,
};

/* Does it wait for builds of its own? */
static bool waits(const struct goal *g)
{
	for (const struct request *r = g->goals->requests; r; r = r->next)
		if (r->outer == g && !r->over && !r->dead)
			return true;
	return false;
}

/* Each of them may use the machine though it has no slot: by several processes of which one waits.
 */
static bool may_lend(const struct goals *g)
{
	uint64_t most = 4 * g->cap > LENT_LEAST ? 4 * g->cap : LENT_LEAST;

	return g->n_lent < most;
}

static void lend(struct goal *g)
{
	if (g->state != GOAL_RUNNING || g->lent)
		return;
	slot_free(g);
	g->lent = true;
	g->goals->n_lent++;
}

void goal_unlend(struct goal *g)
{
	if (!g->lent)
		return;
	g->lent = false;
	g->goals->n_lent--;
}

/* Whoever waits no longer needs his slot again; those who waited for him less long come later. */
void slots_give_back(struct goals *g)
{
	const struct request *r = g->n_lent ? g->requests : NULL;

	/* One may always go on: the cap can have become 0 meanwhile. */
	for (; r && (g->running < g->cap || !g->running); r = r->next) {
		if (!r->outer || !r->outer->lent || waits(r->outer))
			continue;
		goal_unlend(r->outer);
		slot_taken(r->outer);
	}
}

bool request_may_be_told(const struct request *r)
{
	return !r->outer || !r->outer->lent || waits(r->outer);
}

int request_new_within(struct goal *outer, const struct session_build *b,
		       const struct request_events *events, void *ctx, struct request **ret,
		       struct err *e)
{
	const struct request *payer = outer->payer;

	if (!payer || outer->state != GOAL_RUNNING)
		return err_set(e, 1, "the build is over");
	if (payer->depth >= DEPTH_MAX)
		return err_set(e, 1, "builds are started from within builds more than %d deep",
			       DEPTH_MAX);
	if (!outer->lent && !may_lend(outer->goals))
		return err_set(e, 1, "too many builds wait for builds of their own");
	int r = request_make(outer->goals, b, &payer->settings, payer->owner->uid, false, outer,
			     events, ctx, ret, e);
	if (r)
		return r;
	outer->has_asked = true;
	lend(outer);
	return 0;
}

/* Depth first: requests from within `from` wait for goals, from within which … */
static bool leads_to(struct goal *from, const struct goal *to)
{
	struct goals *all = from->goals;
	struct goal **stack = NULL, *g = from;
	uint64_t mark = ++all->epoch;
	size_t n = 0, cap = 0;

	from->mark = mark;
	for (; g && g != to; g = n ? stack[--n] : NULL) {
		for (struct request *r = g->has_asked ? all->requests : NULL; r; r = r->next) {
			for (struct interest *i = r->outer == g ? r->interests : NULL; i;
			     i = i->next_of_request) {
				if (i->goal->mark == mark)
					continue;
				if (n == cap) {
					struct goal **v =
						reallocarray(stack, cap ? cap * 2 : 64, sizeof(*v));

					if (!v) {
						free(stack);
						return true; /* it cannot be told */
					}
					stack = v;
					cap = cap ? cap * 2 : 64;
				}
				i->goal->mark = mark;
				stack[n++] = i->goal;
			}
		}
	}
	free(stack);
	return g != NULL;
}

bool request_closes_circle(const struct request *r, struct goal *g)
{
	return r->outer && leads_to(g, r->outer);
}

void request_fail_circle(struct request *r)
{
	for (size_t i = 0; i < r->targets.n; i++)
		target_done(r, &r->targets.v[i], MISC_FAILURE,
			    "the build that asks for this would have to end first");
	r->over = true;
}

void goal_forget_nested(struct goal *g)
{
	for (struct request *r = g->has_asked ? g->goals->requests : NULL; r; r = r->next) {
		if (r->outer != g)
			continue;
		r->outer = NULL;
		r->dead = true; /* its session has let it go (nest_close) */
	}
}

/* ---- who hears of a build ----
 *
 * As upstream, what a build is told of those that it asked for is their result; their logs go to
 * the clients that wait for it. */

enum { LISTENING_MAX = 64 };

struct listening {
	struct goal *queue[LISTENING_MAX];
	size_t n;
	uint64_t mark;
};

static void hear_above(struct listening *l, struct goal *g)
{
	if (g->mark == l->mark || l->n == LISTENING_MAX)
		return;
	g->mark = l->mark;
	l->queue[l->n++] = g;
}

static void tell_one(struct listening *l, struct request *r, const struct goal *g, listener_fn fn)
{
	if (r->dead || r->over)
		return;
	if (r->outer) {
		hear_above(l, r->outer);
	} else if (r->told != l->mark) {
		r->told = l->mark;
		if (fn)
			fn(r, g);
	}
}

static void tell_above(struct listening *l, size_t from, const struct goal *g, listener_fn fn)
{
	for (size_t at = from; at < l->n; at++)
		for (struct interest *i = l->queue[at]->interests; i; i = i->next_of_goal)
			tell_one(l, i->request, g, fn);
}

void goal_tell(struct goal *g, listener_fn fn)
{
	struct listening l = { .mark = ++g->goals->epoch };

	hear_above(&l, g);
	tell_above(&l, 0, g, fn);
}

/* Who hears already marks himself, and is not told. */
void goal_tell_joined(struct goal *g, const struct interest *joined, listener_fn fn)
{
	struct listening l = { .mark = ++g->goals->epoch };
	size_t n;

	g->mark = l.mark;
	for (struct interest *i = g->interests; i; i = i->next_of_goal)
		if (i != joined)
			tell_one(&l, i->request, g, NULL);
	tell_above(&l, 0, g, NULL);
	n = l.n;
	tell_one(&l, joined->request, g, fn);
	tell_above(&l, n, g, fn);
}
