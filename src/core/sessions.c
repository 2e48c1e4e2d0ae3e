/* The life of sessions: started, given a client, heard, ended. See sessions.h. Linked by airplantd.
 *
 * What comes through the channel counts as hostile: it can end its own session and nothing else. */
#include "core/sessions.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/gc.h"
#include "core/jail.h"
#include "core/listen.h"
#include "core/nest.h"
#include "core/reserve.h"
#include "core/session_state.h"
#include "core/spool.h"
#include "core/tracer.h"

enum { SPARES = 2, MESSAGES_PER_ROUND = 64, BIG_MESSAGE = 1 << 20 };

struct waiting {
	struct waiting *next;
	struct sessions *all;
	int fd;
	struct peer peer;
	struct loop_timer *timer;
};

static void leave_nest(struct peer *p)
{
	if (p->nest)
		nest_left(p->nest);
	p->nest = NULL;
}

static void drop_peer(struct peer *p)
{
	leave_nest(p);
	peer_done(p);
}

struct sessions *sessions_new(struct core *core)
{
	struct sessions *ss = calloc(1, sizeof(*ss));

	if (ss)
		ss->core = core;
	return ss;
}

void session_ref(struct session *s)
{
	s->refs++;
}

void session_unref(struct session *s)
{
	if (--s->refs > 0)
		return;
	outbox_done(&s->out);
	msg_done(&s->held);
	msg_done(&s->options);
	session_let_settings_go(s);
	smap_done(&s->temp_roots);
	drop_peer(&s->peer);
	close_fdp(&s->spool_fd);
	free(s->spool_path);
	free(s);
}

/* A collection that runs may have asked for roots before the client made his: what he held counts
 * until its end. */
static void leave_pins(struct session *s)
{
	struct smap_entry *e;

	if (gc_is_running(s->all->core))
		for (size_t i = 0; (e = smap_next(&s->temp_roots, &i));)
			gc_pin(s->all->core, e->key);
}

/* First half of the end: nothing is heard or said any more; the process is told to go. */
static void session_stop(struct session *s)
{
	if (s->stopped)
		return;
	s->stopped = true;
	session_build_cancel(s);
	session_gc_cancel(s);
	session_optimise_cancel(s);
	loop_remove(s->chan_watch);
	s->chan_watch = NULL;
	close_fdp(&s->chan);
	leave_pins(s);
	account_let_go(&s->all->accounts, s->peer.uid, s->temp_roots.n);
	smap_done(&s->temp_roots);
	/* It ends by itself when its channel closes; a hostile one might not. The status of one
	 * that is ending already stays what it is. */
	(void)syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0); /* gone already: fine */
}

static void unlink_session(struct session *s)
{
	if (s->prev)
		s->prev->next = s->next;
	else
		s->all->list = s->next;
	if (s->next)
		s->next->prev = s->prev;
}

/* Second half: the process is gone, and with it every fd into its spool. */
static void session_gone(struct session *s)
{
	struct sessions *ss = s->all;
	struct core *core = ss->core;

	if (s->assigned)
		account_close(&ss->accounts, s->peer.uid);
	else if (s->spare)
		ss->n_spares--;
	loop_remove(s->pid_watch);
	s->pid_watch = NULL;
	close_fdp(&s->pidfd);
	close_fdp(&s->spool_fd);
	if (core->spool && s->spool_path && s->generation == core->generation)
		spool_drop(core->spool, s->spool_path);
	leave_nest(&s->peer);
	unlink_session(s);
	session_unref(s);
}

static void refill_later(struct sessions *ss);

static void on_exit_event(void *ctx, uint32_t events)
{
	struct session *s = ctx;
	struct sessions *ss = s->all;
	siginfo_t si = {};
	bool spare = s->spare;

	(void)events;
	if (waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED) < 0 && errno != ECHILD)
		return;
	/* SIGKILL is ours, or the machine's when memory is short: nobody's crash. */
	if ((si.si_code == CLD_KILLED || si.si_code == CLD_DUMPED) && si.si_status != SIGKILL) {
		log_warn("session %d of user %s died of signal %d", (int)s->pid,
			 s->assigned ? s->peer.name : "(none yet)", si.si_status);
		if (s->assigned)
			account_crash(&ss->accounts, s->peer.uid);
	} else if (spare && !s->stopped) {
		log_warn("a waiting session ended by itself, with status %d", si.si_status);
	}
	session_stop(s);
	session_gone(s);
	/* A spare that does not live is not replaced at once: that would be a loop. */
	if (!spare)
		refill_later(ss);
}

static void stop_doomed(void *ctx)
{
	struct session *s = ctx;

	session_stop(s);
	session_unref(s);
}

