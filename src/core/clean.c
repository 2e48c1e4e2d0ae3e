/* See clean.h. One cleaner at a time; one that does not end in time is killed, and not waited for:
 * a process that cannot be killed takes its slot with it and nothing else. */
#include "core/clean.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/core.h"
#include "core/lease.h"
#include "core/spool.h"
#include "core/supervisor.h"
#include "ipc/build.h"

#define SWEEP_USEC     (1000ULL * 1000)
#define SWEEP_MAX_USEC (3600ULL * 1000 * 1000)
#define TELL_USEC      (60ULL * 1000 * 1000)
#define AGAIN_USEC     (60ULL * 1000 * 1000)
#define AGAIN_MAX_USEC (24ULL * 3600 * 1000 * 1000)
#define LIMIT_USEC     (3600ULL * 1000 * 1000)
#define HURRY_USEC     (5ULL * 1000 * 1000)

/* A slot that is to be cleaned. One of them, with lease_fd -1, is the sweep: it looks for a slot
 * that an earlier life left, again and again, since their last holders may still be dying. */
struct dirty {
	struct dirty *next;
	int lease_fd;
	char *scratch; /* to be moved to what the cleaner sees; NULL: it is there */
	unsigned int failures;
	bool hurried;		  /* this try is one more than its timer wanted */
	struct loop_timer *timer; /* until the next try */
	struct clean *clean;
};

/* A cleaner's process. */
struct cleaning {
	struct clean *clean; /* NULL: nobody waits for it any more */
	struct loop *loop;
	struct dirty *slot;
	int chan, pidfd;
	pid_t pid;
	struct loop_fd *chan_watch, *pid_watch;
	struct loop_timer *limit;
	struct arena arena;
	int lease_fd; /* what it was given */
	struct lease_call *call;
	bool ended;   /* but not reaped yet: somebody maps ids for it */
	bool nothing; /* no slot is quarantined: it deletes what is the daemon's own */
	bool asked, said_bye, clean_bye;
	uint64_t host_base;
	char *error; /* the reason, for the log */
};

struct clean {
	struct core *core;
	struct lease *lease;
	void (*returned)(void *ctx);
	void *ctx;
	struct dirty *queue, **queue_end; /* to be tried now */
	struct dirty *later;		  /* to be tried when its timer says so */
	struct dirty *alive;		  /* never, in this life */
	size_t n_stuck;			  /* of all: have failed before */
	struct cleaning *now;
	uint64_t sweep_usec; /* until the next sweep that finds nothing */
	uint64_t hurried_usec;
	bool told_nothing; /* once is enough */
};

static void start_next(struct clean *c);

/* The one place where a slot becomes free. No process is left: a build's first process was seen
 * dead by its pidfd, and with it its pid namespace (build_run.c); or the slot was quarantined in an
 * earlier life, and builders die with their supervisors, which die with the daemon. No file is
 * left: whoever had the slot's ids said so. */
static void on_returned(void *ctx, int r, const struct build_ids *ids, int fd, const struct err *e)
{
	struct clean *c = ctx;

	(void)ids;
	(void)fd;
	/* When that fails, the slot is cleaned once more before anybody gets it. */
	if (r < 0)
		log_error("returning the ids of a build: %s", err_msg(e));
	c->returned(c->ctx);
}

static void return_slot(struct clean *c, int lease_fd)
{
	static const struct lease_events events = { on_returned, NULL };

	lease_return(c->lease, lease_fd, &events, c);
}

static void enqueue(struct clean *c, struct dirty *d)
{
	d->next = NULL;
	*c->queue_end = d;
	c->queue_end = &d->next;
}

static void dirty_free(struct dirty *d)
{
	if (!d)
		return;
	loop_timer_cancel(d->timer);
	close_fdp(&d->lease_fd);
	free(d->scratch);
	free(d);
}

static void list_free(struct dirty *first)
{
	for (struct dirty *d = first, *next; d; d = next) {
		next = d->next;
		dirty_free(d);
	}
}

static struct dirty *dirty_new(struct clean *c, int lease_fd)
{
	struct dirty *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->clean = c;
	d->lease_fd = lease_fd;
	return d;
}

/* ---- a slot that cannot be cleaned now ---- */

/* From those put off to those that are tried. */
static void try_now(struct clean *c, struct dirty *d)
{
	struct dirty **link = &c->later;

	while (*link != d)
		link = &(*link)->next;
	*link = d->next;
	loop_timer_cancel(d->timer);
	d->timer = NULL;
	enqueue(c, d);
}

