/* See goals.h and goals_int.h: requests in, answers out, and the work of one round. */
#include <errno.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/log.h"
#include "core/goals_int.h"
#include "core/realise.h"

enum { REQUEST_MEMORY = 256 << 20 };

static void goals_work(void *ctx);

struct goals *goals_new(struct core *core)
{
	struct goals *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->core = core;
	g->queue_end = &g->queue;
	g->processors = (uint64_t)get_nprocs(); /* reads files: not once per build */
	g->runs = runs_new(core);
	if (!g->runs) {
		free(g);
		return NULL;
	}
	slots_recount(g);
	return g;
}

void goals_settings_changed(struct goals *g)
{
	runs_settings_changed(g->runs);
}

void goals_kick(struct goals *g)
{
	if (g->due || g->in_round)
		return;
	if (loop_defer(g->core->loop, goals_work, g) < 0)
		log_error("out of memory: builds wait for the next event");
	else
		g->due = true;
}

/* "base", "base!*", "base!out,dev", "base!out!out" */
static int parse_target(struct request *r, const char *text, struct target *t, struct err *e)
{
	const char *bang = strchr(text, '!');
	char *base = arena_strndup(&r->arena, text, bang ? (size_t)(bang - text) : strlen(text));
	char *names, *save = NULL;
	int ret;

	t->text = arena_strdup(&r->arena, text);
	if (!base || !t->text)
		return err_errno(e, -ENOMEM, "reading the request");
	ret = store_path_parse_base(base, &t->path, e);
	if (ret || !bang)
		return ret;
	t->is_drv = true;
	if (!store_path_is_drv(&t->path))
		return err_set(e, 1, "path '%s/%s' is not a derivation", r->goals->core->store_dir,
			       base);
	for (const char *next; (next = strchr(bang + 1, '!')); bang = next) {
		char *name = arena_strndup(&r->arena, bang + 1, (size_t)(next - bang - 1));

		if (!name || strv_add_arena(&t->chain, &r->arena, name) < 0)
			return err_errno(e, -ENOMEM, "reading the request");
		if (store_name_check(name, e) || t->chain.n > DRV_DEPTH_MAX)
			return err_set(e, 1, "'%s' names no outputs", text);
	}
	if (t->chain.n && !has_feature(r->goals->core, "dynamic-derivations"))
		return feature_missing(e, 1, "dynamic-derivations", NULL);
	if (!strcmp(bang + 1, "*"))
		return 0;
	names = arena_strdup(&r->arena, bang + 1);
	for (char *n = names ? strtok_r(names, ",", &save) : NULL; n;
	     n = strtok_r(NULL, ",", &save))
		if (strv_add_arena(&t->wanted, &r->arena, n) < 0)
			return err_errno(e, -ENOMEM, "reading the request");
	if (!names)
		return err_errno(e, -ENOMEM, "reading the request");
	return t->wanted.n ? 0 : err_set(e, 1, "'%s' names no outputs", text);
}

static int parse_targets(struct request *r, const struct session_build *b, struct err *e)
{
	r->targets.v = arena_array(&r->arena, b->targets.n, sizeof(*r->targets.v));
	if (b->targets.n && !r->targets.v)
		return err_errno(e, -ENOMEM, "reading the request");
	for (size_t i = 0; i < b->targets.n; i++) {
		int ret = parse_target(r, b->targets.v[i], &r->targets.v[i], e);

		if (ret)
			return ret;
		r->targets.n = r->targets.left = i + 1;
	}
	return 0;
}

/* The session has compared contents with hashes; a trusted client's may be believed in that. What is
 * done about it is a build like any other. */
static int take_broken(struct request *r, const struct session_build *b, struct err *e)
{
	for (size_t i = 0; i < b->broken.n; i++) {
		char *copy = arena_strdup(&r->arena, b->broken.v[i]);

		if (!copy || strv_add_arena(&r->broken, &r->arena, copy) < 0 ||
		    smap_put(&r->goals->broken, copy, r) < 0)
			return err_errno(e, -ENOMEM, "reading the request");
	}
	return 0;
}

static struct owner *owner_get(struct goals *g, uid_t uid)
{
	struct owner *o;

	for (o = g->owners; o; o = o->next)
		if (o->uid == uid)
			break;
	if (!o) {
		o = calloc(1, sizeof(*o));
		if (!o)
			return NULL;
		o->uid = uid;
		o->next = g->owners;
		g->owners = o;
	}
	o->n_requests++;
	return o;
}

