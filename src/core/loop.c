/* The event loop: epoll, a heap of timers, and work put off to the end of a round.
 *
 * It never blocks in anything but epoll_wait, and never frees an entry while a round may still
 * hold a pointer to it: removed entries wait on the graveyard until the round is over.
 * Linked by airplantd. */
#include "core/loop.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/macro.h"

enum { EVENTS_PER_ROUND = 128 };

struct loop_fd {
	struct loop *loop;
	int fd;
	void (*fn)(void *ctx, uint32_t events);
	void *ctx;
	bool dead;
	struct loop_fd *next_dead;
};

struct loop_timer {
	struct loop *loop;
	uint64_t at_usec, order; /* equal times fire in the order they were set */
	size_t pos;		 /* in the heap */
	void (*fn)(void *ctx);
	void *ctx;
};

struct deferred {
	void (*fn)(void *ctx);
	void *ctx;
};

struct loop {
	int epfd;
	bool quit;
	struct loop_fd *graveyard;
	struct loop_timer **heap;
	size_t n_heap, cap_heap;
	uint64_t order;
	struct deferred *defers;
	size_t n_defers, cap_defers;
};

struct loop *loop_new(void)
{
	struct loop *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epfd < 0) {
		free(l);
		return NULL;
	}
	return l;
}

static void bury(struct loop *l)
{
	struct loop_fd *f;

	while ((f = l->graveyard)) {
		l->graveyard = f->next_dead;
		free(f);
	}
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	bury(l);
	for (size_t i = 0; i < l->n_heap; i++)
		free(l->heap[i]);
	free(l->heap);
	free(l->defers);
	close(l->epfd);
	free(l);
}

int loop_add(struct loop *l, int fd, uint32_t events, void (*fn)(void *ctx, uint32_t events),
	     void *ctx, struct loop_fd **ret)
{
	struct loop_fd *f = calloc(1, sizeof(*f));
	struct epoll_event ev = { .events = events, .data.ptr = f };

	if (!f)
		return -ENOMEM;
	*f = (struct loop_fd){ .loop = l, .fd = fd, .fn = fn, .ctx = ctx };
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		int r = -errno;

		free(f);
		return r;
	}
	*ret = f;
	return 0;
}

int loop_modify(struct loop_fd *f, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = f };

	return epoll_ctl(f->loop->epfd, EPOLL_CTL_MOD, f->fd, &ev) < 0 ? -errno : 0;
}

void loop_remove(struct loop_fd *f)
{
	if (!f || f->dead)
		return;
	(void)epoll_ctl(f->loop->epfd, EPOLL_CTL_DEL, f->fd, NULL); /* gone already: the same */
	f->dead = true;
	f->next_dead = f->loop->graveyard;
	f->loop->graveyard = f;
}

static bool earlier(const struct loop_timer *a, const struct loop_timer *b)
{
	return a->at_usec != b->at_usec ? a->at_usec < b->at_usec : a->order < b->order;
}

static void heap_set(struct loop *l, size_t i, struct loop_timer *t)
{
	l->heap[i] = t;
	t->pos = i;
}

static void heap_up(struct loop *l, size_t i)
{
	struct loop_timer *t = l->heap[i];

	for (; i > 0 && earlier(t, l->heap[(i - 1) / 2]); i = (i - 1) / 2)
		heap_set(l, i, l->heap[(i - 1) / 2]);
	heap_set(l, i, t);
}

static void heap_down(struct loop *l, size_t i)
{
	struct loop_timer *t = l->heap[i];

	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= l->n_heap)
			break;
		if (child + 1 < l->n_heap && earlier(l->heap[child + 1], l->heap[child]))
			child++;
		if (!earlier(l->heap[child], t))
			break;
		heap_set(l, i, l->heap[child]);
		i = child;
	}
	heap_set(l, i, t);
}

static void heap_take(struct loop *l, struct loop_timer *t)
{
	size_t i = t->pos;
	struct loop_timer *last = l->heap[--l->n_heap];

	if (last == t)
		return;
	heap_set(l, i, last);
	heap_up(l, i);
	heap_down(l, last->pos);
}

int loop_timer(struct loop *l, uint64_t usec, void (*fn)(void *ctx), void *ctx,
	       struct loop_timer **ret)
{
	struct loop_timer *t;

	if (l->n_heap == l->cap_heap) {
		size_t cap = l->cap_heap ? l->cap_heap * 2 : 64;
		struct loop_timer **heap = reallocarray(l->heap, cap, sizeof(*heap));

		if (!heap)
			return -ENOMEM;
		l->heap = heap;
		l->cap_heap = cap;
	}
	t = malloc(sizeof(*t));
	if (!t)
		return -ENOMEM;
	*t = (struct loop_timer){
		.loop = l, .at_usec = now_usec() + usec, .order = l->order++, .fn = fn, .ctx = ctx
	};
	l->heap[l->n_heap] = t;
	t->pos = l->n_heap++;
	heap_up(l, t->pos);
	if (ret)
		*ret = t;
	return 0;
}

void loop_timer_cancel(struct loop_timer *t)
{
	/* A timer that is being called was taken from the heap before: its callback forgets it. */
	if (!t)
		return;
	heap_take(t->loop, t);
	free(t);
}

int loop_defer(struct loop *l, void (*fn)(void *ctx), void *ctx)
{
	if (l->n_defers == l->cap_defers) {
		size_t cap = l->cap_defers ? l->cap_defers * 2 : 16;
		struct deferred *v = reallocarray(l->defers, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->defers = v;
		l->cap_defers = cap;
	}
	l->defers[l->n_defers++] = (struct deferred){ fn, ctx };
	return 0;
}

static void run_timers(struct loop *l)
{
	uint64_t now = now_usec();

	/* Timers set by the callbacks for "now" wait for the next round: a timer that sets itself
	 * again cannot starve the fds. */
	while (l->n_heap > 0 && l->heap[0]->at_usec <= now && !l->quit) {
		struct loop_timer *t = l->heap[0];

		heap_take(l, t);
		t->fn(t->ctx);
		free(t);
	}
}

/* What the deferred calls themselves defer runs after the next poll, which then does not wait. */
static void run_defers(struct loop *l)
{
	struct deferred *v = l->defers;
	size_t n = l->n_defers;

	l->defers = NULL;
	l->n_defers = l->cap_defers = 0;
	for (size_t i = 0; i < n; i++)
		v[i].fn(v[i].ctx);
	if (!l->defers) {
		/* keep the memory for the next round */
		l->defers = v;
		l->cap_defers = n ? n : 0;
	} else {
		free(v);
	}
}

static int wait_msec(const struct loop *l)
{
	uint64_t now, left;

	if (l->n_defers > 0)
		return 0;
	if (l->n_heap == 0)
		return -1;
	now = now_usec();
	if (l->heap[0]->at_usec <= now)
		return 0;
	left = (l->heap[0]->at_usec - now + 999) / 1000;
	return left > 3600 * 1000 ? 3600 * 1000 : (int)left;
}

int loop_run(struct loop *l)
{
	struct epoll_event ev[EVENTS_PER_ROUND];

	l->quit = false;
	while (!l->quit) {
		int n = epoll_wait(l->epfd, ev, EVENTS_PER_ROUND, wait_msec(l));

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		for (int i = 0; i < n; i++) {
			struct loop_fd *f = ev[i].data.ptr;

			if (!f->dead)
				f->fn(f->ctx, ev[i].events);
		}
		run_timers(l);
		run_defers(l);
		bury(l);
	}
	return 0;
}

void loop_quit(struct loop *l)
{
	l->quit = true;
}