static void on_again(void *ctx)
{
	struct dirty *d = ctx;

	d->timer = NULL;
	try_now(d->clean, d);
	start_next(d->clean);
}

/* What stopped one (a full disk, one that was read-only, files of another that lay beside its own)
 * may have stopped them all. */
static void try_all(struct clean *c)
{
	for (struct dirty *d = c->later, *next; d; d = next) {
		next = d->next;
		if (d->failures) {
			d->hurried = true;
			try_now(c, d);
		}
	}
}

void clean_hurry(struct clean *c)
{
	if (now_usec() < c->hurried_usec + HURRY_USEC)
		return;
	c->hurried_usec = now_usec();
	try_all(c);
	start_next(c);
}

static void put_off(struct clean *c, struct dirty *d, uint64_t usec)
{
	d->next = c->later;
	c->later = d;
	/* Without a timer it stays quarantined until the next start. */
	if (loop_timer(c->core->loop, usec, on_again, d, &d->timer) < 0)
		d->timer = NULL;
}

static void put_aside(struct clean *c, struct dirty *d, const char *why, uint64_t host_base)
{
	uint64_t usec = AGAIN_USEC << (d->failures < 20 ? d->failures : 20);
	char slot[64] = "the quarantined slots";

	if (usec > AGAIN_MAX_USEC)
		usec = AGAIN_MAX_USEC;
	if (d->hurried) { /* the log has it */
		d->hurried = false;
		put_off(c, d, usec);
		return;
	}
	if (d->failures++ == 0)
		c->n_stuck++;
	if (host_base)
		snprintf(slot, sizeof(slot), "the slot of uid %llu", (unsigned long long)host_base);
	else if (d->lease_fd >= 0)
		snprintf(slot, sizeof(slot), "the slot of a build");
	log_error("%s cannot be cleaned in '%s': %s; no build gets it; next try in %llu seconds "
		  "(%zu waiting)",
		  slot, spool_lost_dir(c->core->spool), why, (unsigned long long)usec / 1000000,
		  c->n_stuck);
	put_off(c, d, usec);
}

/* ---- the process ---- */

static void cleaning_free(struct cleaning *p)
{
	loop_remove(p->chan_watch);
	loop_remove(p->pid_watch);
	loop_timer_cancel(p->limit);
	close_fdp(&p->chan);
	close_fdp(&p->pidfd);
	close_fdp(&p->lease_fd);
	dirty_free(p->slot);
	arena_done(&p->arena);
	free(p->error);
	free(p);
}

static void kill_it(struct cleaning *p)
{
	(void)syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0); /* gone is fine */
}

static void blame(struct cleaning *p, const char *why)
{
	if (!p->error)
		p->error = strdup(why);
}

static bool is_clean(const struct cleaning *p)
{
	return p->said_bye && p->clean_bye;
}

/* Nothing is quarantined now. */
static void sweep_later(struct cleaning *p, struct clean *c, struct dirty *d)
{
	/* Soon after a start the last holder of an old lease may still be cleaning up. */
	if (!is_clean(p) && !c->told_nothing && c->n_stuck == 0 && c->sweep_usec > TELL_USEC) {
		c->told_nothing = true;
		log_warn("'%s' is not empty: %s", spool_lost_dir(c->core->spool),
			 p->error ? p->error : "the cleaner ended without an answer");
	}
	if (d->failures)
		c->n_stuck--;
	d->failures = 0;
	put_off(c, d, c->sweep_usec);
	c->sweep_usec = 2 * c->sweep_usec < SWEEP_MAX_USEC ? 2 * c->sweep_usec : SWEEP_MAX_USEC;
}

/* The sweep has found a slot, which is a case of its own from now on; and goes on. */
static struct dirty *split_off(struct cleaning *p, struct clean *c, struct dirty *sweep)
{
	struct dirty *d = dirty_new(c, -1);

	c->sweep_usec = SWEEP_USEC;
	enqueue(c, sweep);
	if (d)
		d->lease_fd = TAKE_FD(p->lease_fd);
	return d; /* NULL: closed, hence quarantined, hence found again */
}

