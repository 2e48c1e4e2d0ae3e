/* Asking the tracer of roots. See tracer.h. Linked by airplantd. */
#include "core/tracer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/unix.h"
#include "core/core.h"
#include "core/lease.h"
#include "core/spawn.h"
#include "ipc/roots.h"
#include "path/path.h"

enum {
	READ_BYTES = 64 << 10,
	READS_PER_ROUND = 4,
	ANSWER_MAX = 512 << 20, /* bytes of memory for one answer */
	RECORD_MAX = 6 * (ROOTS_FIELD_MAX + 1),
	FIELDS_MAX = 5,
};
#define SILENCE_USEC (60ULL * 1000 * 1000)  /* a machine under load, with slow file servers */
#define TOTAL_USEC   (900ULL * 1000 * 1000) /* as a whole */

struct tracer {
	struct core *core;
	tracer_done done;
	void *ctx;
	int fd, pidfd; /* the child's, or -1 */
	struct loop_fd *watch;
	struct loop_timer *silence, *total;
	struct buf in;
	unsigned long long n_records;
	bool hello, ended;
	struct err incomplete; /* the first I record */
	struct traced answer;
};

/* ---- is our own user all there is? ---- */

static int marker(const struct core *core, char ret[static 4096])
{
	return (size_t)snprintf(ret, 4096, "%s/airplant/served-others", core->state_dir) >= 4096
		       ? -ENAMETOOLONG
		       : 0;
}

void tracer_note_client(struct core *core, uid_t uid)
{
	_cleanup_close_ int fd = -1;
	char path[4096];

	if (uid == core->uid || uid == 0 || core->served_others || marker(core, path) < 0)
		return;
	core->served_others = true; /* also when it cannot be written down */
	fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		log_warn("remembering that uid %u was served: %s", (unsigned int)uid,
			 strerror(errno));
}

/* Without a privilege only our own user's roots can be found. That is all of them when nobody else
 * ever used this store. */
static int may_trace_alone(struct core *core, struct err *e)
{
	enum build_ids_mode mode = IDS_SINGLE;
	char path[4096];

	if (core->settings.roots == ROOTS_USE_OWN)
		return 0;
	if (marker(core, path) < 0 || core->served_others || access(path, F_OK) == 0)
		return err_set(e, 1,
			       "garbage is not collected: this store has served several users, and "
			       "the tracer that finds the roots of all of them is not running (no "
			       "socket at '%s'). Start airplant-roots, or say 'roots = own' in "
			       "airplant.conf if the store is this user's alone",
			       core->settings.roots_socket);
	if (core->settings.ids == IDS_USE_BROKER ||
	    (core->settings.ids == IDS_AUTO && lease_probe(core, &mode, NULL) == 0 &&
	     mode == IDS_BROKER))
		return err_set(e, 1,
			       "garbage is not collected: the tracer of roots is not running (no "
			       "socket at '%s'). Start airplant-roots",
			       core->settings.roots_socket);
	return 0;
}

/* ---- the end ---- */

static void traced_done(struct traced *t)
{
	free(t->roots);
	free(t->links);
	free(t->partly);
	arena_done(&t->arena);
}

static void tracer_free(struct tracer *t)
{
	loop_remove(t->watch);
	loop_timer_cancel(t->silence);
	loop_timer_cancel(t->total);
	close_fdp(&t->fd);
	if (t->pidfd >= 0) {
		/* It only reads: nothing is lost, and it is gone at once. */
		(void)syscall(SYS_pidfd_send_signal, t->pidfd, SIGKILL, NULL, 0);
		(void)waitid(P_PIDFD, (id_t)t->pidfd, &(siginfo_t){}, WEXITED);
		close_fdp(&t->pidfd);
	}
	buf_done(&t->in);
	err_done(&t->incomplete);
	traced_done(&t->answer);
	free(t);
}

void tracer_cancel(struct tracer *t)
{
	if (t)
		tracer_free(t);
}

