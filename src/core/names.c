/* The core's side of the user database: questions, those who wait for them, and the helpers. See
 * names.h. Linked by airplantd.
 *
 * Nothing here waits. A question that is not answered in time costs its helper, and those who asked
 * are told; there is one question at a time per uid and gid. */
#include "core/names.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/accounts.h"
#include "core/spawn.h"

enum {
	KEEP_USEC = 3 * 1000 * 1000, /* an answer */
	HELPERS_MAX = 16,
	/* The last ones are for clients of whom something was known before: unknown ids, of which a
	 * user may have thousands (/etc/subuid), cannot take them all. */
	HELPERS_FOR_KNOWN = 4,
	SUBJECTS_MAX = 4096,
	TRIES = 2,	       /* a helper may have been killed by somebody */
	SLOW_USEC = 20 * 1000, /* after that another helper is started */
};

/* What the machine's own part of the database is: an answer from before a change is none. */
static const char *const files[] = { "/etc/passwd", "/etc/group", "/etc/nsswitch.conf" };

struct wait {
	struct wait *next;
	names_fn *fn;
	void *ctx;
};

enum state { IDLE, QUEUED, ASKED };

/* Somebody by uid and gid. */
struct subject {
	struct names_desk *desk;
	char key[32];
	uid_t uid;
	gid_t gid;
	enum state state;
	bool known; /* was answered once */
	unsigned int tries;
	struct arena arena; /* of names */
	struct names names;
	uint64_t until_usec; /* they hold; 0: there are none */
	uint64_t epoch;	     /* when it was asked */
	struct strv groups;  /* what is asked for */
	struct wait *waits;
	size_t n_waits;
	struct loop_timer *timer;
	struct subject *next_queued;
};

struct helper {
	struct helper *next;
	struct names_desk *desk;
	int chan, pidfd;
	struct loop_fd *chan_watch, *pid_watch;
	struct subject *subject; /* whom it looks for */
	bool stopped;		 /* and its end has not been seen yet */
};

struct names_desk {
	struct loop *loop;
	struct smap subjects;
	struct stat files[ELEMENTS(files)];
	uint64_t epoch; /* rises when one of them changes */
	struct subject *queue;
	struct helper *helpers;
	size_t n_waits;
	uint64_t wait_usec;
	struct loop_timer *slow;
};

static bool is_same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec &&
	       a->st_size == b->st_size;
}

static uint64_t epoch(struct names_desk *d)
{
	bool same = true;

	for (size_t i = 0; i < ELEMENTS(files); i++) {
		struct stat st = {};

		(void)stat(files[i], &st); /* one that is not there is all zeros */
		same = same && is_same(&st, &d->files[i]);
		d->files[i] = st;
	}
	d->epoch += !same;
	return d->epoch;
}

static void subject_free(struct subject *s)
{
	loop_timer_cancel(s->timer);
	while (s->waits) {
		struct wait *w = s->waits;

		s->waits = w->next;
		free(w);
	}
	strv_done(&s->names.group_names);
	strv_done(&s->groups);
	arena_done(&s->arena);
	free(s);
}

/* -- helpers ----------------------------------------------------------------------------------- */

static void helper_free(struct helper *h)
{
	struct helper **p = &h->desk->helpers;

	while (*p != h)
		p = &(*p)->next;
	*p = h->next;
	loop_remove(h->chan_watch);
	loop_remove(h->pid_watch);
	close_fdp(&h->chan);
	close_fdp(&h->pidfd);
	free(h);
}

/* One that waits for something that never comes cannot even be killed: its end is not waited for.
 */
static void helper_stop(struct helper *h)
{
	loop_remove(h->chan_watch);
	h->chan_watch = NULL;
	close_fdp(&h->chan);
	h->stopped = true;
	(void)syscall(SYS_pidfd_send_signal, h->pidfd, SIGKILL, NULL, 0); /* or it has ended */
}

static void go_on(struct names_desk *d);
static void end(struct subject *s, const struct names *n, const char *why);

static void put_in_front(struct subject *s)
{
	s->state = QUEUED;
	s->next_queued = s->desk->queue;
	s->desk->queue = s;
}