/* What became of it, when it has ended or is given up. */
static void settle(struct cleaning *p)
{
	struct clean *c = p->clean;
	struct dirty *d = TAKE_PTR(p->slot);

	c->now = NULL;
	p->clean = NULL;
	if (p->nothing) {
		sweep_later(p, c, d);
		start_next(c);
		return;
	}
	if (d->lease_fd < 0 && p->lease_fd >= 0)
		d = split_off(p, c, d);
	if (d && d->lease_fd >= 0 && is_clean(p)) {
		if (d->failures) {
			c->n_stuck--;
			try_all(c);
		}
		return_slot(c, TAKE_FD(d->lease_fd));
		dirty_free(d);
	} else if (d) {
		put_aside(c, d, p->error ? p->error : "the cleaner ended without an answer",
			  p->host_base);
	}
	start_next(c);
}

static void reap(struct cleaning *p);

static void on_ids(void *ctx, int r, const struct build_ids *given, int fd, const struct err *e)
{
	struct cleaning *p = ctx;
	struct build_ids ids = *given;

	p->lease_fd = fd;
	if (r == LEASE_NONE && p->slot && p->slot->lease_fd < 0) {
		p->nothing = true;
		ids = (struct build_ids){ .mode = IDS_SINGLE };
		r = 0;
	}
	p->host_base = ids.host_base;
	if (r == 0) {
		r = chan_send_record(p->chan, BUILD_IDS, 0, &build_ids_layout, &ids, &p->lease_fd,
				     p->lease_fd >= 0);
		if (r < 0)
			blame(p, "the cleaner does not listen");
	} else {
		blame(p, r < 0 ? err_msg(e) : "its ids are not to be had now");
	}
	if (r)
		kill_it(p);
	if (p->ended)
		reap(p);
}

static void give_ids(struct cleaning *p)
{
	static const struct lease_events events = { on_ids, NULL };

	p->asked = true;
	lease_clean(p->clean->lease, p->slot->lease_fd, p->pidfd, p->pid, &events, p, &p->call);
}

static void take_bye(struct cleaning *p, const struct msg *m)
{
	struct build_bye bye;

	if (p->said_bye || (p->lease_fd < 0 && !p->nothing) ||
	    msg_decode(m, &build_bye_layout, &p->arena, &bye)) {
		blame(p, "the cleaner sent a wrong answer");
		kill_it(p);
		return;
	}
	p->said_bye = true;
	p->clean_bye = bye.clean == 1;
	if (!p->clean_bye)
		blame(p, bye.error);
}

/* Two messages come from a cleaner; whatever else comes ends it. */
static void read_message(struct cleaning *p)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	int r = chan_recv(p->chan, CHAN_INLINE, &m);

	if (r == -EAGAIN)
		return;
	if (r == 0 && m.type == BUILD_NEED_IDS && !p->asked) {
		give_ids(p);
	} else if (r == 0 && m.type == BUILD_BYE) {
		take_bye(p, &m);
	} else {
		/* The rest is told by the end of the process. */
		loop_remove(p->chan_watch);
		p->chan_watch = NULL;
		if (r != CHAN_EOF)
			kill_it(p);
	}
}

static void on_message(void *ctx, uint32_t events)
{
	struct cleaning *p = ctx;

	(void)events;
	if (p->clean)
		read_message(p);
}

static void reap(struct cleaning *p)
{
	(void)waitid(P_PIDFD, (id_t)p->pidfd, &(siginfo_t){}, WEXITED | WNOHANG);
	if (p->clean)
		settle(p);
	cleaning_free(p);
}

static void on_end(void *ctx, uint32_t events)
{
	struct cleaning *p = ctx;

	(void)events;
	for (int i = 0; i < 3 && p->clean && p->chan_watch; i++)
		read_message(p); /* what it said last comes first; the third is the end */
	loop_remove(p->pid_watch);
	p->pid_watch = NULL;
	if (!p->call || lease_cancel(p->call)) {
		reap(p);
		return;
	}
	p->ended = true; /* who maps ids for it may know it by its number alone */
}

/* It may be in the middle of a system call that never returns: the others go on. */
static void on_limit(void *ctx)
{
	struct cleaning *p = ctx;

	p->limit = NULL;
	if (p->call && loop_timer(p->loop, LIMIT_USEC, on_limit, p, &p->limit) == 0)
		return; /* it has not begun */
	kill_it(p);
	loop_remove(p->chan_watch);
	p->chan_watch = NULL;
	p->said_bye = false;
	blame(p, "deleting takes longer than an hour");
	if (p->clean)
		settle(p);
}