/* Callers may be deep in somebody else's event: the end comes when the round is over. */
void session_doom(struct session *s)
{
	if (s->doomed || s->stopped)
		return;
	s->doomed = true;
	session_ref(s);
	if (loop_defer(s->all->core->loop, stop_doomed, s) < 0)
		session_unref(s); /* out of memory: its next event ends it */
}

void session_misbehaves(struct session *s, const char *what)
{
	if (!s->doomed && !s->stopped)
		log_warn("session %d of user %s sent %s: ended", (int)s->pid,
			 s->peer.name ? s->peer.name : "(none yet)", what);
	session_doom(s);
}

static uint32_t wanted_events(const struct session *s)
{
	return (s->held.data ? 0 : EPOLLIN) | (outbox_waiting(&s->out) ? EPOLLOUT : 0);
}

void session_send(struct session *s, uint32_t type, uint32_t id, const struct layout *l,
		  const void *record, int fd, uint64_t replace_key)
{
	bool waited = outbox_waiting(&s->out);
	int r;

	if (s->stopped || s->doomed)
		return;
	r = outbox_send(&s->out, type, id, l, record, fd, replace_key);
	if (r == 0 && !waited && outbox_waiting(&s->out))
		r = loop_modify(s->chan_watch, wanted_events(s));
	if (r == -ENOBUFS)
		log_warn("session %d of user %s does not read what it asked for: ended",
			 (int)s->pid, s->peer.name);
	else if (r < 0 && r != -EPIPE)
		log_warn("answering session %d: %s", (int)s->pid, strerror(-r));
	if (r < 0)
		session_doom(s);
}

static void hear(struct session *s)
{
	for (int i = 0; i < MESSAGES_PER_ROUND && !s->stopped && !s->doomed; i++) {
		_cleanup_msg_ struct msg m = MSG_INIT;
		int r = chan_recv(s->chan, SESSION_MSG_MAX, &m);

		if (r == -EAGAIN)
			return;
		if (r == CHAN_BAD) {
			session_misbehaves(s, "something that is not a message");
			return;
		}
		if (r != 0) {
			if (r < 0)
				log_warn("reading from session %d: %s", (int)s->pid, strerror(-r));
			session_stop(s);
			return;
		}
		if (!s->assigned) {
			session_misbehaves(s, "a request before it had a client");
			return;
		}
		session_dispatch(s, &m);
		if (s->held.data) {
			(void)loop_modify(s->chan_watch, wanted_events(s)); /* else: it spins */
			return;
		}
		if (m.len > BIG_MESSAGE)
			return; /* others first; what it allocated is freed after the round */
	}
}