static void owner_put(struct goals *g, struct owner *o)
{
	if (!o || --o->n_requests)
		return;
	for (struct owner **p = &g->owners; *p; p = &(*p)->next) {
		if (*p == o) {
			*p = o->next;
			break;
		}
	}
	free(o);
}

static void request_free(struct request *r)
{
	if (r->link) {
		*r->link = r->next;
		if (r->next)
			r->next->link = r->link;
	}
	owner_put(r->goals, r->owner);
	for (size_t i = 0; i < r->broken.n; i++)
		if (smap_get(&r->goals->broken, r->broken.v[i]) == r)
			(void)smap_remove(&r->goals->broken, r->broken.v[i]);
	for (size_t i = 0; i < r->targets.n; i++)
		free(r->targets.v[i].error);
	settings_done(&r->settings);
	arena_done(&r->arena);
	free(r);
}

int request_make(struct goals *g, const struct session_build *b, const struct settings *settings,
		 uid_t owner_uid, bool trusted, struct goal *outer,
		 const struct request_events *events, void *ctx, struct request **ret,
		 struct err *e)
{
	struct request *r;
	int err;

	if (g->stopping)
		return err_set(e, -ESHUTDOWN, "the daemon is shutting down");
	if (b->mode > BUILD_CHECK)
		return err_set(e, 1, "there is no build mode %llu", (unsigned long long)b->mode);
	r = calloc(1, sizeof(*r));
	if (!r)
		return err_errno(e, -ENOMEM, "starting a build");
	r->goals = g;
	r->ev = *events;
	r->ctx = ctx;
	r->check = b->mode == BUILD_CHECK;
	r->repair = b->mode == BUILD_REPAIR;
	r->with_results = b->with_results;
	r->trusted = trusted;
	r->outer = outer;
	r->depth = outer ? outer->payer->depth + 1 : 0;
	r->arena = ARENA_INIT(REQUEST_MEMORY);
	r->ready_end = &r->ready;
	err = settings_copy(settings, &r->settings);
	if (err < 0) {
		err_errno(e, err, "starting a build");
	} else {
		r->settings.max_jobs = settings_max_jobs(&r->settings);
		err = parse_targets(r, b, e);
		if (!err && b->drv && *b->drv)
			err = given_take(r, b->drv, b->believed, e);
	}
	if (!err && r->repair)
		err = take_broken(r, b, e);
	if (!err) {
		r->owner = owner_get(g, owner_uid);
		if (!r->owner)
			err = err_errno(e, -ENOMEM, "starting a build");
	}
	if (err) {
		request_free(r);
		return err;
	}
	r->link = &g->requests;
	r->next = g->requests;
	if (r->next)
		r->next->link = &r->next;
	g->requests = r;
	slots_recount(g);
	goals_kick(g);
	*ret = r;
	return 0;
}

int request_new(struct goals *g, const struct session_build *b, const struct settings *settings,
		uid_t owner_uid, bool trusted, const struct request_events *events, void *ctx,
		struct request **ret, struct err *e)
{
	return request_make(g, b, settings, owner_uid, trusted, NULL, events, ctx, ret, e);
}

void target_done(struct request *r, struct target *t, uint64_t status, const char *error)
{
	if (t->done)
		return;
	t->done = true;
	t->status = status;
	t->error = error && error[0] ? strdup(error) : NULL;
	if (--r->targets.left == 0)
		r->over = true;
}

static bool is_success(uint64_t status)
{
	return status == BUILT || status == SUBSTITUTED || status == ALREADY_VALID ||
	       status == RESOLVES_TO_ALREADY_VALID;
}

static void target_fail(struct request *r, struct target *t, uint64_t status, const char *fmt,
			const char *path)
{
	_cleanup_err_ struct err e = {};

	(void)err_set(&e, 1, fmt, r->goals->core->store_dir, path);
	target_done(r, t, status, err_msg(&e));
}

static void begin_opaque(struct request *r, struct target *t)
{
	int v = db_path_valid(r->goals->core->db, &t->path);

	if (v == 0 && r->repair && smap_has(&r->goals->broken, t->path.base))
		v = DB_ABSENT;
	if (v == 0)
		target_done(r, t, ALREADY_VALID, NULL);
	else if (v == DB_ABSENT)
		target_fail(
			r, t, NO_SUBSTITUTERS,
			"path '%s/%s' is required, but there is no substituter that can build it",
			t->path.base);
	else
		target_fail(r, t, MISC_FAILURE, "the database cannot be read for '%s/%s'",
			    t->path.base);
}