static void finish(struct tracer *t, const struct err *e)
{
	tracer_done done = t->done;
	void *ctx = t->ctx;

	done(ctx, e ? NULL : &t->answer, e);
	tracer_free(t);
}

static void fail(struct tracer *t, const char *what)
{
	_cleanup_err_ struct err e = {};

	(void)err_set(&e, 1,
		      "garbage is not collected: the answer of the tracer of roots is not complete "
		      "(%s)",
		      what);
	log_warn("%s", err_msg(&e));
	finish(t, &e);
}

/* ---- records ---- */

bool tracer_is_temp(const char *what)
{
	return !strncmp(what, ROOTS_TEMP, strlen(ROOTS_TEMP));
}

/* Our own file of temporary roots is older than what we know. */
static bool is_own_temp(const char *what)
{
	char own[64];

	snprintf(own, sizeof(own), "%s%d}", ROOTS_TEMP, (int)getpid());
	return !strcmp(what, own);
}

static int take_root(struct tracer *t, char **f)
{
	struct traced *a = &t->answer;
	struct store_path path;

	if (store_path_parse_base(f[0], &path, NULL) != 0)
		return -EBADMSG;
	if (is_own_temp(f[1]))
		return 0;
	if (a->n_roots == a->cap_roots) {
		size_t cap = a->cap_roots ? a->cap_roots * 2 : 256;
		struct traced_root *v = reallocarray(a->roots, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		a->roots = v;
		a->cap_roots = cap;
	}
	a->roots[a->n_roots].base = arena_strdup(&a->arena, f[0]);
	a->roots[a->n_roots].what = arena_strdup(&a->arena, f[1]);
	if (!a->roots[a->n_roots].base || !a->roots[a->n_roots].what)
		return -ENOMEM;
	a->n_roots++;
	return 0;
}

static int number(const char *text, unsigned long long *ret)
{
	char *end;

	if (!*text || strlen(text) > 18 || text[strspn(text, "0123456789")] ||
	    (text[0] == '0' && text[1]))
		return -EBADMSG;
	*ret = strtoull(text, &end, 10);
	return 0;
}

static int fill_link(struct traced *a, char **f, struct traced_link *l)
{
	unsigned long long uid = 0;
	struct store_path path;

	*l = (struct traced_link){ .state = f[1][0], .owner_known = strcmp(f[2], "-") != 0 };
	if (!f[1][0] || f[1][1] || !strchr("agou", f[1][0]))
		return -EBADMSG;
	if (l->owner_known && (number(f[2], &uid) < 0 || uid > UINT32_MAX))
		return -EBADMSG;
	if ((l->state == ROOTS_ALIVE) != (store_path_parse_base(f[4], &path, NULL) == 0) ||
	    (l->state != ROOTS_ALIVE && *f[4]))
		return -EBADMSG;
	l->owner = (uid_t)uid;
	l->link = arena_strdup(&a->arena, f[0]);
	l->target = arena_strdup(&a->arena, f[3]);
	l->base = arena_strdup(&a->arena, f[4]);
	return l->link && l->target && l->base ? 0 : -ENOMEM;
}

static int take_link(struct tracer *t, char **f)
{
	struct traced *a = &t->answer;
	int r;

	if (a->n_links == a->cap_links) {
		size_t cap = a->cap_links ? a->cap_links * 2 : 256;
		struct traced_link *v = reallocarray(a->links, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		a->links = v;
		a->cap_links = cap;
	}
	r = fill_link(a, f, &a->links[a->n_links]);
	if (r == 0)
		a->n_links++;
	return r;
}

static int take_hello(struct tracer *t, char **f)
{
	unsigned long long version;

	if (t->hello || number(f[0], &version) < 0 || version != ROOTS_VERSION)
		return -EBADMSG;
	t->hello = true;
	return 0;
}

static int take_incomplete(struct tracer *t, char **f)
{
	if (t->incomplete.code == 0)
		(void)err_set(&t->incomplete, 1, "%s", f[0]);
	return 0;
}

static int take_skipped(struct tracer *t, char **f)
{
	return number(f[0], &t->answer.n_skipped);
}

static int take_flood(struct tracer *t, char **f)
{
	struct traced *a = &t->answer;
	unsigned long long uid, n;

	if (number(f[0], &uid) < 0 || number(f[1], &n) < 0 || uid > UINT32_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < a->n_partly; i++)
		if (a->partly[i] == uid)
			return 0;
	if (a->n_partly == a->cap_partly) {
		size_t cap = a->cap_partly ? a->cap_partly * 2 : 16;
		uint32_t *v = reallocarray(a->partly, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		a->partly = v;
		a->cap_partly = cap;
	}
	a->partly[a->n_partly++] = (uint32_t)uid;
	log_warn("user %llu has so much open that %llu of his processes were only partly searched "
		 "for roots: all that he has used since the machine's start is kept",
		 uid, n);
	return 0;
}

static int take_end(struct tracer *t, char **f)
{
	unsigned long long n;

	if (number(f[0], &n) < 0 || n != t->n_records)
		return -EBADMSG;
	t->ended = true;
	return 0;
}

static const struct {
	char letter;
	size_t n_fields;
	int (*take)(struct tracer *t, char **f);
} kinds[] = {
	{ ROOTS_HELLO, 1, take_hello },	    { ROOTS_ROOT, 2, take_root },
	{ ROOTS_LINK, 5, take_link },	    { ROOTS_INCOMPLETE, 1, take_incomplete },
	{ ROOTS_SKIPPED, 1, take_skipped }, { ROOTS_FLOOD, 2, take_flood },
	{ ROOTS_END, 1, take_end },
};

enum { NEED_MORE = 1 };

/* One record from the `len` bytes at `p`. NEED_MORE when it is not whole yet. */
static int parse_record(struct tracer *t, char *p, size_t len, size_t *ret_used)
{
	char *f[FIELDS_MAX], *end = p + len, *at = p + 1;
	size_t kind = 0;

	while (kind < ELEMENTS(kinds) && kinds[kind].letter != *p)
		kind++;
	if (kind == ELEMENTS(kinds) || t->ended || (!t->hello && *p != ROOTS_HELLO))
		return -EBADMSG;
	for (size_t i = 0; i < kinds[kind].n_fields; i++) {
		char *nul = memchr(at, 0, (size_t)(end - at));

		if ((nul ? (size_t)(nul - at) : (size_t)(end - at)) > ROOTS_FIELD_MAX)
			return -EBADMSG;
		if (!nul)
			return NEED_MORE;
		f[i] = at;
		at = nul + 1;
	}
	*ret_used = (size_t)(at - p);
	return kinds[kind].take(t, f);
}

/* All whole records that are there. */
static int parse(struct tracer *t)
{
	size_t at = 0;
	int r = 0;

	while (r == 0 && at < t->in.len) {
		size_t used;

		r = parse_record(t, (char *)t->in.data + at, t->in.len - at, &used);
		if (r == 0) {
			at += used;
			t->n_records++;
		}
	}
	buf_consume(&t->in, at);
	return r == NEED_MORE ? 0 : r;
}

/* ---- the stream ---- */

static void at_end(struct tracer *t)
{
	if (t->incomplete.code)
		fail(t, err_msg(&t->incomplete));
	else if (!t->ended || t->in.len > 0)
		fail(t, "it was cut short");
	else
		finish(t, NULL);
}

static void on_silence(void *ctx)
{
	struct tracer *t = ctx;

	t->silence = NULL;
	fail(t, "it has said nothing for a minute");
}

static void on_total(void *ctx)
{
	struct tracer *t = ctx;

	t->total = NULL;
	fail(t, "it takes too long");
}

static int heard(struct tracer *t)
{
	loop_timer_cancel(t->silence);
	t->silence = NULL;
	return loop_timer(t->core->loop, SILENCE_USEC, on_silence, t, &t->silence);
}

static void on_readable(void *ctx, uint32_t events)
{
	struct tracer *t = ctx;

	(void)events;
	for (int i = 0; i < READS_PER_ROUND; i++) {
		ssize_t n;
		int r = buf_reserve(&t->in, READ_BYTES);

		n = r < 0 ? -1 : read(t->fd, t->in.data + t->in.len, READ_BYTES);
		if (r == 0 && n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n == 0) {
			at_end(t);
			return;
		}
		if (n > 0) {
			t->in.len += (size_t)n;
			r = parse(t);
		}
		if (n > 0 && r == 0)
			r = heard(t);
		if (n < 0 || r < 0) {
			fail(t, n < 0 && r == 0 ? strerror(errno)
				: r == -EBADMSG ? "it is malformed"
						: strerror(-r));
			return;
		}
	}
}

/* ---- the start ---- */

static int start_child(struct tracer *t, struct err *e)
{
	const struct core *core = t->core;
	_cleanup_free_ char *path = NULL;
	char *argv[] = { (char *)"airplant-roots", (char *)"--stdio",
			 (char *)"--own-user",	   (char *)"--store",
			 core->store_dir,	   (char *)"--state",
			 core->state_dir,	   NULL };
	char *envp[] = { NULL };
	int pair[2], r;
	pid_t pid;

	if (asprintf(&path, "%s/airplant-roots", core->libexec_dir) < 0) {
		path = NULL;
		return err_errno(e, -ENOMEM, "starting the tracer of roots");
	}
	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_errno(e, -errno, "starting the tracer of roots");
	r = spawn_child(&(struct spawn){ .path = path,
					 .argv = argv,
					 .envp = envp,
					 .fds = &pair[1],
					 .targets = (int[]){ STDOUT_FILENO },
					 .n_fds = 1 },
			&t->pidfd, &pid);
	close(pair[1]);
	t->fd = pair[0];
	if (r < 0) {
		t->pidfd = -1;
		return err_errno(e, r, "garbage is not collected: executing '%s'", path);
	}
	(void)fcntl(t->fd, F_SETFL, O_RDONLY | O_NONBLOCK); /* cannot fail on a pipe */
	t->answer.own = true;
	return 0;
}

static int open_stream(struct tracer *t, struct err *e)
{
	const char *path = t->core->settings.roots_socket;
	int r = -ENOENT;

	if (t->core->settings.roots != ROOTS_USE_OWN) {
		r = unix_connect(path, SOCK_STREAM | SOCK_NONBLOCK);
		if (r >= 0) {
			t->fd = r;
			return 0;
		}
		/* A socket with nobody behind it is a tracer that should be there. */
		if (t->core->settings.roots == ROOTS_USE_TRACER || r != -ENOENT)
			return err_errno(e, r,
					 "garbage is not collected: the tracer of roots cannot be "
					 "reached at '%s' (start airplant-roots, or set "
					 "roots-socket)",
					 path);
	}
	r = may_trace_alone(t->core, e);
	return r == 0 ? start_child(t, e) : r;
}

int tracer_start(struct core *core, tracer_done done, void *ctx, struct tracer **ret, struct err *e)
{
	struct tracer *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return err_errno(e, -ENOMEM, "asking the tracer of roots");
	*t = (struct tracer){ .core = core,
			      .done = done,
			      .ctx = ctx,
			      .fd = -1,
			      .pidfd = -1,
			      .in = BUF_INIT(RECORD_MAX + 2 * READ_BYTES) };
	t->answer.arena = ARENA_INIT(ANSWER_MAX);
	r = open_stream(t, e);
	if (r == 0) {
		r = loop_add(core->loop, t->fd, EPOLLIN, on_readable, t, &t->watch);
		if (r == 0)
			r = heard(t);
		if (r == 0)
			r = loop_timer(core->loop, TOTAL_USEC, on_total, t, &t->total);
		if (r < 0)
			err_errno(e, r, "asking the tracer of roots");
	}
	if (r != 0) {
		tracer_free(t);
		return r;
	}
	*ret = t;
	return 0;
}
