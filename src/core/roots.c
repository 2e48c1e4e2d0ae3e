/* Garbage collector roots. See roots.h. Linked by airplantd.
 *
 * Who holds what outside of this daemon, the tracer finds out (tracer.h). */
#include "core/roots.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "core/core.h"
#include "core/known.h"
#include "core/sessions.h"
#include "core/tracer.h"
#include "hash/hash.h"

/* One client's question. All that wait share the tracer's next answer. */
struct roots_query {
	struct roots_query *next;
	struct core *core;
	uid_t uid;
	bool censor;
	roots_done done; /* NULL: forgotten */
	void *ctx;
};

struct round;

struct roots_finder {
	struct core *core;
	struct round *round;		     /* an answer that is being told to those who asked */
	struct roots_query *asked, *waiting; /* of the answer under way; of the next one */
	struct tracer *tracer;
};

/* What becomes of one answer for one client. */
struct list {
	struct roots_query *q;
	struct arena a;
	struct session_roots ret;
	struct smap seen; /* target and name: a root may come twice */
	struct smap own;  /* links of the user who asks */
	size_t cap;
	size_t at; /* of the round's roots */
};

struct owned_link {
	const char *target;
	uid_t owner;
};

/* An answer, and the temporary roots of that moment, for all who asked: one after the other, and a
 * slice of time at a time. Anybody may hold a million of them, and each is looked for in the
 * database. */
struct round {
	struct arena arena;
	struct traced_root *roots;
	struct owned_link *links;
	size_t n_roots, n_links, cap;
	struct list *list; /* the one being made */
};

enum { SLICE_USEC = 5000 };
#define ROUND_BYTES (1ULL << 30)

int roots_add_indirect(struct core *core, const char *path, const struct smap *held, struct err *e)
{
	_cleanup_free_ char *dir = NULL;
	_cleanup_close_ int fd = -1;
	char name[64], fresh[80];
	struct hash h;
	int r;

	if (path[0] != '/' || strlen(path) >= PATH_MAX)
		return err_set(e, EINVAL, "not an absolute path: '%s'", path);
	hash_buffer(HASH_SHA1, path, strlen(path), &h);
	base32_encode(h.bytes, hash_size(HASH_SHA1), name);
	r = known_note(core, name, path, held);
	if (r == -ENOBUFS)
		return err_set(e, r,
			       "the place of '%s' cannot be looked at from here, and there are too "
			       "many such roots, or too much that they could lead to; make it in "
			       "a session that has done nothing else, or elsewhere",
			       path);
	if (r < 0)
		return err_errno(e, r, "remembering what '%s' leads to", path);
	if (asprintf(&dir, "%s/gcroots/auto", core->state_dir) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, -errno, "opening '%s'", dir);
	/* One thread: nobody else uses this name; what is there is a crash's leftover. */
	snprintf(fresh, sizeof(fresh), ".%s.new", name);
	if (unlinkat(fd, fresh, 0) < 0 && errno != ENOENT)
		return err_errno(e, -errno, "removing '%s/%s'", dir, fresh);
	if (symlinkat(path, fd, fresh) < 0)
		return err_errno(e, -errno, "creating symlink from '%s/%s' to '%s'", dir, name,
				 path);
	if (renameat(fd, fresh, fd, name) < 0)
		return err_errno(e, -errno, "creating symlink from '%s/%s' to '%s'", dir, name,
				 path);
	return 0;
}

/* Names of files in other people's homes, and of what they run, are theirs. */
static bool is_hidden(const struct list *l, const char *name)
{
	const char *state = l->q->core->state_dir;
	size_t len = strlen(state);

	if (!l->q->censor || (!strncmp(name, state, len) && name[len] == '/'))
		return false;
	return !smap_has(&l->own, name);
}

static int find_own(struct list *l, const struct round *round)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < round->n_links; i++)
		if (round->links[i].owner == l->q->uid)
			r = smap_put(&l->own, round->links[i].target, l);
	return r;
}

