/* The listening socket. See listen.h. Linked by airplantd.
 *
 * A client is judged by the kernel's word about it before a byte of its is read; who is refused
 * gets a sentence that needs no reading either. */
#include "core/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/unix.h"
#include "core/core.h"
#include "core/names.h"
#include "core/sessions.h"
#include "core/store_open.h"
#include "core/trust.h"
#include "core/user_dirs.h"

enum {
	BACKLOG = 4096,
	ACCEPTS_PER_ROUND = 16,
	REFUSED_MAX = 64,
	REFUSED_USEC = 2000 * 1000,
	PAUSE_USEC = 100 * 1000,
	FIRST_PASSED_FD = 3
};

/* The wire's words that a refusal needs: magic, a version that asks for nothing more to be read
 * before the daemon speaks, and an error message. */
enum { WIRE_MAGIC = 0x6478696f, WIRE_VERSION = 0x122, WIRE_ERROR = 0x63787470 };

/* Keeps a refused client's connection until it has read why. */
struct refused {
	struct refused *next, **link;
	struct listener *listener;
	int fd;
	struct loop_fd *watch;
	struct loop_timer *timer;
};

/* Somebody of whom the user database is asked. */
struct entrant {
	struct entrant *next, **link;
	struct listener *listener;
	int fd;
	struct peer peer;
};

struct listener {
	struct core *core;
	struct names_desk *desk;
	struct entrant *entrants;
	int fd, spare_fd; /* a spare number, to get rid of clients when there is none left */
	char *path;	  /* of the socket file, if it is ours to remove */
	struct loop_fd *watch;
	struct loop_timer *pause;
	struct refused *refused;
	size_t n_refused;
};

static void refused_free(struct refused *r)
{
	*r->link = r->next;
	if (r->next)
		r->next->link = r->link;
	r->listener->n_refused--;
	loop_remove(r->watch);
	loop_timer_cancel(r->timer);
	close(r->fd);
	free(r);
}

static void refused_left(void *ctx, uint32_t events)
{
	(void)events;
	refused_free(ctx);
}

static void refused_late(void *ctx)
{
	struct refused *r = ctx;

	r->timer = NULL;
	refused_free(r);
}

static int put_u64(struct buf *b, uint64_t v)
{
	uint8_t le[8];

	for (size_t i = 0; i < sizeof(le); i++)
		le[i] = (uint8_t)(v >> (8 * i));
	return buf_append(b, le, sizeof(le));
}

static int put_str(struct buf *b, const char *s)
{
	static const uint8_t zero[8];
	size_t len = strlen(s);
	int r = put_u64(b, len);

	if (r == 0)
		r = buf_append(b, s, len);
	return r == 0 ? buf_append(b, zero, (8 - len % 8) % 8) : r;
}

static int refusal(struct buf *b, const char *text)
{
	int r = put_u64(b, WIRE_MAGIC);

	r = r ? r : put_u64(b, WIRE_VERSION);
	r = r ? r : put_str(b, AIRPLANT_PROTOCOL_VERSION_STRING);
	r = r ? r : put_u64(b, WIRE_ERROR);
	r = r ? r : put_str(b, "Error");
	r = r ? r : put_u64(b, 0); /* level: error */
	r = r ? r : put_str(b, "Error");
	r = r ? r : put_str(b, text);
	r = r ? r : put_u64(b, 0);    /* no position */
	return r ? r : put_u64(b, 0); /* no traces */
}

void listener_refuse(struct listener *l, int fd, const char *text)
{
	_cleanup_buf_ struct buf b = BUF_INIT(4096);
	struct refused *r;

	log_warn("%s", text);
	r = l->n_refused < REFUSED_MAX ? calloc(1, sizeof(*r)) : NULL;
	if (!r || refusal(&b, text) < 0 ||
	    send(fd, b.data, b.len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)b.len) {
		free(r);
		close(fd);
		return;
	}
	/* Closed at once, its next write would fail before it reads this. */
	*r = (struct refused){ .listener = l, .fd = fd, .next = l->refused, .link = &l->refused };
	if (r->next)
		r->next->link = &r->next;
	l->refused = r;
	l->n_refused++;
	if (loop_add(l->core->loop, fd, EPOLLRDHUP, refused_left, r, &r->watch) < 0 ||
	    loop_timer(l->core->loop, REFUSED_USEC, refused_late, r, &r->timer) < 0)
		refused_free(r);
}

static void follow_store(struct core *core)
{
	_cleanup_err_ struct err e = {};

	if (!store_changed(core)) {
		store_mend(core);
		return;
	}
	if (store_reopen(core, &e) < 0) {
		log_error("%s", err_msg(&e));
		loop_quit(core->loop); /* there is nothing left to serve */
		return;
	}
	sessions_drop_spares(core->sessions);
}

/* Who is gone for good gets no session: else a user who connects and closes as fast as he can keeps
 * everybody else waiting for the starts of his. (Having closed one half alone is no sign of it.) */
