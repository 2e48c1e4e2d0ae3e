/* See nest.h. */
#include "core/nest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/accounts.h"
#include "core/core.h"
#include "core/gc.h"
#include "core/place.h"
#include "core/session_state.h"
#include "core/used.h"
#include "ipc/build.h"

enum {
	CONNECTIONS_PER_BUILD = 64, /* at a time; others wait in the socket's queue */
	ACCEPTS_PER_ROUND = 8,
	CLOSURE_MEMORY = 256 << 20,
	SHOWN_MAX = 64 * 1024, /* bytes of one answer */
};

/* Somebody who waits until the builder sees what he added, or had built. */
struct taking {
	struct taking *next;
	struct strv names; /* that are new; heap */
	nest_taken done;
	void *ctx;
};

struct nest {
	struct core *core;
	struct goal *goal;
	uid_t uid;
	gid_t gid;
	char *drv_base;
	struct smap set;
	struct strv added; /* heap */
	size_t n_held;	   /* of the user's temporary roots */
	int socket, show;
	struct loop_fd *socket_watch, *show_watch;
	size_t n_sessions;
	bool full, closed;
	struct taking *first, **last;
	bool showing; /* the first one's names are on their way */
};

static int fill_set(struct nest *n, const struct strv *closure)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < closure->n; i++)
		r = smap_put(&n->set, closure->v[i], n);
	return r;
}

int nest_new(const struct nest_input *in, struct nest **ret, int ret_fds[2], struct err *e)
{
	_cleanup_close_ int theirs = -1;
	struct nest *n = calloc(1, sizeof(*n));
	int pair[2], r;

	if (!n)
		return err_set(e, -ENOMEM, "out of memory");
	*n = (struct nest){ .core = in->core,
			    .goal = in->goal,
			    .uid = in->uid,
			    .gid = in->gid,
			    .drv_base = strdup(in->drv_base),
			    .socket =
				    socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0),
			    .show = -1 };
	n->last = &n->first;
	r = n->socket < 0 ? -errno : n->drv_base ? fill_set(n, in->closure) : -ENOMEM;
	if (r == 0)
		r = chan_pair(pair);
	if (r == 0) {
		n->show = pair[0];
		theirs = pair[1];
		r = fcntl(n->show, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
	}
	if (r == 0) {
		ret_fds[0] = fcntl(n->socket, F_DUPFD_CLOEXEC, 3);
		r = ret_fds[0] < 0 ? -errno : 0;
	}
	if (r < 0) {
		nest_free(n);
		return err_errno(e, r, "making a daemon for the build of '%s'", in->drv_base);
	}
	ret_fds[1] = TAKE_FD(theirs);
	*ret = n;
	return 0;
}

bool nest_allows(const struct nest *n, const char *base)
{
	return smap_has(&n->set, base);
}

int nest_names(const struct nest *n, struct arena *a, struct strv *ret)
{
	struct smap_entry *e;
	int r = 0;

	for (size_t i = 0; r == 0 && (e = smap_next(&n->set, &i));)
		r = strv_add_arena(ret, a, (char *)e->key);
	return r;
}

const struct strv *nest_added(const struct nest *n)
{
	return &n->added;
}

struct goal *nest_goal(const struct nest *n)
{
	return n->goal;
}

void nest_pins(const struct nest *n, void (*pin)(void *ctx, const char *base), void *ctx)
{
	struct smap_entry *e;

	for (size_t i = 0; (e = smap_next(&n->set, &i));)
		pin(ctx, e->key);
}

/* ---- the door ---- */

static void set_full(struct nest *n, bool full)
{
	if (n->full == full || !n->socket_watch)
		return;
	n->full = full;
	(void)loop_modify(n->socket_watch,
			  full ? 0 : EPOLLIN); /* it is registered: has its memory */
}

void nest_left(struct nest *n)
{
	n->n_sessions--;
	set_full(n, false);
}

/* Takes fd over. */
static void admit(struct nest *n, int fd)
{
	struct peer p = { .uid = n->uid,
			  .gid = n->gid,
			  .allowed = true,
			  .nested = true,
			  .nest = n,
			  .rights = { .mask = RIGHT_ADD | RIGHT_BUILD } };

	if (asprintf(&p.name, "%u, from the build of '%s'", (unsigned int)n->uid, n->drv_base) <
	    0) {
		close(fd);
		return;
	}
	n->n_sessions++;
	sessions_serve(n->core->sessions, fd, &p);
}

