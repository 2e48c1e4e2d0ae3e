/* See goals_int.h: the programs that run before and after a build (feature rows D15, E10).
 *
 * A goal that was built gives its slot back and is over for those who wait when the hook has ended,
 * so that a slow hook delays nobody else. Each of those who wait may have a hook of his own; each
 * of these runs once. When one fails, the build stands, and the requests that asked for it are over
 * ("no further builds execute"). Only trusted clients and the configuration name hooks. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "core/goals_int.h"
#include "core/hook.h"
#include "core/realise.h"

enum { HOOK_TEXT_MAX = 4 << 20, PRE_OUTPUT_MAX = 1 << 20 };

static const char *path_of(const struct goal *g, struct arena *a, const char *base)
{
	return arena_printf(a, "%s/%s", g->goals->core->store_dir, base);
}

/* ---- post-build-hook ---- */

bool wants_hook(const struct request *r, const char *program)
{
	const char *own = r->settings.post_build_hook;

	if (r->dead || r->over || !own || !*own)
		return false;
	return !program || !strcmp(own, program);
}

static int find_outputs(struct goal *g, struct arena *a, struct strv *names, struct strv *paths,
			struct err *e)
{
	struct core *core = g->goals->core;

	return g->given ? realise_drv_outputs(core, &g->drv, a, names, paths, e)
			: realise_outputs(core, &g->drv_path, NULL, a, names, paths, e);
}

/* What is valid of the outputs: a check may be of some of them. */
static int add_outputs(struct goal *g, struct arena *a, struct strv *ret)
{
	_cleanup_err_ struct err e = {};
	struct strv names = {}, paths = {};
	int r = 0;

	for (size_t i = 0; i < g->made.n && r == 0; i++)
		r = strv_add_arena(ret, a, (char *)path_of(g, a, g->made.v[i].path));
	if (r == 0 && !g->made.n && find_outputs(g, a, &names, &paths, &e) == 0)
		for (size_t i = 0; i < paths.n && r == 0; i++) {
			struct store_path p;

			if (store_path_parse_base(paths.v[i], &p, NULL) == 0 &&
			    db_path_valid(g->goals->core->db, &p) == 0)
				r = strv_add_arena(ret, a, (char *)path_of(g, a, p.base));
		}
	strv_sort_uniq(ret, false);
	return r;
}

static char *join(struct arena *a, const struct strv *list)
{
	_cleanup_buf_ struct buf b = BUF_INIT(HOOK_TEXT_MAX);

	for (size_t i = 0; i < list->n; i++)
		if (buf_printf(&b, "%s%s", i ? " " : "", list->v[i]) < 0)
			return NULL;
	return arena_strndup(a, b.data ? (const char *)b.data : "", b.len);
}

/* Clients that it starts ask this daemon, with the settings that the build had. */
static int post_env(struct goal *g, const struct settings *s, struct arena *a,
		    struct build_pairs *ret)
{
	_cleanup_free_ char *config = settings_print_changed(s);
	const char *remote = getenv("NIX_REMOTE");
	struct strv outputs = {};
	struct build_pair *v = arena_array(a, 5, sizeof(*v));

	if (!config || !v || add_outputs(g, a, &outputs) < 0)
		return -ENOMEM;
	v[0] = (struct build_pair){ (char *)"DRV_PATH", (char *)path_of(g, a, g->drv_path.base) };
	v[1] = (struct build_pair){ (char *)"OUT_PATHS", join(a, &outputs) };
	v[2] = (struct build_pair){ (char *)"NIX_CONFIG", arena_strdup(a, config) };
	v[3] = (struct build_pair){ (char *)"NIX_REMOTE",
				    (char *)(remote && *remote ? remote : "daemon") };
	v[4] = (struct build_pair){ (char *)"NIX_DAEMON_SOCKET_PATH", g->goals->core->socket_path };
	for (size_t i = 0; i < 5; i++)
		if (!v[i].value)
			return -ENOMEM;
	ret->v = v;
	ret->n = 5;
	return 0;
}

static void on_post_log(void *ctx, uint64_t size)
{
	report_hook_log(ctx, size);
}

static void fail_request(struct interest *i, const char *error)
{
	struct request *r = i->request;

	for (struct target *t = i->targets; t && !r->over; t = t->next_of_interest)
		if (!t->done) {
			target_done(r, t, MISC_FAILURE, error);
			r->over = true;
		}
	for (size_t k = 0; k < r->targets.n && !r->over; k++)
		if (!r->targets.v[k].done) {
			target_done(r, &r->targets.v[k], MISC_FAILURE, error);
			r->over = true;
		}
	goals_kick(r->goals);
}

/* Who asked for it hears why he gets nothing. */
static void fail_all(struct goal *g, const char *program, const char *error)
{
	for (struct interest *i = g->interests; i; i = i->next_of_goal)
		if (wants_hook(i->request, program))
			fail_request(i, error);
}