/* 0, 1 when it was there before, or -ENOMEM. */
static int note_seen(struct list *l, const char *base, const char *name)
{
	_cleanup_free_ char *key = NULL;

	if (asprintf(&key, "%s %s", base, name) < 0) {
		key = NULL;
		return -ENOMEM;
	}
	if (smap_has(&l->seen, key))
		return 1;
	return smap_put(&l->seen, key, l);
}

static int grow(struct list *l)
{
	size_t cap = l->cap ? l->cap * 2 : 64;
	struct session_root *v = arena_array(&l->a, cap, sizeof(*v));

	if (!v)
		return -ENOMEM;
	if (l->ret.roots.n)
		memcpy(v, l->ret.roots.v, l->ret.roots.n * sizeof(*v));
	l->ret.roots.v = v;
	l->cap = cap;
	return 0;
}

static int add(struct list *l, const char *base, const char *name)
{
	struct session_root *root;
	struct store_path path;
	int r = store_path_parse_base(base, &path, NULL);

	r = r == 0 ? db_path_valid(l->q->core->db, &path) : DB_ABSENT;
	if (r != 0)
		return r < 0 ? r : 0;
	if (is_hidden(l, name))
		name = "{censored}";
	r = note_seen(l, base, name);
	if (r != 0)
		return r < 0 ? r : 0;
	if (l->ret.roots.n == l->cap && grow(l) < 0)
		return -ENOMEM;
	root = &l->ret.roots.v[l->ret.roots.n];
	root->link = arena_strdup(&l->a, name);
	root->target = arena_strdup(&l->a, base);
	if (!root->link || !root->target)
		return -ENOMEM;
	l->ret.roots.n++;
	return 0;
}

