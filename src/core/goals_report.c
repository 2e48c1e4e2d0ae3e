/* See goals_int.h: the sentences of the goal graph and who hears them. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "core/goals_int.h"
#include "core/hook.h"
#include "core/realise.h"

/* Upstream colours its sentences; a client that is no terminal takes the colours out. */
#define RED	"\033[31;1m"
#define MAGENTA "\033[35;1m"
#define NORMAL	"\033[0m"

enum { TEXT_MAX = 16 << 20, LEVEL_ERROR = 0 };

static int compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int put_known_outputs(struct buf *b, const struct goal *g)
{
	size_t n = g->drv.outputs.n;
	_cleanup_free_ const char **paths = calloc(n ? n : 1, sizeof(*paths));
	int r = paths ? 0 : -1;

	if (!n || r)
		return r;
	for (size_t i = 0; i < n; i++) {
		paths[i] = g->drv.outputs.v[i].path;
		if (!*paths[i])
			return 0; /* not known beforehand */
	}
	qsort(paths, n, sizeof(*paths), compare);
	r = buf_append_str(b, "\nOutput paths:");
	for (size_t i = 0; i < n && r == 0; i++)
		r = buf_printf(b, "\n  " MAGENTA "%s" NORMAL, paths[i]);
	return r;
}

static char *text_resolved_failed(const struct goal *g)
{
	char *text;

	if (asprintf(&text, "build of resolved derivation '" MAGENTA "%s/%s" NORMAL "' failed",
		     g->goals->core->store_dir, g->resolved.base) < 0)
		return NULL;
	return text;
}

char *text_dependency_failed(const struct goal *g, size_t n_failed)
{
	_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX);

	if (g->is_resolved)
		return text_resolved_failed(g);
	if (buf_printf(&b,
		       "Cannot build '" MAGENTA "%s/%s" NORMAL "'.\nReason: " RED
		       "%zu %s failed" NORMAL ".",
		       g->goals->core->store_dir, g->drv_path.base, n_failed,
		       n_failed == 1 ? "dependency" : "dependencies") < 0 ||
	    put_known_outputs(&b, g) < 0)
		return NULL;
	return buf_take_str(&b);
}

char *text_no_derivation(const struct request *r, const struct target *t)
{
	_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX);
	int ret = buf_printf(&b, "failed to obtain derivation of '%s/%.*s",
			     r->goals->core->store_dir, (int)strcspn(t->text, "!"), t->text);

	for (size_t i = 0; i < t->chain.n && ret == 0; i++)
		ret = buf_printf(&b, "^%s", t->chain.v[i]);
	if (ret == 0)
		ret = buf_append_char(&b, '\'');
	return ret ? NULL : buf_take_str(&b);
}

static int put_list(struct buf *b, const struct strv *list)
{
	int r = 0;

	for (size_t i = 0; i < list->n && r == 0; i++)
		r = buf_printf(b, "%s%s", i ? ", " : "", list->v[i]);
	return r;
}

static int put_missing_features(struct buf *b, const struct goal *g, const struct strv *available)
{
	struct strv sorted = {};
	bool missing = false;
	int r = 0;

	for (size_t i = 0; i < g->opts.required_features.n; i++)
		if (!strv_has(available, g->opts.required_features.v[i]))
			missing = true;
	if (!missing)
		return 0;
	for (size_t i = 0; i < available->n && r == 0; i++)
		r = strv_add(&sorted, available->v[i]);
	if (r == 0) {
		strv_sort_uniq(&sorted, true);
		r = buf_append_str(b, "\nReason: " RED "missing system features" NORMAL
				      "\nRequired features: {");
	}
	if (r == 0)
		r = put_list(b, &g->opts.required_features);
	if (r == 0)
		r = buf_append_str(b, "}\nAvailable features: {");
	if (r == 0)
		r = put_list(b, &sorted);
	if (r == 0)
		r = buf_append_char(b, '}');
	strv_done(&sorted);
	return r;
}

