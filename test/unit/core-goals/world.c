/* See world.h. Takes the place of the database, the loop, the .drv files and the supervisors at
 * link time. */
#include "world.h"

#include "core/realise.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/beside.h"
#include "core/gc.h"
#include "core/gc_auto.h"
#include "core/hook.h"

struct core core;
struct fake_build builds[WORLD_MAX];
size_t n_builds;

static struct node {
	int *needs;
	size_t n_needs;
	char base[64], output[64];
	char platform[32];
	bool valid, locked_outside, locked;
	size_t n_started;
} nodes[WORLD_MAX];
static int n_nodes;
static void (*deferred)(void *ctx);
static void *deferred_ctx;
static void (*timed)(void *ctx);
static void *timed_ctx;

static int node_by_name(const char *base)
{
	int i;

	return sscanf(base, "%32d", &i) == 1 && i < n_nodes ? i : -1;
}

/* ---- what the core's files call ---- */

int loop_defer(struct loop *l, void (*fn)(void *ctx), void *ctx)
{
	(void)l;
	assert_null(deferred);
	deferred = fn;
	deferred_ctx = ctx;
	return 0;
}

int loop_timer(struct loop *l, uint64_t usec, void (*fn)(void *ctx), void *ctx,
	       struct loop_timer **ret)
{
	(void)l;
	(void)usec;
	timed = fn;
	timed_ctx = ctx;
	*ret = (struct loop_timer *)&timed;
	return 0;
}

void loop_timer_cancel(struct loop_timer *t)
{
	if (t)
		timed = NULL;
}

int path_locks_take(const struct core *c, const struct strv *names, struct path_locks *ret,
		    const char **ret_busy, struct err *e)
{
	int i = node_by_name(names->v[0]);

	(void)c;
	(void)e;
	assert_int_equal(names->n, 1);
	*ret_busy = names->v[0];
	if (i < 0 || nodes[i].locked_outside || nodes[i].locked)
		return PATH_LOCK_BUSY;
	nodes[i].locked = true;
	ret->fds = calloc(1, sizeof(*ret->fds));
	assert_non_null(ret->fds);
	ret->fds[0] = i;
	return 0;
}

void path_locks_drop(const struct core *c, struct path_locks *l)
{
	(void)c;
	nodes[l->fds[0]].locked = false;
	free(l->fds);
	*l = (struct path_locks){};
}

int db_path_valid(struct db *db, const struct store_path *p)
{
	int i = node_by_name(p->base);

	(void)db;
	if (i < 0)
		return DB_ABSENT;
	if (!strcmp(p->base, nodes[i].base))
		return 0;
	return !strcmp(p->base, nodes[i].output) && nodes[i].valid ? 0 : DB_ABSENT;
}

int db_drv_outputs(struct db *db, const struct store_path *drv, struct arena *a,
		   struct strv *ret_names, struct strv *ret_paths)
{
	int i = node_by_name(drv->base);

	(void)db;
	if (i < 0 || strcmp(drv->base, nodes[i].base))
		return DB_ABSENT;
	*ret_names = *ret_paths = (struct strv){};
	if (strv_add_arena(ret_names, a, arena_strdup(a, "out")) < 0 ||
	    strv_add_arena(ret_paths, a, arena_strdup(a, nodes[i].output)) < 0)
		return -ENOMEM;
	return 0;
}

int realise_outputs(struct core *c, const struct store_path *path, const struct drv *d,
		    struct arena *a, struct strv *ret_names, struct strv *ret_paths, struct err *e)
{
	(void)d;
	(void)e;
	return db_drv_outputs(c->db, path, a, ret_names, ret_paths);
}

/* No request brings its derivation here. */
int realise_drv_outputs(struct core *c, const struct drv *d, struct arena *a,
			struct strv *ret_names, struct strv *ret_paths, struct err *e)
{
	(void)c;
	(void)d;
	(void)a;
	(void)ret_names;
	(void)ret_paths;
	return err_set(e, 1, "derivations are in the store");
}

int given_take(struct request *r, const char *text, bool believed, struct err *e)
{
	(void)r;
	(void)believed;
	(void)text;
	return err_set(e, 1, "derivations are in the store");
}

/* Derivations of the newer kinds are not in this world. */
bool has_feature(const struct core *c, const char *feature)
{
	(void)c;
	(void)feature;
	return false;
}