/* It went before it had answered. */
static void ask_again(struct subject *s)
{
	if (s->tries >= TRIES)
		end(s, NULL, "the process that asks the system's user database has died");
	else
		put_in_front(s);
}

static void helper_lost(struct helper *h)
{
	struct subject *s = TAKE_PTR(h->subject);
	struct names_desk *d = h->desk;

	if (!h->stopped)
		helper_stop(h);
	if (s)
		ask_again(s);
	go_on(d);
}

static void on_helper_end(void *ctx, uint32_t events)
{
	struct helper *h = ctx;
	struct names_desk *d = h->desk;
	struct subject *s = TAKE_PTR(h->subject);
	siginfo_t si;

	(void)events;
	(void)waitid(P_PIDFD, (id_t)h->pidfd, &si, WEXITED); /* it has ended */
	helper_free(h);
	if (s)
		ask_again(s);
	go_on(d);
}

/* What it says counts as the database's word, since it is where that is asked. But it is one answer
 * to this question. */
static int hear(struct helper *h)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	struct subject *s = h->subject;
	int r = chan_recv(h->chan, NAMES_MSG_MAX, &m);

	if (r == -EAGAIN)
		return 0;
	if (r != 0 || !s || m.type != NAMES_ANSWER)
		return -EBADMSG;
	arena_done(&s->arena);
	s->arena = ARENA_INIT(NAMES_MSG_MAX);
	strv_done(&s->names.group_names);
	s->names = (struct names){};
	s->until_usec = 0;
	if (msg_decode(&m, &names_layout, &s->arena, &s->names) != 0)
		return -EBADMSG;
	s->names.group_names = (struct strv){};
	if (!s->names.error && (s->names.groups.n != s->groups.n || !*s->names.user))
		return -EBADMSG;
	h->subject = NULL;
	if (s->epoch != epoch(s->desk)) {
		s->tries = 0;
		put_in_front(s);
		return 0;
	}
	s->names.group_names = s->groups;
	s->groups = (struct strv){};
	if (s->names.error) {
		char why[160];

		snprintf(why, sizeof(why), "asking the system's user database: %s",
			 strerror((int)s->names.error));
		end(s, NULL, why);
		return 0;
	}
	s->known = true;
	s->until_usec = now_usec() + KEEP_USEC;
	end(s, &s->names, NULL);
	return 0;
}

static void on_helper_says(void *ctx, uint32_t events)
{
	struct helper *h = ctx;
	struct names_desk *d = h->desk;

	(void)events;
	if (hear(h) < 0)
		helper_lost(h);
	else
		go_on(d);
}