static int note_root(struct round *round, const char *base, const char *what)
{
	struct traced_root *to;

	if (round->n_roots == round->cap) {
		size_t cap = round->cap ? 2 * round->cap : 64;
		struct traced_root *v = reallocarray(round->roots, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		round->roots = v;
		round->cap = cap;
	}
	to = &round->roots[round->n_roots];
	to->base = arena_strdup(&round->arena, base);
	/* All of a session's have one name. */
	to->what = round->n_roots && !strcmp(to[-1].what, what) ? to[-1].what
								: arena_strdup(&round->arena, what);
	if (!to->base || !to->what)
		return -ENOMEM;
	round->n_roots++;
	return 0;
}

static int note_temp(void *ctx, const char *base, pid_t pid)
{
	char name[32];

	snprintf(name, sizeof(name), "{temp:%d}", (int)pid);
	return note_root(ctx, base, name);
}

static void round_free(struct round *round)
{
	if (!round)
		return;
	free(round->roots);
	arena_done(&round->arena);
	free(round);
}

static int round_fill(struct round *round, struct core *core, const struct traced *t)
{
	int r = 0;

	round->links = arena_array(&round->arena, t->n_links + 1, sizeof(*round->links));
	if (!round->links)
		return -ENOMEM;
	for (size_t i = 0; i < t->n_links; i++) {
		struct owned_link *to = &round->links[round->n_links];

		if (!t->links[i].owner_known)
			continue;
		to->owner = t->links[i].owner;
		to->target = arena_strdup(&round->arena, t->links[i].target);
		if (!to->target)
			return -ENOMEM;
		round->n_links++;
	}
	for (size_t i = 0; r == 0 && i < t->n_roots; i++)
		r = note_root(round, t->roots[i].base, t->roots[i].what);
	return r ? r : sessions_temp_roots(core->sessions, note_temp, round);
}

static void list_free(struct list *l)
{
	if (!l)
		return;
	smap_done(&l->seen);
	smap_done(&l->own);
	arena_done(&l->a);
	free(l->q);
	free(l);
}

static void tell(struct roots_query *q, const struct session_roots *ret)
{
	if (q->done)
		q->done(q->ctx, ret);
}

static void fail(struct roots_query *q, const char *error)
{
	tell(q, &(struct session_roots){ .error = (char *)error });
}

/* Everybody hears the same. */
static void fail_all(struct roots_finder *f, const char *error)
{
	struct roots_query *q;

	while ((q = f->asked)) {
		f->asked = q->next;
		fail(q, error);
		free(q);
	}
}

/* False when there is nobody left. */
static bool begin_next(struct roots_finder *f)
{
	struct roots_query *q = f->asked;
	struct list *l = q ? calloc(1, sizeof(*l)) : NULL;

	if (!q)
		return false;
	f->asked = q->next;
	if (!l) {
		fail(q, "out of memory");
		free(q);
		return true;
	}
	*l = (struct list){ .q = q, .a = ARENA_INIT(SESSION_MSG_MAX), .ret.ok = 1 };
	f->round->list = l;
	return true;
}

enum { LOOK_MORE = 1 };

/* 0, LOOK_MORE, or -errno. */
static int look(struct list *l, const struct round *round, uint64_t until)
{
	int r = l->q->core->db ? 0 : -ESHUTDOWN;

	if (r == 0 && l->at == 0)
		r = find_own(l, round);
	while (r == 0 && l->q->done && l->at < round->n_roots) {
		const struct traced_root *t = &round->roots[l->at++];

		r = add(l, t->base, t->what);
		if (r == 0 && l->at < round->n_roots && now_usec() >= until)
			r = LOOK_MORE;
	}
	return r;
}

static void ask(void *ctx);

static void go_on(void *ctx)
{
	struct roots_finder *f = ctx;
	uint64_t until = now_usec() + SLICE_USEC;

	while (f->round->list || begin_next(f)) {
		struct list *l = f->round->list;
		int r = l ? look(l, f->round, until) : 0;

		if (r == LOOK_MORE && loop_defer(f->core->loop, go_on, f) == 0)
			return;
		if (!l || r == LOOK_MORE)
			continue;
		f->round->list = NULL;
		if (r < 0)
			fail(l->q, "the list of roots is too large");
		else
			tell(l->q, &l->ret);
		list_free(l);
	}
	round_free(TAKE_PTR(f->round));
	if (f->waiting)
		(void)loop_defer(f->core->loop, ask, f); /* no memory: the next question does it */
}

static void on_traced(void *ctx, struct traced *t, const struct err *e)
{
	struct roots_finder *f = ctx;

	f->tracer = NULL;
	f->round = calloc(1, sizeof(*f->round));
	if (f->round)
		f->round->arena = ARENA_INIT(ROUND_BYTES);
	if (!t)
		fail_all(f, err_msg(e));
	else if (!f->round || round_fill(f->round, f->core, t) < 0)
		fail_all(f, "the list of roots is too large");
	if (f->round)
		go_on(f);
	else if (f->waiting)
		(void)loop_defer(f->core->loop, ask, f);
}

static void ask(void *ctx)
{
	struct roots_finder *f = ctx;
	_cleanup_err_ struct err e = {};

	if (f->tracer || f->round || !f->waiting)
		return;
	f->asked = TAKE_PTR(f->waiting);
	if (tracer_start(f->core, on_traced, f, &f->tracer, &e) != 0)
		on_traced(f, NULL, &e);
}

int roots_find(struct core *core, uid_t uid, bool censor, roots_done done, void *ctx,
	       struct roots_query **ret)
{
	struct roots_finder *f = core->finder;
	struct roots_query *q = calloc(1, sizeof(*q));

	if (!f)
		f = core->finder = calloc(1, sizeof(*f));
	if (!q || !f || loop_defer(core->loop, ask, f) < 0) {
		free(q);
		return -ENOMEM;
	}
	f->core = core;
	*q = (struct roots_query){ .next = f->waiting,
				   .core = core,
				   .uid = uid,
				   .censor = censor,
				   .done = done,
				   .ctx = ctx };
	f->waiting = q;
	*ret = q;
	return 0;
}

void roots_forget(struct roots_query *q)
{
	if (q)
		q->done = NULL;
}

void roots_free(struct roots_finder *f)
{
	struct roots_query *q;

	if (!f)
		return;
	tracer_cancel(f->tracer);
	if (f->round)
		list_free(f->round->list);
	round_free(f->round);
	while ((q = f->asked ? f->asked : f->waiting)) {
		if (q == f->asked)
			f->asked = q->next;
		else
			f->waiting = q->next;
		free(q);
	}
	free(f);
}