int feature_missing(struct err *e, int code, const char *feature, const char *why)
{
	(void)why;
	return err_set(e, code, "the feature '%s' is off", feature);
}

int realise_register(struct core *c, const struct drv *d, const struct drv_row *v, size_t n,
		     struct err *e)
{
	(void)c;
	(void)d;
	(void)v;
	(void)n;
	(void)e;
	return 0;
}

int read_drv(struct core *c, const struct store_path *path, struct arena *a, struct drv *ret,
	     struct err *e)
{
	(void)c;
	(void)path;
	(void)a;
	(void)ret;
	(void)e;
	return -ENOENT;
}

/* Nor are programs of the administrator's. */
bool goal_post_hook(struct goal *g)
{
	(void)g;
	return false;
}

bool goal_pre_hook(struct goal *g, struct err *e)
{
	(void)g;
	(void)e;
	return false;
}

void goal_drop_hook(struct goal *g)
{
	(void)g;
}

bool wants_hook(const struct request *r, const char *program)
{
	(void)r;
	(void)program;
	return false;
}

int hook_log_fd(const struct hook *h)
{
	(void)h;
	return -ENOENT;
}

int goal_give(struct goal *to, const struct goal *from)
{
	(void)to;
	(void)from;
	return 0;
}

bool goal_was_given(const struct goal *g, const struct store_path *drv)
{
	(void)g;
	(void)drv;
	return false;
}

int goal_note_made(struct goal *g, const struct drv_row *v, size_t n)
{
	(void)g;
	(void)v;
	(void)n;
	return -ENOMEM;
}

int goal_output_of(struct goal *g, const struct store_path *drv, const char *output,
		   struct store_path *ret, struct err *e)
{
	(void)g;
	(void)drv;
	(void)output;
	(void)ret;
	(void)e;
	return -ENOENT;
}

void goal_resolve(struct goal *g)
{
	(void)g;
	abort();
}

void goal_resolved(struct goal *g)
{
	(void)g;
	abort();
}

int goal_load(struct goal *g, struct err *e)
{
	const struct node *n = &nodes[node_by_name(g->drv_path.base)];
	struct drv *d = &g->drv;

	(void)e;
	d->name = arena_strdup(&g->arena, store_path_name(&g->drv_path));
	d->outputs.n = 1;
	d->outputs.v = arena_array(&g->arena, 1, sizeof(*d->outputs.v));
	d->outputs.v[0].name = arena_strdup(&g->arena, "out");
	d->outputs.v[0].path = arena_printf(&g->arena, "/nix/store/%s", n->output);
	d->inputs.n = n->n_needs;
	d->inputs.v = arena_array(&g->arena, n->n_needs, sizeof(*d->inputs.v));
	for (size_t i = 0; i < n->n_needs; i++) {
		d->inputs.v[i].path =
			arena_printf(&g->arena, "/nix/store/%s", nodes[n->needs[i]].base);
		assert_int_equal(strv_add_arena(&d->inputs.v[i].outputs, &g->arena,
						arena_strdup(&g->arena, "out")),
				 0);
	}
	d->platform = arena_strdup(&g->arena, n->platform);
	d->builder = arena_strdup(&g->arena, "/bin/sh");
	d->kind = DRV_INPUT_ADDRESSED;
	g->loaded = true;
	return 0;
}

void drv_opts_done(struct drv_opts *o)
{
	(void)o;
}

struct runs *runs_new(struct core *c)
{
	(void)c;
	return (struct runs *)builds;
}

void runs_free(struct runs *r)
{
	(void)r;
}

int build_run_start(struct runs *r, const struct build_job *job, const struct build_run_events *ev,
		    void *ctx, struct build_run **ret, struct err *e)
{
	int node = node_by_name(job->drv_base);

	(void)r;
	(void)e;
	/* Nothing is built before what it needs. */
	for (size_t i = 0; i < nodes[node].n_needs; i++)
		assert_true(nodes[nodes[node].needs[i]].valid);
	assert_true(n_builds < WORLD_MAX);
	nodes[node].n_started++;
	builds[n_builds] = (struct fake_build){ .node = node, .ev = ev, .ctx = ctx, .live = true };
	*ret = (struct build_run *)&builds[n_builds++];
	return 0;
}

void build_run_pins(const struct build_run *run, void (*pin)(void *ctx, const char *base), void *ctx)
{
	(void)run;
	(void)pin;
	(void)ctx;
}