static bool anybody_has_platform(const struct goal *g)
{
	for (struct interest *i = g->interests; i; i = i->next_of_goal)
		if (!i->request->dead && request_has_platform(i->request, g))
			return true;
	return false;
}

char *text_rejected(const struct goal *g, bool no_jobs)
{
	_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX);
	int r = 0;

	if (no_jobs)
		r = buf_append_str(&b, "\nReason: " RED "local builds are disabled" NORMAL
				       " (max-jobs = 0)"
				       "\nHint: set 'max-jobs' to a non-zero value to enable local "
				       "builds, or configure remote builders via 'builders'");
	if (r == 0 && !anybody_has_platform(g))
		r = buf_printf(&b,
			       "\nReason: " RED "platform mismatch" NORMAL
			       "\nRequired system: '" MAGENTA "%s" NORMAL "'"
			       "\nCurrent system: '" MAGENTA "%s" NORMAL "'",
			       g->drv.platform, g->interests->request->settings.system);
	if (r == 0)
		r = put_missing_features(&b, g, &g->goals->core->settings.system_features);
	if (r == 0 && b.len) {
		_cleanup_buf_ struct buf all = BUF_INIT(TEXT_MAX);

		if (buf_printf(&all, "Cannot build '" MAGENTA "%s/%s" NORMAL "'.",
			       g->goals->core->store_dir, g->drv_path.base) == 0 &&
		    buf_append(&all, b.data, b.len) == 0)
			return buf_take_str(&all);
		r = -1;
	}
	return r ? strdup("out of memory") : NULL;
}

static void note(struct request *r, uint64_t level, const char *text)
{
	if (!r->dead && !r->over)
		r->ev.note(r->ctx, level, text);
}

/* As upstream prints an error that is not the answer: later lines are indented below the first. */
static char *error_lines(const char *sentence)
{
	_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX);
	size_t len = strlen(sentence);
	int r = buf_append_str(&b, RED "error:" NORMAL " ");

	while (len && sentence[len - 1] == '\n')
		len--;
	for (size_t i = 0; i < len && r == 0; i++) {
		r = buf_append_char(&b, sentence[i]);
		if (sentence[i] == '\n' && r == 0)
			r = buf_append_str(&b, "       ");
	}
	return r ? NULL : buf_take_str(&b);
}

void note_error(struct request *r, const char *sentence)
{
	_cleanup_free_ char *text = error_lines(sentence);

	if (text)
		note(r, LEVEL_ERROR, text);
}

static void tell_started(struct request *r, const struct goal *g)
{
	int fd = build_run_log_fd(g->run);

	r->ev.started(r->ctx, g->build, g->drv_path.base, fd, g->log_size);
	if (fd >= 0)
		close(fd);
}

void report_started(struct goal *g, struct interest *only)
{
	if (only)
		goal_tell_joined(g, only, tell_started);
	else
		goal_tell(g, tell_started);
}

void report_hook(struct goal *g)
{
	for (struct interest *i = g->interests; i; i = i->next_of_goal) {
		int fd = wants_hook(i->request, g->hook_program) ? hook_log_fd(g->hook) : -1;

		if (fd < 0)
			continue;
		i->request->ev.hook(i->request->ctx, g->hook_build, g->drv_path.base,
				    g->hook_program, fd);
		close(fd);
	}
}

void report_hook_log(struct goal *g, uint64_t size)
{
	for (struct interest *i = g->interests; i; i = i->next_of_goal)
		if (wants_hook(i->request, g->hook_program))
			i->request->ev.log(i->request->ctx, g->hook_build, size);
}

void report_hook_ended(struct goal *g, uint64_t size, bool ok)
{
	for (struct interest *i = g->interests; i; i = i->next_of_goal)
		if (wants_hook(i->request, g->hook_program))
			i->request->ev.ended(i->request->ctx, g->hook_build, size, ok);
}