static int helper_start(struct names_desk *d, struct helper **ret)
{
	char *argv[] = { (char *)"airplantd", (char *)NAMES_ARGUMENT, NULL };
	struct helper *h = calloc(1, sizeof(*h));
	int pair[2], r = h ? chan_pair(pair) : -ENOMEM;
	pid_t pid;

	if (r < 0) {
		free(h);
		return r;
	}
	*h = (struct helper){ .next = d->helpers, .desk = d, .chan = pair[0], .pidfd = -1 };
	/* Not by its path: there may be another version by now. */
	r = spawn_child(&(struct spawn){ .path = "/proc/self/exe",
					 .argv = argv,
					 .envp = environ,
					 .fds = &pair[1],
					 .targets = (int[]){ NAMES_FD },
					 .n_fds = 1 },
			&h->pidfd, &pid);
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		free(h);
		return r;
	}
	d->helpers = h;
	if (fcntl(h->chan, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		r = -errno;
	r = r ? r : loop_add(d->loop, h->chan, EPOLLIN, on_helper_says, h, &h->chan_watch);
	r = r ? r : loop_add(d->loop, h->pidfd, EPOLLIN, on_helper_end, h, &h->pid_watch);
	if (r < 0) {
		siginfo_t si;

		helper_stop(h);
		(void)waitid(P_PIDFD, (id_t)h->pidfd, &si, WEXITED); /* it has done nothing yet */
		helper_free(h);
		return r;
	}
	*ret = h;
	return 0;
}

/* -- questions --------------------------------------------------------------------------------- */

static void wait_on(struct subject *s, struct wait *w)
{
	struct wait **last = &s->waits;

	while (*last)
		last = &(*last)->next;
	*last = w;
	w->next = NULL;
	s->n_waits++;
	s->desk->n_waits++;
}

/* Those who wait are told. They may ask something else. */
static void end(struct subject *s, const struct names *n, const char *why)
{
	struct wait *list = s->waits;

	loop_timer_cancel(s->timer);
	s->timer = NULL;
	s->state = IDLE;
	s->waits = NULL;
	s->desk->n_waits -= s->n_waits;
	s->n_waits = 0;
	while (list) {
		struct wait *w = list;

		list = w->next;
		/* The one before may have asked for more: then this is not the answer any more. */
		if (n && s->state != IDLE) {
			wait_on(s, w);
			continue;
		}
		w->fn(w->ctx, n, why);
		free(w);
	}
}

/* One for this question. Another is started when there is none, or, with `more`, when those that
 * are there have been slow. */
static struct helper *helper_for(struct names_desk *d, const struct subject *s, bool more)
{
	size_t n = 0, alive = 0, most = HELPERS_MAX - (s->known ? 0 : HELPERS_FOR_KNOWN);
	struct helper *h, *idle = NULL;
	int r;

	for (h = d->helpers; h; h = h->next) {
		n++;
		alive += !h->stopped;
		if (!h->stopped && !h->subject)
			idle = h;
	}
	if (n - (idle ? 1 : 0) >= most)
		return NULL;
	if (idle || (alive > 0 && !more))
		return idle;
	r = helper_start(d, &h);
	if (r < 0)
		log_warn("starting a process that asks the user database: %s", strerror(-r));
	return r < 0 ? NULL : h;
}

static int put(struct helper *h, struct subject *s)
{
	const struct names_question q = { .uid = s->uid, .gid = s->gid, .groups = s->groups };
	int r;

	s->epoch = epoch(s->desk);
	r = chan_send_record(h->chan, NAMES_ASK, 0, &names_question_layout, &q, NULL, 0);

	if (r < 0)
		return r;
	s->state = ASKED;
	s->tries++;
	h->subject = s;
	return 0;
}

static void slow(void *ctx);

/* As many of the queue as there are helpers; and none stays that nobody needs, but one. */
static void hand_out(struct names_desk *d, bool more)
{
	struct subject **p = &d->queue;
	size_t idle = 0;

	while (*p) {
		struct subject *s = *p;
		struct helper *h = helper_for(d, s, more);

		if (!h) {
			p = &s->next_queued; /* one who is known may still have a place */
			continue;
		}
		more = false;
		if (put(h, s) < 0) {
			helper_stop(h); /* its end is an event, and this goes on then */
			continue;
		}
		*p = s->next_queued;
		s->next_queued = NULL;
	}
	for (struct helper *h = d->helpers; h; h = h->next)
		if (!h->stopped && !h->subject && idle++ > 0)
			helper_stop(h);
	/* Without memory for it: the next client's question goes on. */
	if (d->queue && !d->slow)
		(void)loop_timer(d->loop, SLOW_USEC, slow, d, &d->slow);
}

static void slow(void *ctx)
{
	struct names_desk *d = ctx;

	d->slow = NULL;
	hand_out(d, true);
}

static void go_on(struct names_desk *d)
{
	hand_out(d, false);
}

static void unqueue(struct subject *s)
{
	struct subject **p = &s->desk->queue;

	while (*p && *p != s)
		p = &(*p)->next_queued;
	if (*p)
		*p = s->next_queued;
	s->next_queued = NULL;
}

static void too_late(void *ctx)
{
	struct subject *s = ctx;
	struct names_desk *d = s->desk;

	s->timer = NULL;
	unqueue(s);
	for (struct helper *h = d->helpers; h; h = h->next)
		if (h->subject == s) {
			h->subject = NULL;
			helper_stop(h);
		}
	end(s, NULL, "the system's user database does not answer");
	go_on(d);
}

/* What is not needed goes. */
static void sweep(struct names_desk *d)
{
	struct smap_entry *e;
	uint64_t now = now_usec();

	for (size_t i = 0; (e = smap_next(&d->subjects, &i));) {
		struct subject *s = e->value;

		if (s->state == IDLE && s->until_usec <= now) {
			(void)smap_remove(&d->subjects, s->key);
			subject_free(s);
		}
	}
}

static int find(struct names_desk *d, uid_t uid, gid_t gid, struct subject **ret)
{
	struct subject *s;
	char key[32];

	snprintf(key, sizeof(key), "%u:%u", (unsigned int)uid, (unsigned int)gid);
	*ret = smap_get(&d->subjects, key);
	if (*ret)
		return 0;
	if (d->subjects.n >= SUBJECTS_MAX)
		sweep(d);
	if (d->subjects.n >= SUBJECTS_MAX)
		return -EBUSY;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	*s = (struct subject){ .desk = d, .uid = uid, .gid = gid };
	memcpy(s->key, key, sizeof(key));
	if (smap_put(&d->subjects, key, s) < 0) {
		free(s);
		return -ENOMEM;
	}
	*ret = s;
	return 0;
}

bool names_cover(const struct names *n, const struct strv *groups)
{
	for (size_t i = 0; i < groups->n; i++)
		if (!strv_has(&n->group_names, groups->v[i]))
			return false;
	return true;
}

static int set_question(struct subject *s, const struct strv *groups)
{
	strv_done(&s->groups);
	for (size_t i = 0; i < groups->n; i++)
		if (strv_add(&s->groups, groups->v[i]) < 0)
			return -ENOMEM;
	return 0;
}

static int queue(struct subject *s, const struct strv *groups)
{
	struct subject **p = &s->desk->queue;
	int r = set_question(s, groups);

	r = r ? r : loop_timer(s->desk->loop, s->desk->wait_usec, too_late, s, &s->timer);
	if (r < 0)
		return r;
	/* Those of whom something is known come first: nobody can invent them. */
	while (*p && (!s->known || (*p)->known))
		p = &(*p)->next_queued;
	s->next_queued = *p;
	*p = s;
	s->state = QUEUED;
	s->tries = 0;
	s->until_usec = 0;
	return 0;
}

int names_ask(struct names_desk *d, uid_t uid, gid_t gid, const struct strv *groups, names_fn *fn,
	      void *ctx)
{
	struct subject *s;
	struct wait *w;
	int r = find(d, uid, gid, &s);

	if (r < 0)
		return r;
	if (s->until_usec > now_usec() && s->epoch == epoch(d) && names_cover(&s->names, groups)) {
		fn(ctx, &s->names, NULL);
		return 0;
	}
	if (s->n_waits >= CONNECTIONS_PER_UID || d->n_waits >= CONNECTIONS_MAX)
		return -EBUSY;
	w = malloc(sizeof(*w));
	r = w ? 0 : -ENOMEM;
	if (r == 0 && s->state == IDLE)
		r = queue(s, groups);
	if (r < 0) {
		free(w);
		return r;
	}
	*w = (struct wait){ .fn = fn, .ctx = ctx };
	wait_on(s, w);
	go_on(d);
	return 0;
}

/* -- the desk ---------------------------------------------------------------------------------- */

struct names_desk *names_desk_new(struct loop *loop, uint64_t wait_usec)
{
	struct names_desk *d = calloc(1, sizeof(*d));

	if (d)
		*d = (struct names_desk){ .loop = loop, .wait_usec = wait_usec };
	return d;
}

void names_desk_warm(struct names_desk *d)
{
	struct helper *h;
	int r = d->helpers ? 0 : helper_start(d, &h);

	if (r < 0) /* the first client tries again */
		log_warn("starting a process that asks the user database: %s", strerror(-r));
}

void names_desk_free(struct names_desk *d)
{
	struct smap_entry *e;

	if (!d)
		return;
	while (d->helpers) {
		siginfo_t si;

		helper_stop(d->helpers);
		/* Dead by now, or nobody can end it: then it is init's. */
		(void)waitid(P_PIDFD, (id_t)d->helpers->pidfd, &si, WEXITED | WNOHANG);
		helper_free(d->helpers);
	}
	loop_timer_cancel(d->slow);
	for (size_t i = 0; (e = smap_next(&d->subjects, &i));)
		subject_free(e->value);
	smap_done(&d->subjects);
	free(d);
}