/* Outputs of the derivation that the target has come to. */
static void begin_drv(struct request *r, struct target *t)
{
	struct goals *g = r->goals;
	bool last = t->n_followed == t->chain.n, check = r->check && last;
	struct strv wanted = t->wanted;
	const char *unknown = NULL;
	struct goal *goal;
	int v;

	if (!last)
		wanted = (struct strv){ &t->chain.v[t->n_followed], 1 };
	v = t->given ? outputs_valid_of(g, &t->given->drv, r->repair)
		     : outputs_valid(g, &t->path, &wanted, r->repair, &unknown);
	if (v == OUTPUTS_NO_DRV) {
		target_fail(r, t, DEPENDENCY_FAILED, "failed to obtain derivation of '%s/%s'",
			    t->path.base);
		return;
	}
	if (v == OUTPUTS_NO_SUCH) {
		_cleanup_err_ struct err e = {};

		(void)err_set(&e, 1, "derivation '%s/%s' does not have wanted outputs '%s'",
			      g->core->store_dir, t->path.base, unknown);
		target_done(r, t, MISC_FAILURE, err_msg(&e));
		return;
	}
	if (v < 0) {
		target_fail(r, t, MISC_FAILURE, "the database cannot be read for '%s/%s'",
			    t->path.base);
		return;
	}
	if (v == OUTPUTS_MISSING && check) {
		target_fail(r, t, MISC_FAILURE,
			    "some outputs of '%s/%s' are not valid, so checking is not possible\n"
			    "Hint: --rebuild and --check error if the derivation was not previously "
			    "built and cannot be substituted.\n"
			    "      Remove it to perform a fresh build, or use --repair to rewrite "
			    "missing or corrupted builds in the store.",
			    t->path.base);
		return;
	}
	if (v == OUTPUTS_VALID && !check) {
		if (last)
			target_done(r, t, ALREADY_VALID, NULL);
		else
			t->follows = r->follows = true;
		return;
	}
	goal = goal_get_given(g, &t->path,
			      check ? BUILD_CHECK : r->repair ? BUILD_REPAIR : BUILD_NORMAL,
			      t->given ? t->given->text : NULL);
	if (!goal || interest_add(r, goal, t) < 0)
		target_fail(r, t, MISC_FAILURE, "out of memory while building '%s/%s'",
			    t->path.base);
}

static int output_of_target(struct request *r, const struct target *t, struct store_path *ret,
			    struct err *e)
{
	struct core *core = r->goals->core;
	const char *output = t->chain.v[t->n_followed];
	struct strv names = {}, paths = {};
	int ret_code;

	for (size_t i = 0; i < t->made.n; i++)
		if (!strcmp(t->made.v[i].output, output))
			return store_path_parse_base(t->made.v[i].path, ret, e);
	ret_code = realise_outputs(core, &t->path, NULL, &r->arena, &names, &paths, e);
	if (ret_code)
		return ret_code;
	for (size_t i = 0; i < names.n; i++)
		if (!strcmp(names.v[i], output) && *paths.v[i])
			return store_path_parse_base(paths.v[i], ret, e);
	return err_set(e, 1, "cannot operate on output '%s' of the unbuilt derivation '%s/%s'",
		       output, core->store_dir, t->path.base);
}

/* The derivation that the target leads through is there. */
static void follow(struct request *r, struct target *t)
{
	_cleanup_err_ struct err e = {};
	struct store_path next;

	t->follows = false;
	if (output_of_target(r, t, &next, &e)) {
		target_done(r, t, MISC_FAILURE, err_msg(&e));
		return;
	}
	t->path = next;
	t->n_followed++;
	t->made.n = 0;
	pin_target(r->goals, t);
	if (store_path_is_drv(&t->path))
		begin_drv(r, t);
	else
		target_fail(r, t, MISC_FAILURE, "path '%s/%s' is not a derivation", t->path.base);
}