static void on_post_ended(void *ctx, const char *error)
{
	struct goal *g = ctx;

	report_hook_ended(g, hook_log_size(g->hook), !error);
	g->hook = NULL;
	if (error)
		fail_all(g, g->hook_program, error);
	if (!goal_post_hook(g))
		goal_hooked(g);
}

static const struct hook_events post_events = { .log = on_post_log, .ended = on_post_ended };

static const struct settings *next_hook(const struct goal *g)
{
	for (const struct interest *i = g->interests; i; i = i->next_of_goal) {
		const struct settings *s = &i->request->settings;

		if (wants_hook(i->request, NULL) && !strv_has(&g->hooks_done, s->post_build_hook))
			return s;
	}
	return NULL;
}

static int start_post(struct goal *g, const struct settings *s, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(4 * HOOK_TEXT_MAX);
	struct hook_job job = { .program = g->hook_program };

	if (post_env(g, s, &a, &job.env) < 0)
		return err_errno(e, -ENOMEM, "starting '%s'", g->hook_program);
	return hook_start(g->goals->core, &job, &post_events, g, &g->hook, e);
}

bool goal_post_hook(struct goal *g)
{
	const struct settings *s;

	while ((s = next_hook(g))) {
		_cleanup_err_ struct err e = {};

		if (g->state == GOAL_RUNNING) {
			slot_free(g);
			g->payer = NULL;
			g->state = GOAL_HOOK;
		}
		g->hook_program = arena_strdup(&g->arena, s->post_build_hook);
		if (!g->hook_program ||
		    strv_add_arena(&g->hooks_done, &g->arena, (char *)g->hook_program) < 0) {
			fail_all(g, s->post_build_hook, "out of memory");
			return false;
		}
		if (start_post(g, s, &e) == 0) {
			g->hook_build = ++g->goals->next_build;
			report_hook(g);
			return true;
		}
		fail_all(g, g->hook_program, err_msg(&e));
	}
	return false;
}

void goal_drop_hook(struct goal *g)
{
	if (g->hook)
		hook_cancel(g->hook);
	g->hook = NULL;
}

/* ---- pre-build-hook ---- */

/* One line: a command, or a path after extra-sandbox-paths and before an empty line. */
static int take_line(struct goal *g, const char *line, bool *in_paths, struct err *e)
{
	char *copy;

	if (!*in_paths) {
		*in_paths =
			!strcmp(line, "extra-sandbox-paths") || !strcmp(line, "extra-chroot-dirs");
		return *in_paths ? 0 : err_set(e, 1, "unknown pre-build hook command '%s'", line);
	}
	if (!*line) {
		*in_paths = false;
		return 0;
	}
	copy = arena_strdup(&g->arena, line);
	if (!copy || strv_add_arena(&g->extra_paths, &g->arena, copy) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	return 0;
}

static int take_output(struct goal *g, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	uint64_t size = hook_log_size(g->hook);
	int fd = size <= PRE_OUTPUT_MAX ? hook_log_fd(g->hook) : -EFBIG;
	bool in_paths = false;
	ssize_t n = -1;
	int r = 0;

	text = fd < 0 ? NULL : malloc(size + 1);
	if (text)
		n = pread(fd, text, size, 0);
	if (fd >= 0)
		close(fd);
	if (n < 0)
		return err_errno(e, fd < 0 ? fd : -EIO, "reading what '%s' printed",
				 g->hook_program);
	text[n] = 0;
	/* As upstream, a last line without its end does not count. */
	for (char *line = text, *end; r == 0 && (end = strchr(line, '\n')); line = end + 1) {
		*end = 0;
		r = take_line(g, line, &in_paths, e);
	}
	return r;
}

static void on_pre_log(void *ctx, uint64_t size)
{
	(void)ctx;
	(void)size;
}

static void on_pre_ended(void *ctx, const char *error)
{
	struct goal *g = ctx;
	_cleanup_err_ struct err e = {};
	int r = error ? 0 : take_output(g, &e);

	g->hook = NULL;
	goal_prepared(g, error ? error : r ? err_msg(&e) : NULL);
}

static const struct hook_events pre_events = { .log = on_pre_log, .ended = on_pre_ended };

bool goal_pre_hook(struct goal *g, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	const char *program = g->payer->settings.pre_build_hook;
	struct hook_job job = { .errors_apart = true };
	int r = 0;

	if (g->prepared || !program || !*program)
		return false;
	g->hook_program = job.program = arena_strdup(&g->arena, program);
	if (!job.program ||
	    strv_add_arena(&job.args, &a, (char *)path_of(g, &a, g->drv_path.base)) < 0)
		r = err_errno(e, -ENOMEM, "starting '%s'", program);
	if (r == 0)
		r = hook_start(g->goals->core, &job, &pre_events, g, &g->hook, e);
	g->prepared = r == 0;
	return r == 0;
}