static bool has_left(int fd)
{
	struct pollfd p = { .fd = fd };

	return poll(&p, 1, 0) > 0 && (p.revents & POLLHUP);
}

/* The fd stays open. */
static void entrant_free(struct entrant *n)
{
	*n->link = n->next;
	if (n->next)
		n->next->link = n->link;
	peer_done(&n->peer);
	free(n);
}

/* Who it is is known. Takes fd and *p over. */
static void enter(struct listener *l, int fd, struct peer *p)
{
	struct core *core = l->core;

	log_info("accepted connection from pid %d, user %s%s", (int)p->pid, p->name,
		 p->trusted ? " (trusted)" : "");
	follow_store(core);
	if (!core->db) {
		peer_done(p);
		close(fd);
		return;
	}
	user_dirs_make(core, p);
	sessions_serve(core->sessions, fd, p);
}

static void look_up(struct entrant *n);

static void on_names(void *ctx, const struct names *names, const char *why)
{
	struct entrant *n = ctx;
	struct listener *l = n->listener;
	_cleanup_strv_ struct strv groups = {};
	struct peer p;
	char text[300];
	int fd = n->fd, r;

	if (!names) {
		snprintf(text, sizeof(text), "cannot find out who uid %u is: %s",
			 (unsigned int)n->peer.uid, why);
		entrant_free(n);
		listener_refuse(l, fd, text);
		return;
	}
	r = peer_groups(&l->core->settings, &groups);
	if (r == 0 && !names_cover(names, &groups)) {
		look_up(n); /* the settings were changed meanwhile */
		return;
	}
	r = r ? r : peer_judge(&n->peer, names, &l->core->settings);
	p = n->peer;
	n->peer = (struct peer){};
	entrant_free(n);
	if (r == 0 && p.allowed && !has_left(fd)) {
		enter(l, fd, &p);
		return;
	}
	if (r == 0 && !p.allowed) {
		snprintf(text, sizeof(text),
			 "user '%.200s' is not allowed to connect to the Nix daemon", p.name);
		listener_refuse(l, fd, text);
	} else {
		if (r < 0)
			log_warn("looking at a client: %s", strerror(-r));
		close(fd);
	}
	peer_done(&p);
}

static void look_up(struct entrant *n)
{
	_cleanup_strv_ struct strv groups = {};
	struct listener *l = n->listener;
	int r = peer_groups(&l->core->settings, &groups);

	r = r ? r : names_ask(l->desk, n->peer.uid, n->peer.gid, &groups, on_names, n);
	if (r < 0) {
		log_warn("looking at a client of uid %u: %s", (unsigned int)n->peer.uid,
			 r == -EBUSY ? "too many wait for the user database" : strerror(-r));
		close(n->fd);
		entrant_free(n);
	}
}

/* Takes fd over. */
static void admit(struct listener *l, int fd)
{
	struct entrant *n = has_left(fd) ? NULL : malloc(sizeof(*n));
	int r;

	if (!n) {
		close(fd);
		return;
	}
	*n = (struct entrant){ .listener = l, .fd = fd, .next = l->entrants, .link = &l->entrants };
	if (n->next)
		n->next->link = &n->next;
	l->entrants = n;
	r = peer_read(fd, &n->peer);
	if (r == 0) {
		look_up(n);
		return;
	}
	log_warn("looking at a client: %s", strerror(-r));
	entrant_free(n);
	close(fd);
}

static void resume(void *ctx)
{
	struct listener *l = ctx;

	l->pause = NULL;
	(void)loop_modify(l->watch, EPOLLIN); /* it is registered: cannot fail for lack of memory */
}

/* No fd left: the client in front is sent away with the spare one, and there is a pause. */
static void out_of_fds(struct listener *l)
{
	_cleanup_buf_ struct buf b = BUF_INIT(4096);
	int fd;

	log_warn("too many open files: clients have to wait");
	close_fdp(&l->spare_fd);
	fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0) {
		/* He has mostly said his greeting by now, and reads this before he says more. */
		if (refusal(&b, "the daemon cannot serve you now: Too many open files") == 0)
			(void)send(fd, b.data, b.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		close(fd);
	}
	l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (!l->pause && loop_timer(l->core->loop, PAUSE_USEC, resume, l, &l->pause) == 0)
		(void)loop_modify(l->watch, 0); /* as above */
}

static void on_client(void *ctx, uint32_t events)
{
	struct listener *l = ctx;

	(void)events;
	for (int i = 0; i < ACCEPTS_PER_ROUND; i++) {
		int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0) {
			admit(l, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE)
			out_of_fds(l);
		else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			log_warn("accepting a client: %s", strerror(errno));
		return;
	}
}

/* The service manager's sockets: fds from 3 on; ours is named nix-daemon.socket, or the only one.
 */