/* Did any target move on? */
static bool follow_all(struct goals *g)
{
	bool any = false;

	for (struct request *r = g->requests; r; r = r->next) {
		while (r->follows && !r->over && !r->dead) {
			r->follows = false;
			any = true;
			for (size_t i = 0; i < r->targets.n; i++)
				if (r->targets.v[i].follows)
					follow(r, &r->targets.v[i]);
		}
	}
	return any;
}

/* Upstream starts goals in the order of their names; who reads a log expects it. */
static int by_name(const void *a, const void *b)
{
	const struct target *x = *(struct target *const *)a, *y = *(struct target *const *)b;
	int r = strcmp(store_path_name(&x->path), store_path_name(&y->path));

	return r ? r : strcmp(x->path.base, y->path.base);
}

static struct target **in_order(struct request *r)
{
	struct target **order = arena_array(&r->arena, r->targets.n, sizeof(*order));

	for (size_t i = 0; order && i < r->targets.n; i++)
		order[i] = &r->targets.v[i];
	if (order)
		qsort(order, r->targets.n, sizeof(*order), by_name);
	return order;
}

static void request_begin(struct request *r)
{
	struct target **order = in_order(r);

	r->begun = true;
	if (!r->targets.n)
		r->over = true;
	for (size_t i = 0; i < r->targets.n && !r->dead; i++) {
		struct target *t = order ? order[i] : &r->targets.v[i];

		pin_target(r->goals, t);
		if (t->is_drv)
			begin_drv(r, t);
		else
			begin_opaque(r, t);
		if (t->done && !is_success(t->status) && !r->settings.keep_going) {
			r->over = true;
			break;
		}
	}
}

static void queue_drain(struct goals *g)
{
	while (g->queue) {
		struct goal *goal = g->queue;

		g->queue = goal->next_queued;
		if (!g->queue)
			g->queue_end = &g->queue;
		goal->queued = false;
		goal_step(goal);
	}
}

/* Requests that have their answer, or were given up, let go of what still runs for them. */
static bool drop_over(struct goals *g)
{
	bool any = false;

	for (struct request *r = g->requests; r; r = r->next) {
		if ((r->over || r->dead) && r->interests) {
			interests_drop_all(r);
			any = true;
		}
	}
	return any;
}

static void tell(struct goals *g)
{
	for (struct request *r = g->requests; r; r = r->next) {
		if (r->dead)
			continue;
		if (r->progress_due)
			report_progress(r);
		if (r->over && !r->dead && !runs_linger(g->runs) && request_may_be_told(r)) {
			report_built(r);
			r->dead = true;
		}
	}
}

static void sweep_requests(struct goals *g)
{
	struct request *next;

	for (struct request *r = g->requests; r; r = next) {
		next = r->next;
		if (r->dead)
			request_free(r);
	}
}

/* One round: new requests, goals that have something to do, free slots, answers. */
static void goals_work(void *ctx)
{
	struct goals *g = ctx;
	bool again;

	g->due = false;
	g->in_round = true;
	for (struct request *r = g->requests; r; r = r->next)
		if (!r->begun && !r->dead)
			request_begin(r);
	do {
		queue_drain(g);
		(void)follow_all(g);
		(void)drop_over(g);
		slots_fill(g);
	} while (g->queue || drop_over(g) || follow_all(g));
	tell(g);
	again = drop_over(g); /* a listener may have given up while it was told */
	sweep_requests(g);
	goals_sweep(g);
	slots_recount(g);
	g->in_round = false;
	if (again || g->queue)
		goals_kick(g);
}

void request_cancel(struct request *r)
{
	/* The rest is done by the next round: this may be called from one of its events. */
	r->dead = true;
	goals_kick(r->goals);
}

void goals_resume(struct goals *g)
{
	goals_kick(g);
}

void goals_shutdown(struct goals *g)
{
	g->stopping = true;
	for (struct request *r = g->requests; r; r = r->next) {
		if (r->dead || r->over)
			continue;
		for (size_t i = 0; i < r->targets.n; i++)
			target_done(r, &r->targets.v[i], MISC_FAILURE,
				    "the daemon is shutting down");
		r->over = true;
	}
	goals_kick(g);
}

void goals_free(struct goals *g)
{
	if (!g)
		return;
	for (struct request *r = g->requests; r; r = r->next) {
		r->dead = true;
		interests_drop_all(r);
	}
	sweep_requests(g);
	goals_sweep(g);
	runs_free(g->runs);
	smap_done(&g->by_key);
	smap_done(&g->broken);
	free(g);
}