static void on_connection(void *ctx, uint32_t events)
{
	struct nest *n = ctx;

	(void)events;
	for (int i = 0; i < ACCEPTS_PER_ROUND && !n->full; i++) {
		int fd = accept4(n->socket, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			return; /* nobody; or no descriptors, and he waits until there are some */
		admit(n, fd);
		set_full(n, n->n_sessions >= CONNECTIONS_PER_BUILD);
	}
}

void nest_open(struct nest *n)
{
	int r = loop_add(n->core->loop, n->socket, EPOLLIN, on_connection, n, &n->socket_watch);

	if (r < 0) {
		n->socket_watch = NULL;
		log_error("the daemon of the build of '%s': %s", n->drv_base, strerror(-r));
	}
}

/* ---- the set grows ---- */

static void taken(struct nest *n, const struct err *e)
{
	struct taking *t = n->first;

	n->first = t->next;
	if (!n->first)
		n->last = &n->first;
	t->done(t->ctx, e);
	strv_done(&t->names);
	free(t);
}

static void fail_all(struct nest *n, const char *why)
{
	_cleanup_err_ struct err e = {};

	(void)err_set(&e, -EPIPE, "%s", why);
	n->showing = false;
	while (n->first)
		taken(n, &e);
}

static void stop_showing(struct nest *n, const char *why)
{
	loop_remove(n->show_watch);
	n->show_watch = NULL;
	close_fdp(&n->show);
	fail_all(n, why);
}

static void on_shown(void *ctx, uint32_t events);

/* The next names, as long as somebody waits and has new ones. */
static void show_next(struct nest *n)
{
	while (n->first && !n->showing) {
		struct build_names names = { n->first->names };
		int r;

		if (!names.names.n) {
			taken(n, NULL);
			continue;
		}
		r = n->show < 0 ? -EPIPE : 0;
		if (r == 0 && !n->show_watch)
			r = loop_add(n->core->loop, n->show, EPOLLIN, on_shown, n, &n->show_watch);
		if (r == 0)
			r = chan_send_record(n->show, BUILD_SHOW, 0, &build_names_layout, &names,
					     NULL, 0);
		if (r < 0) {
			stop_showing(n, "what shows paths to the build has ended");
			return;
		}
		n->showing = true;
	}
}

static void on_shown(void *ctx, uint32_t events)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(SHOWN_MAX);
	_cleanup_msg_ struct msg m = MSG_INIT;
	struct nest *n = ctx;
	struct build_shown s;
	int r = chan_recv(n->show, SHOWN_MAX / 2, &m);

	(void)events;
	if (r == -EAGAIN)
		return;
	if (r != 0 || !n->showing || m.type != BUILD_SHOWN ||
	    msg_decode(&m, &build_shown_layout, &a, &s)) {
		stop_showing(n, "what shows paths to the build has ended");
		return;
	}
	n->showing = false;
	if (s.ok) {
		taken(n, NULL);
		show_next(n);
	} else { /* the set has it, and whoever asks again would be told that it is there */
		stop_showing(n, s.error);
	}
}

/* One path that is new joins: from now on no collection takes it. */
static int join(struct nest *n, struct taking *t, const char *base)
{
	int r;

	if (smap_has(&n->set, base))
		return 0;
	if (account_hold(&n->core->sessions->accounts, n->uid) != 0)
		return -ENOBUFS;
	n->n_held++;
	gc_pin(n->core, base);
	used_note(n->core, n->uid, base);
	r = strv_add(&n->added, base);
	if (r == 0)
		r = strv_add(&t->names, base);
	return r < 0 ? r : smap_put(&n->set, base, n);
}

static int join_all(struct nest *n, struct taking *t, const struct strv *paths, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(CLOSURE_MEMORY);
	struct store_path missing;
	struct strv closure = {};
	int r = 0;

	place_flush(n->core->place);
	if (paths->n)
		r = db_closure(n->core->db, paths, &a, &closure, &missing);
	if (r == DB_ABSENT)
		return err_set(e, -ENOENT, "path '%s/%s' is not valid", n->core->store_dir,
			       missing.base);
	for (size_t i = 0; r == 0 && i < closure.n; i++)
		r = join(n, t, closure.v[i]);
	if (r < 0) {
		err_errno(e, r, "adding to what the build of '%s' may use", n->drv_base);
		stop_showing(n, err_msg(e)); /* as in on_shown */
	}
	return r;
}

void nest_take(struct nest *n, const struct strv *paths, nest_taken done, void *ctx)
{
	_cleanup_err_ struct err e = {};
	struct taking *t = calloc(1, sizeof(*t));
	int r = 0;

	if (!t)
		r = err_set(&e, -ENOMEM, "out of memory");
	else if (n->closed)
		r = err_set(&e, -ESHUTDOWN, "the build is over");
	else
		r = join_all(n, t, paths, &e);
	if (r < 0) {
		done(ctx, &e);
		if (t)
			strv_done(&t->names);
		free(t);
		return;
	}
	t->done = done;
	t->ctx = ctx;
	*n->last = t;
	n->last = &t->next;
	show_next(n);
}

/* ---- the end ---- */

void nest_close(struct nest *n)
{
	if (n->closed)
		return;
	n->closed = true;
	loop_remove(n->socket_watch);
	n->socket_watch = NULL;
	close_fdp(&n->socket);
	if (n->core->sessions)
		sessions_end_nest(n->core->sessions, n);
	stop_showing(n, "the build is over");
}

static void leave_pin(void *ctx, const char *base)
{
	gc_pin(ctx, base);
}

void nest_free(struct nest *n)
{
	if (!n)
		return;
	nest_close(n);
	if (gc_is_running(n->core))
		nest_pins(n, leave_pin, n->core);
	if (n->core->sessions)
		account_let_go(&n->core->sessions->accounts, n->uid, n->n_held);
	close_fdp(&n->socket);
	strv_done(&n->added);
	smap_done(&n->set);
	free(n->drv_base);
	free(n);
}