static int passed_fd(void)
{
	const char *pid = getenv("LISTEN_PID"), *n = getenv("LISTEN_FDS");
	const char *names = getenv("LISTEN_FDNAMES");
	long count;

	if (!pid || !n || strtol(pid, NULL, 10) != (long)getpid())
		return -1;
	count = strtol(n, NULL, 10);
	if (count < 1 || count > 64)
		return -1;
	for (long i = 0; names && i < count; i++) {
		size_t len = strcspn(names, ":");

		if ((len == 17 && !memcmp(names, "nix-daemon.socket", len)) ||
		    (len == 15 && !memcmp(names, "airplant.socket", len)))
			return FIRST_PASSED_FD + (int)i;
		names += len + (names[len] == ':');
	}
	return count == 1 ? FIRST_PASSED_FD : -1;
}

static int fill_address(const char *path, struct sockaddr_un *ret, struct err *e)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(ret->sun_path))
		return err_set(e, -ENAMETOOLONG, "socket path '%s' is too long", path);
	memcpy(ret->sun_path, path, strlen(path) + 1);
	return 0;
}

/* Somebody answers there. */
static bool is_alive(const char *path)
{
	_cleanup_close_ int fd = unix_connect(path, SOCK_STREAM | SOCK_NONBLOCK);

	return fd >= 0 || fd == -EAGAIN; /* its queue is full: very much alive */
}

/* Bound under a fresh name, then renamed over what is stale: there is no moment without a socket
 * file, and none in which another daemon's is removed. */
static int bind_fresh(struct listener *l, const struct sockaddr_un *a, struct err *e)
{
	struct sockaddr_un fresh = *a;
	size_t len = strlen(a->sun_path);
	int r;

	if (is_alive(a->sun_path))
		return err_set(e, -EADDRINUSE, "another daemon listens on '%s'", a->sun_path);
	if (len + 2 >= sizeof(fresh.sun_path))
		return err_set(e, -ENAMETOOLONG, "socket path '%s' is too long", a->sun_path);
	memcpy(fresh.sun_path + len, "~", 2);
	(void)unlink(fresh.sun_path); /* bind tells when that did not help */
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0 || bind(l->fd, (const struct sockaddr *)&fresh, sizeof(fresh)) < 0)
		return err_errno(e, -errno, "cannot bind to socket '%s'", fresh.sun_path);
	if (chmod(fresh.sun_path, 0666) < 0 || listen(l->fd, BACKLOG) < 0 ||
	    rename(fresh.sun_path, a->sun_path) < 0) {
		r = err_errno(e, -errno, "cannot listen on socket '%s'", a->sun_path);
		(void)unlink(fresh.sun_path);
		return r;
	}
	l->path = strdup(a->sun_path);
	return l->path ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int make_socket(struct listener *l, struct err *e)
{
	const char *path = l->core->socket_path;
	_cleanup_free_ char *dir = strdup(path);
	struct sockaddr_un a;
	char *slash;
	int r = fill_address(path, &a, e);

	if (r < 0)
		return r;
	if (!dir)
		return err_set(e, -ENOMEM, "out of memory");
	slash = strrchr(dir, '/');
	if (slash && slash != dir) {
		*slash = 0;
		r = mkdir_p(dir, 0755);
		if (r < 0)
			return err_errno(e, r, "creating directory '%s'", dir);
	}
	return bind_fresh(l, &a, e);
}

int listener_new(struct core *core, struct listener **ret, struct err *e)
{
	struct listener *l = calloc(1, sizeof(*l));
	int r = 0;

	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	*l = (struct listener){ .core = core,
				.fd = -1,
				.desk = names_desk_new(core->loop, NAMES_WAIT_USEC) };
	l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	l->fd = passed_fd();
	if (l->fd < 0)
		r = make_socket(l, e);
	else if (fcntl(l->fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(l->fd, F_SETFL, O_NONBLOCK) < 0)
		r = err_errno(e, -errno, "taking the socket from the service manager");
	if (r == 0 && !l->desk)
		r = err_set(e, -ENOMEM, "out of memory");
	if (r < 0) {
		listener_free(l);
		return r;
	}
	core->listener = l;
	*ret = l;
	return 0;
}

struct names_desk *listener_desk(struct listener *l)
{
	return l->desk;
}

int listener_start(struct listener *l, struct err *e)
{
	int r = loop_add(l->core->loop, l->fd, EPOLLIN, on_client, l, &l->watch);

	names_desk_warm(l->desk);
	return r < 0 ? err_errno(e, r, "watching the socket") : 0;
}

void listener_free(struct listener *l)
{
	if (!l)
		return;
	l->core->listener = NULL;
	names_desk_free(l->desk);
	while (l->entrants) {
		close(l->entrants->fd);
		entrant_free(l->entrants);
	}
	while (l->refused)
		refused_free(l->refused);
	loop_timer_cancel(l->pause);
	loop_remove(l->watch);
	if (l->path)
		(void)unlink(l->path); /* a leftover is replaced at the next start */
	free(l->path);
	close_fdp(&l->fd);
	close_fdp(&l->spare_fd);
	free(l);
}