static void tell_log(struct request *r, const struct goal *g)
{
	r->ev.log(r->ctx, g->build, g->log_size);
}

void report_log(struct goal *g)
{
	goal_tell(g, tell_log);
}

void report_note(struct goal *g, uint64_t level, const char *text)
{
	for (struct interest *i = g->interests; i; i = i->next_of_goal)
		note(i->request, level, text);
}

static void tell_ended(struct request *r, const struct goal *g)
{
	r->ev.ended(r->ctx, g->build, g->log_size, g->ended_well);
}

void report_ended(struct goal *g, bool ok)
{
	g->ended_well = ok;
	goal_tell(g, tell_ended);
}

void report_progress(struct request *r)
{
	r->progress_due = false;
	r->ev.progress(r->ctx, &r->progress);
}

/* A goal above `failed` that the request asked for by name, found breadth first; `via` leads back
 * down. NULL when there is none (or no memory to look). */
static struct goal *find_target_above(struct request *r, struct goal *failed)
{
	uint64_t mark = ++r->goals->epoch;
	struct goal **queue = NULL, *found = NULL;
	size_t n = 0, cap = 0, at = 0;

	failed->mark = mark;
	failed->via = NULL;
	for (struct goal *g = failed; g; g = at < n ? queue[at++] : NULL) {
		struct interest *own = interest_find(g, r);

		if (g != failed && own && own->targets) {
			found = g;
			break;
		}
		for (struct edge *e = g->needed_by; e; e = e->next_up) {
			if (e->up->mark == mark || !interest_find(e->up, r))
				continue;
			if (n == cap) {
				struct goal **v =
					reallocarray(queue, cap ? cap * 2 : 64, sizeof(*v));

				if (!v)
					break;
				queue = v;
				cap = cap ? cap * 2 : 64;
			}
			e->up->mark = mark;
			e->up->via = g;
			queue[n++] = e->up;
		}
	}
	free(queue);
	return found;
}

void request_give_up(struct request *r, struct goal *failed)
{
	bool told = false;
	struct goal *top;

	for (size_t i = 0; i < r->targets.n && !told; i++)
		told = r->targets.v[i].done && r->targets.v[i].status != BUILT &&
		       r->targets.v[i].status != SUBSTITUTED &&
		       r->targets.v[i].status != ALREADY_VALID;
	top = told ? NULL : find_target_above(r, failed);
	if (top) {
		_cleanup_free_ char *text = text_dependency_failed(top, 1);
		size_t n = 0;
		/* The goals between, from the failure upwards. */
		struct goal *between[64];

		for (struct goal *g = top->via; g && g != failed && n < ELEMENTS(between);
		     g = g->via)
			between[n++] = g;
		while (n > 0) {
			_cleanup_free_ char *line = text_dependency_failed(between[--n], 1);

			if (line)
				note_error(r, line);
		}
		for (struct target *t = interest_find(top, r)->targets; t; t = t->next_of_interest)
			target_done(r, t, DEPENDENCY_FAILED, text ? text : "a dependency failed");
	}
	r->over = true;
}

static bool is_success(const struct target *t)
{
	return t->done && (t->status == BUILT || t->status == SUBSTITUTED ||
			   t->status == ALREADY_VALID || t->status == RESOLVES_TO_ALREADY_VALID);
}

static void put_output(struct session_result *ret, const struct target *t, char *name, char *path)
{
	if (!*path || (t->wanted.n && !strv_has(&t->wanted, name)))
		return;
	ret->outputs.v[ret->outputs.n].name = name;
	ret->outputs.v[ret->outputs.n].path = path;
	ret->outputs.n++;
}

static int outputs_of(struct request *r, const struct target *t, struct strv *names,
		      struct strv *paths, struct err *e)
{
	struct core *core = r->goals->core;