void build_run_cancel(struct build_run *run)
{
	struct fake_build *b = (struct fake_build *)run;

	assert_true(b->live);
	b->live = false;
	b->cancelled = true;
}

bool runs_linger(const struct runs *r)
{
	(void)r;
	return false;
}

int build_run_log_fd(const struct build_run *run)
{
	assert_true(((const struct fake_build *)run)->live);
	return -1;
}

/* ---- what the tests call ---- */

void world_reset(uint64_t max_jobs)
{
	for (int i = 0; i < n_nodes; i++)
		free(nodes[i].needs);
	memset(nodes, 0, sizeof(nodes));
	n_nodes = 0;
	n_builds = 0;
	if (core.goals)
		goals_free(core.goals);
	deferred = timed = NULL;
	settings_done(&core.settings);
	settings_init(&core.settings);
	core.store_dir = (char *)"/nix/store";
	core.settings.max_jobs = max_jobs;
	core.goals = goals_new(&core);
	assert_non_null(core.goals);
}

int node_add(const int *needs, size_t n)
{
	struct node *node = &nodes[n_nodes];

	assert_true(n_nodes < WORLD_MAX);
	node->needs = calloc(n ? n : 1, sizeof(*node->needs));
	for (size_t i = 0; i < n; i++)
		node->needs[i] = needs[i];
	node->n_needs = n;
	snprintf(node->base, sizeof(node->base), "%032d-n%d.drv", n_nodes, n_nodes);
	snprintf(node->output, sizeof(node->output), "%032d-n%d", n_nodes, n_nodes);
	snprintf(node->platform, sizeof(node->platform), "%s", core.settings.system);
	return n_nodes++;
}

void node_set_valid(int node)
{
	nodes[node].valid = true;
}

void node_platform(int node, const char *platform)
{
	snprintf(nodes[node].platform, sizeof(nodes[node].platform), "%s", platform);
}

const char *node_base(int node)
{
	return nodes[node].base;
}

const char *node_output(int node)
{
	return nodes[node].output;
}

void node_lock(int node, bool locked)
{
	nodes[node].locked_outside = locked;
}

bool node_is_locked(int node)
{
	return nodes[node].locked;
}

void world_wait(void)
{
	void (*fn)(void *) = timed;

	assert_non_null(fn);
	timed = NULL;
	fn(timed_ctx);
	world_run();
}

void world_run(void)
{
	for (int i = 0; deferred; i++) {
		void (*fn)(void *) = deferred;

		assert_true(i < 100); /* it must come to rest */
		deferred = NULL;
		fn(deferred_ctx);
	}
}

size_t running(void)
{
	size_t n = 0;

	for (size_t i = 0; i < n_builds; i++)
		n += builds[i].live;
	return n;
}

struct fake_build *build_of(int node)
{
	for (size_t i = 0; i < n_builds; i++)
		if (builds[i].live && builds[i].node == node)
			return &builds[i];
	return NULL;
}

size_t times_started(int node)
{
	return nodes[node].n_started;
}

static void end_build(struct fake_build *b, uint64_t status, const char *error)
{
	struct build_outcome o = { .status = status,
				   .error = error,
				   .cpu_known = true,
				   .cpu_user_usec = 7,
				   .log_size = 11 };

	b->live = false;
	if (status == BUILT)
		nodes[b->node].valid = true;
	b->ev->ended(b->ctx, &o);
}

void finish(int node, uint64_t status, const char *error)
{
	struct fake_build *b = build_of(node);

	assert_non_null(b);
	end_build(b, status, error);
	world_run();
}

size_t finish_all(void)
{
	size_t most = running();

	/* In order of their start, so that each is looked at once. */
	for (size_t i = 0; i < n_builds; i++) {
		if (!builds[i].live)
			continue;
		end_build(&builds[i], BUILT, "");
		world_run();
		if (n_builds - i < 64 && running() > most)
			most = running();
	}
	return most;
}

/* ---- a client ---- */

static void on_started(void *ctx, uint64_t build, const char *drv, int log_fd, uint64_t size)
{
	struct client *c = ctx;

	(void)build;
	(void)log_fd;
	assert_true(node_by_name(drv) >= 0);
	assert_false(c->answered);
	c->n_started++;
	c->last_size = size;
	if (c->cancel_when_started) {
		c->cancel_when_started = false;
		request_cancel(c->request);
		c->request = NULL;
	}
}