static int launch(struct clean *c, struct cleaning *p, struct err *e)
{
	struct supervisor s;
	int r = supervisor_start(c->core, BUILD_CLEAN, spool_lost_dir(c->core->spool), &s, e);

	if (r < 0)
		return r;
	p->chan = s.chan;
	p->pidfd = s.pidfd;
	p->pid = s.pid;
	r = loop_add(p->loop, p->pidfd, EPOLLIN, on_end, p, &p->pid_watch);
	if (r == 0)
		r = loop_add(p->loop, p->chan, EPOLLIN, on_message, p, &p->chan_watch);
	if (r == 0)
		r = loop_timer(p->loop, LIMIT_USEC, on_limit, p, &p->limit);
	return r < 0 ? err_errno(e, r, "watching a cleaner") : 0;
}

/* 0 when one works for `d` now. */
static int start_one(struct clean *c, struct dirty *d, struct err *e)
{
	struct cleaning *p;
	int r = d->scratch ? spool_lose(c->core->spool, d->scratch) : 0;

	if (r < 0)
		return err_errno(e, r, "moving '%s'", d->scratch);
	free(TAKE_PTR(d->scratch));
	if (d->lease_fd < 0) {
		r = spool_lose_leftovers(c->core->spool);
		if (r < 0)
			return err_errno(e, r, "moving what an earlier life left");
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_errno(e, -ENOMEM, "starting a cleaner");
	p->clean = c;
	p->loop = c->core->loop;
	p->chan = p->pidfd = p->lease_fd = -1;
	p->arena = ARENA_INIT(1 << 20);
	r = launch(c, p, e);
	if (r < 0) {
		if (p->pidfd >= 0) {
			kill_it(p);
			(void)waitid(P_PIDFD, (id_t)p->pidfd, &(siginfo_t){}, WEXITED);
		}
		cleaning_free(p);
		return r;
	}
	p->slot = d;
	c->now = p;
	return 0;
}

static void start_next(struct clean *c)
{
	while (!c->now && c->queue) {
		_cleanup_err_ struct err e = {};
		struct dirty *d = c->queue;

		c->queue = d->next;
		if (!c->queue)
			c->queue_end = &c->queue;
		if (start_one(c, d, &e) < 0)
			put_aside(c, d, err_msg(&e), 0);
	}
}

/* ---- from outside ---- */

struct clean *clean_new(struct core *core, struct lease *lease, void (*returned)(void *ctx),
			void *ctx)
{
	struct clean *c = calloc(1, sizeof(*c));
	struct dirty *d;

	if (!c)
		return NULL;
	c->core = core;
	c->lease = lease;
	c->returned = returned;
	c->ctx = ctx;
	c->queue_end = &c->queue;
	c->sweep_usec = SWEEP_USEC;
	d = dirty_new(c, -1);
	if (!d) {
		free(c);
		return NULL;
	}
	enqueue(c, d);
	start_next(c);
	return c;
}

void clean_free(struct clean *c)
{
	if (!c)
		return;
	list_free(c->queue);
	list_free(c->later);
	list_free(c->alive);
	if (c->now) {
		kill_it(c->now);
		(void)waitid(P_PIDFD, (id_t)c->now->pidfd, &(siginfo_t){}, WEXITED | WNOHANG);
		cleaning_free(c->now);
	}
	free(c);
}

void clean_slot_done(struct clean *c, int lease_fd)
{
	return_slot(c, lease_fd);
}

void clean_slot(struct clean *c, int lease_fd, const char *scratch)
{
	struct dirty *d = dirty_new(c, lease_fd);

	if (!d || (scratch && !(d->scratch = strdup(scratch)))) {
		log_error("out of memory: the slot of a build stays taken until the next start");
		free(d); /* and not its fd: quarantined, but not seen to by this life's sweep */
		close_fdp(&lease_fd);
		return;
	}
	enqueue(c, d);
	start_next(c);
}

void clean_slot_alive(struct clean *c, int lease_fd, const char *scratch)
{
	struct dirty *d = dirty_new(c, lease_fd);

	if (scratch && spool_lose(c->core->spool, scratch) < 0)
		log_warn("'%s' stays until the next start", scratch);
	if (!d) /* the lock must be held, or the sweep would take the slot for a dead one */
		return;
	d->next = c->alive;
	c->alive = d;
	c->n_stuck++;
}

size_t clean_stuck(const struct clean *c)
{
	return c->n_stuck;
}