	return t->given ? realise_drv_outputs(core, &t->given->drv, &r->arena, names, paths, e)
			: realise_outputs(core, &t->path, NULL, &r->arena, names, paths, e);
}

static int put_outputs(struct request *r, const struct target *t, struct session_result *ret)
{
	_cleanup_err_ struct err e = {};
	struct strv names = {}, paths = {};

	if (!t->is_drv || !is_success(t))
		return 0;
	if (!t->made.n && outputs_of(r, t, &names, &paths, &e) != 0)
		return 0;
	ret->outputs.v = arena_array(&r->arena, names.n + t->made.n, sizeof(*ret->outputs.v));
	if (names.n + t->made.n && !ret->outputs.v)
		return -1;
	for (size_t i = 0; i < t->made.n; i++)
		put_output(ret, t, t->made.v[i].output, t->made.v[i].path);
	for (size_t i = 0; i < names.n; i++)
		put_output(ret, t, names.v[i], paths.v[i]);
	return 0;
}

/* One sentence for an operation that has only one: upstream's buildPaths. */
static char *overall_error(struct request *r, bool *ret_many)
{
	struct strv failed = {};
	const struct target *first = NULL;
	char *ret = NULL;

	for (size_t i = 0; i < r->targets.n; i++) {
		const struct target *t = &r->targets.v[i];
		char *full;

		if (is_success(t) || !t->done)
			continue; /* what was given up has not failed */
		if (!first)
			first = t;
		full = arena_printf(&r->arena, "%s/%s", r->goals->core->store_dir, t->path.base);
		if (strv_add_arena(&failed, &r->arena, full) < 0)
			return NULL;
	}
	strv_sort_uniq(&failed, false);
	if (failed.n == 1 && first)
		return arena_strdup(&r->arena, first->error ? first->error : "the build failed");
	*ret_many = true;
	ret = arena_strdup(&r->arena, "build of ");
	for (size_t i = 0; i < failed.n && ret; i++)
		ret = arena_printf(&r->arena, "%s%s'%s'", ret, i ? ", " : "", failed.v[i]);
	return ret ? arena_printf(&r->arena, "%s failed", ret) : NULL;
}

/* Errors that the overall sentence does not contain are told before it. */
static void tell_others(struct request *r)
{
	for (size_t i = 0; i < r->targets.n; i++) {
		_cleanup_free_ char *text = NULL;

		if (!r->targets.v[i].error)
			continue;
		text = error_lines(r->targets.v[i].error);
		if (text && !r->dead)
			r->ev.note(r->ctx, LEVEL_ERROR, text);
	}
}

void report_built(struct request *r)
{
	struct session_built b = { .ok = 1, .error = (char *)"" };
	bool memory = true, many = false;

	b.results.v = arena_array(&r->arena, r->targets.n, sizeof(*b.results.v));
	if (r->targets.n && !b.results.v)
		memory = false;
	for (size_t i = 0; memory && i < r->targets.n; i++) {
		const struct target *t = &r->targets.v[i];
		struct session_result *res = &b.results.v[b.results.n];

		if (!is_success(t))
			b.ok = 0;
		if (!t->done)
			continue; /* given up before it came to anything: upstream leaves it out */
		*res = (struct session_result){ .target = t->text,
						.status = t->status,
						.error = t->error ? t->error : (char *)"",
						.times_built = t->times_built,
						.start_time = t->start_time,
						.stop_time = t->stop_time,
						.cpu_known = t->cpu_known,
						.cpu_user_usec = t->cpu_user_usec,
						.cpu_system_usec = t->cpu_system_usec };
		memory = put_outputs(r, t, res) == 0;
		b.results.n++;
	}
	if (!b.ok || !memory) {
		b.ok = 0;
		b.error = memory ? overall_error(r, &many) : NULL;
		if (!b.error)
			b.error = (char *)"out of memory while building";
		if (many && !r->with_results)
			tell_others(r);
	}
	if (!r->dead)
		r->ev.built(r->ctx, &b);
}