static void on_log(void *ctx, uint64_t build, uint64_t size)
{
	struct client *c = ctx;

	(void)build;
	assert_false(c->answered);
	c->n_logs++;
	c->last_size = size;
}

static void on_ended(void *ctx, uint64_t build, uint64_t size, bool ok)
{
	struct client *c = ctx;

	(void)build;
	(void)ok;
	assert_false(c->answered);
	c->n_ended++;
	c->last_size = size;
}

static void on_progress(void *ctx, const struct session_progress *p)
{
	struct client *c = ctx;

	assert_false(c->answered);
	c->progress = *p;
}

/* As a client that is no terminal: colours are taken out. */
static char *plain(const char *text)
{
	char *ret = strdup(text), *out = ret;

	for (const char *p = text; *p; p++) {
		if (p[0] == 033 && p[1] == '[')
			p += strcspn(p, "m");
		else
			*out++ = *p;
	}
	*out = 0;
	return ret;
}

static void on_note(void *ctx, uint64_t level, const char *text)
{
	struct client *c = ctx;
	char *joined = NULL, *line = plain(text);

	assert_false(c->answered);
	assert_true(asprintf(&joined, "%s[%llu]%s\n", c->notes ? c->notes : "",
			     (unsigned long long)level, line) > 0);
	free(line);
	free(c->notes);
	c->notes = joined;
}

static void on_built(void *ctx, const struct session_built *b)
{
	struct client *c = ctx;

	assert_false(c->answered);
	c->answered = true;
	c->ok = b->ok;
	c->error = plain(b->error);
	c->n_results = b->results.n;
	for (size_t i = 0; i < b->results.n && i < ELEMENTS(c->status); i++) {
		c->status[i] = b->results.v[i].status;
		c->errors[i] = plain(b->results.v[i].error);
	}
	c->request = NULL;
}

static const struct request_events events = { on_started,  on_log,  on_ended,
					      on_progress, on_note, on_built };

static void ask_full(struct client *c, const int *which, size_t n, uid_t uid,
		     const struct settings *s, uint64_t mode)
{
	struct session_build b = { .mode = mode };
	struct err e = {};

	memset(c, 0, sizeof(*c));
	for (size_t i = 0; i < n; i++) {
		char text[80];

		snprintf(text, sizeof(text), "%s!*", nodes[which[i]].base);
		assert_int_equal(strv_add(&b.targets, text), 0);
	}
	assert_int_equal(request_new(core.goals, &b, s, uid, false, &events, c, &c->request, &e),
			 0);
	strv_done(&b.targets);
}

void ask(struct client *c, const int *which, size_t n, uid_t uid, uint64_t max_jobs,
	 bool keep_going)
{
	struct settings s;

	assert_int_equal(settings_copy(&core.settings, &s), 0);
	s.max_jobs = max_jobs ? max_jobs : 1000;
	s.keep_going = keep_going;
	ask_full(c, which, n, uid, &s, BUILD_NORMAL);
	settings_done(&s);
}

void ask_mode(struct client *c, const int *which, size_t n, uint64_t mode)
{
	ask_full(c, which, n, 1000, &core.settings, mode);
}

bool ask_within(struct client *c, int outer, const int *which, size_t n)
{
	struct session_build b = {};
	_cleanup_err_ struct err e = {};
	int r;

	memset(c, 0, sizeof(*c));
	for (size_t i = 0; i < n; i++) {
		char text[80];

		snprintf(text, sizeof(text), "%s!*", nodes[which[i]].base);
		assert_int_equal(strv_add(&b.targets, text), 0);
	}
	r = request_new_within(build_of(outer)->ctx, &b, &events, c, &c->request, &e);
	strv_done(&b.targets);
	return r == 0;
}

void client_done(struct client *c)
{
	free(c->error);
	free(c->notes);
	for (size_t i = 0; i < ELEMENTS(c->errors); i++)
		free(c->errors[i]);
	memset(c, 0, sizeof(*c));
}

/* ---- no collection runs ---- */

bool gc_is_running(const struct core *c)
{
	(void)c;
	return false;
}

bool gc_auto_look(struct gc_auto *a, const struct settings *set)
{
	(void)a;
	(void)set;
	return false;
}

bool beside_promise(struct core *c)
{
	(void)c;
	return false;
}

void gc_pin(struct core *c, const char *base)
{
	(void)c;
	(void)base;
}

void runs_settings_changed(struct runs *r)
{
	(void)r;
}