static void on_channel(void *ctx, uint32_t events)
{
	struct session *s = ctx;

	session_ref(s);
	if (events & EPOLLOUT) {
		int r = outbox_flush(&s->out);

		if (r < 0)
			session_stop(s);
		else if (!outbox_waiting(&s->out))
			/* else: one idle wake-up more */
			(void)loop_modify(s->chan_watch, wanted_events(s));
	}
	if (s->held.data && (events & (EPOLLHUP | EPOLLERR)))
		session_stop(s); /* nobody waits for its answer */
	if (!s->stopped && !s->held.data && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		hear(s);
	session_unref(s);
}

static int watch(struct session *s)
{
	struct loop *l = s->all->core->loop;
	int r;

	if (fcntl(s->chan, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	r = loop_add(l, s->chan, EPOLLIN, on_channel, s, &s->chan_watch);
	if (r == 0)
		r = loop_add(l, s->pidfd, EPOLLIN, on_exit_event, s, &s->pid_watch);
	return r;
}

/* Undoes a start that failed half way; no event ever saw it. */
static void discard(struct session *s)
{
	siginfo_t si;

	loop_remove(s->chan_watch);
	loop_remove(s->pid_watch);
	close_fdp(&s->chan);
	if (s->pidfd >= 0) {
		(void)syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0); /* gone: fine */
		(void)waitid(P_PIDFD, (id_t)s->pidfd, &si, WEXITED);
		close_fdp(&s->pidfd);
	}
	if (s->spool_path)
		spool_drop(s->all->core->spool, s->spool_path);
	session_unref(s);
}

/* A porter that was killed is replaced, once: the jail is made anew. */
static int enter_jail(struct session *s, int chan, struct err *e)
{
	struct core *core = s->all->core;

	for (int tries = 0;; tries++) {
		int r = core->jail ? 0 : jail_new(core, &core->jail, e);

		if (r == 0)
			r = jail_spawn(core->jail, s->spool_path, chan, &s->pid, &s->pidfd, e);
		if (r != -EPIPE || tries > 0)
			return r;
		log_warn("%s; the jail is made anew", err_msg(e));
		err_done(e);
		*e = (struct err){};
		jail_free(TAKE_PTR(core->jail));
	}
}

static int session_start(struct sessions *ss, struct session **ret, struct err *e)
{
	struct core *core = ss->core;
	struct session *s = calloc(1, sizeof(*s));
	_cleanup_close_ int theirs = -1;
	int pair[2], r;

	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	*s = (struct session){ .all = ss,
			       .refs = 1,
			       .pidfd = -1,
			       .chan = -1,
			       .spool_fd = -1,
			       .generation = core->generation };
	outbox_init(&s->out, -1);
	r = chan_pair(pair);
	if (r < 0) {
		discard(s);
		return err_errno(e, r, "creating a channel");
	}
	s->chan = s->out.fd = pair[0];
	theirs = pair[1];
	r = spool_make(core->spool, 's', &s->spool_path, &s->spool_fd);
	if (r < 0)
		err_errno(e, r, "creating a spool directory");
	if (r == 0)
		r = enter_jail(s, theirs, e);
	if (r == 0) {
		r = watch(s);
		if (r < 0)
			err_errno(e, r, "watching a session");
	}
	if (r < 0) {
		discard(s);
		return r;
	}
	s->next = ss->list;
	if (s->next)
		s->next->prev = s;
	ss->list = s;
	*ret = s;
	return 0;
}

/* Whoever is to make room on a full disk has to get in: what is kept for that is given free. */
static int session_start_hard(struct sessions *ss, struct session **ret, struct err *e)
{
	int r = session_start(ss, ret, e);

	if (r != -ENOSPC && r != -EDQUOT)
		return r;
	reserve_drop(ss->core);
	err_done(e);
	return session_start(ss, ret, e);
}

static void refill(void *ctx)
{
	struct sessions *ss = ctx;
	_cleanup_err_ struct err e = {};
	struct session *s;

	ss->refilling = false;
	if (!ss->warm || ss->n_spares >= SPARES || !ss->core->jail)
		return;
	if (session_start(ss, &s, &e) < 0) {
		log_warn("%s", err_msg(&e)); /* the next client starts its own, and tells */
		return;
	}
	s->spare = true;
	if (++ss->n_spares < SPARES)
		refill_later(ss);
}

static void refill_later(struct sessions *ss)
{
	if (ss->refilling || !ss->warm || ss->n_spares >= SPARES)
		return;
	ss->refilling = loop_defer(ss->core->loop, refill, ss) == 0;
}

void sessions_warm(struct sessions *ss)
{
	ss->warm = true;
	refill_later(ss);
}

static struct session *take_spare(struct sessions *ss)
{
	for (struct session *s = ss->list; s && ss->n_spares > 0; s = s->next)
		if (s->spare && !s->stopped && !s->doomed)
			return s;
	return NULL;
}

static void introduce(struct session *s, int fd)
{
	static const struct timeval idle = { .tv_sec = SESSION_IDLE_SEC };
	const struct core *core = s->all->core;
	const struct settings *set = &core->settings;
	_cleanup_strv_ struct strv subs = {};
	struct session_client c = {
		.store_dir = core->store_dir,
		.daemon_version = (char *)AIRPLANT_PROTOCOL_VERSION_STRING,
		.peer_name = s->peer.name,
		.trusted = s->peer.trusted,
		.peer_uid = s->peer.uid,
		.peer_pid = (uint64_t)s->peer.pid,
		.log_lines = set->log_lines,
		.experimental_features = set->experimental_features,
		.state_dir = core->state_dir,
		.log_dir = core->log_dir,
		.system = set->system,
		.rights = s->peer.rights.mask,
		.may_set = s->peer.rights.set,
		.restricted = s->peer.nested,
	};
	int r = 0;

	for (size_t i = 0; r == 0 && i < set->substituters.n; i++)
		r = strv_add(&subs, set->substituters.v[i]);
	for (size_t i = 0; r == 0 && i < set->trusted_substituters.n; i++)
		r = strv_add(&subs, set->trusted_substituters.v[i]);
	for (size_t i = 0; r == 0 && i < s->peer.rights.substituters.n; i++)
		r = strv_add(&subs, s->peer.rights.substituters.v[i]);
	if (r < 0) {
		session_doom(s);
		return;
	}
	c.substituters = subs;
	/* Refused: the session looks, and polls instead. */
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof(idle));
	session_send(s, SESSION_CLIENT, 0, &session_client_layout, &c, fd, 0);
}

/* The connection is counted already. Takes fd and *peer over. */
static void serve_now(struct sessions *ss, int fd, struct peer *peer)
{
	_cleanup_err_ struct err e = {};
	struct session *s = take_spare(ss);

	if (s) {
		s->spare = false;
		ss->n_spares--;
	} else if (session_start_hard(ss, &s, &e) < 0) {
		(void)err_prefix(&e, "the daemon cannot serve you now: ");
		account_close(&ss->accounts, peer->uid);
		drop_peer(peer);
		listener_refuse(ss->core->listener, fd, err_msg(&e));
		return;
	}
	s->assigned = true;
	tracer_note_client(ss->core, peer->uid);
	s->peer = *peer;
	*peer = (struct peer){};
	introduce(s, fd);
	close(fd);
	refill_later(ss);
}

static void stop_waiting(struct waiting *w)
{
	struct waiting **p = &w->all->waiting;

	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	free(w);
}

static void send_away(struct waiting *w)
{
	loop_timer_cancel(w->timer);
	account_close(&w->all->accounts, w->peer.uid);
	drop_peer(&w->peer);
	close(w->fd);
	stop_waiting(w);
}

static void waited_enough(void *ctx)
{
	struct waiting *w = ctx;
	struct sessions *ss = w->all;
	struct peer peer = w->peer;
	int fd = w->fd;

	stop_waiting(w);
	serve_now(ss, fd, &peer);
}

void sessions_serve(struct sessions *ss, int fd, struct peer *peer)
{
	uint64_t penalty = account_penalty(&ss->accounts, peer->uid);
	struct waiting *w;
	int r = account_open(&ss->accounts, peer->uid);

	if (r != 0) {
		log_warn("too many connections: refused one of user %s", peer->name);
		drop_peer(peer);
		close(fd);
		return;
	}
	if (penalty == 0) {
		serve_now(ss, fd, peer);
		return;
	}
	w = malloc(sizeof(*w));
	if (w) {
		*w = (struct waiting){ .next = ss->waiting, .all = ss, .fd = fd, .peer = *peer };
		if (loop_timer(ss->core->loop, penalty, waited_enough, w, &w->timer) == 0) {
			ss->waiting = w;
			return;
		}
		free(w);
	}
	account_close(&ss->accounts, peer->uid);
	drop_peer(peer);
	close(fd);
}

void sessions_drop_spares(struct sessions *ss)
{
	for (struct session *s = ss->list; s; s = s->next) {
		if (!s->spare)
			continue;
		s->spare = false;
		ss->n_spares--;
		session_stop(s);
	}
	refill_later(ss);
}

void sessions_end_nest(struct sessions *ss, const struct nest *n)
{
	for (struct waiting *w = ss->waiting, *next; w; w = next) {
		next = w->next;
		if (w->peer.nest == n)
			send_away(w);
	}
	for (struct session *s = ss->list; s; s = s->next) {
		if (s->peer.nest != n)
			continue;
		leave_nest(&s->peer);
		session_build_cancel(s);
		session_doom(s);
	}
}

void sessions_stop(struct sessions *ss)
{
	ss->warm = false;
	while (ss->waiting)
		send_away(ss->waiting);
	for (struct session *s = ss->list; s; s = s->next)
		session_stop(s);
}

void sessions_free(struct sessions *ss)
{
	if (!ss)
		return;
	sessions_stop(ss);
	while (ss->list) {
		siginfo_t si;

		/* Killed above: this does not take long. */
		(void)waitid(P_PIDFD, (id_t)ss->list->pidfd, &si, WEXITED);
		session_gone(ss->list);
	}
	accounts_done(&ss->accounts);
	free(ss);
}

void sessions_resume(struct sessions *ss)
{
	for (struct session *s = ss->list; s; s = s->next) {
		_cleanup_msg_ struct msg m = s->held;

		s->held = MSG_INIT;
		if (!m.data || s->stopped || s->doomed)
			continue;
		session_dispatch(s, &m);
		(void)loop_modify(s->chan_watch, wanted_events(s)); /* a stopped one has none */
	}
}

int sessions_temp_roots(struct sessions *ss, int (*fn)(void *ctx, const char *base, pid_t pid),
			void *ctx)
{
	for (struct session *s = ss->list; s; s = s->next) {
		struct smap_entry *e;

		for (size_t i = 0; (e = smap_next(&s->temp_roots, &i));) {
			int r = fn(ctx, e->key, s->pid);

			if (r != 0)
				return r;
		}
	}
	return 0;
}

bool sessions_building(const struct sessions *ss)
{
	for (const struct session *s = ss->list; s; s = s->next)
		if (s->building)
			return true;
	return false;
}

/* No session holds such a lock for longer than a moment, unless it was taken over. It is ended at
 * once, since the core waits; the rest of its end follows when the loop hears of it. */
void sessions_end_blocker(void *ctx, pid_t pid)
{
	struct core *core = ctx;

	for (struct session *s = core->sessions ? core->sessions->list : NULL; s; s = s->next) {
		if (s->pid != pid || s->blocked)
			continue;
		s->blocked = true;
		log_warn("session %d of user %s locks the database against its writer: ended",
			 (int)pid, s->peer.name ? s->peer.name : "(none yet)");
		(void)syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0); /* gone: fine */
		if (s->assigned)
			account_crash(&core->sessions->accounts, s->peer.uid);
	}
}
