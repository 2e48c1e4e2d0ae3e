/* See build_run.h: what becomes of a build that was made to be compared (--check), and of what a
 * build leaves for a person to look at. Nothing that is valid is touched here. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/build_keep.h"
#include "core/build_run_int.h"
#include "core/build_stage.h"
#include "core/core.h"
#include "core/hook.h"
#include "core/gc.h"
#include "core/trash.h"
#include "nar/tree.h"

enum { DIFF_MAX = 1 << 20 };

void run_unreserve(struct build_run *run)
{
	if (run->keep_path)
		(void)rmdir(run->keep_path); /* an empty one is left otherwise */
	free(run->keep_path);
	run->keep_path = NULL;
}

char *run_keep_failed(struct build_run *run)
{
	_cleanup_free_ char *path = NULL, *text = NULL;
	_cleanup_err_ struct err e = {};
	int r;

	if (!run->keep_dir)
		return NULL;
	r = build_keep(run->scratch_fd, run->keep_path, run->keep_dir, run->job.drv->name, &path,
		       &e);
	if (r == -ENOENT)
		return NULL;
	if (r < 0) {
		log_warn("%s", err_msg(&e));
		return NULL;
	}
	free(run->keep_path);
	run->keep_path = NULL;
	if (asprintf(&text, "note: keeping build directory \"%s\"", path) >= 0)
		run->ev->note(run->ctx, 0, text);
	else
		text = NULL;
	return TAKE_PTR(path);
}

/* Beside the valid one, for a person to compare; a collection takes it away. */
static int put_beside(struct build_run *run, const struct build_stage_input *in, const char *base)
{
	struct core *core = run->runs->core;
	_cleanup_free_ char *name = NULL;
	struct stat st;
	int r;

	if (asprintf(&name, "%s.check", base) < 0) {
		name = NULL;
		return err_errno(&run->error, -ENOMEM, "keeping '%s'", base);
	}
	gc_clear_way(core, name);
	r = trash_put_uncounted(core, core->store_fd, name);
	if (r == 0 && (fstatat(in->out_dirfd, base, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		       renameat2(in->out_dirfd, base, core->store_fd, name, RENAME_NOREPLACE) < 0))
		r = -errno;
	if (r == 0 && S_ISDIR(st.st_mode))
		r = tree_seal(core->store_fd, name);
	if (r < 0)
		return err_errno(&run->error, r, "moving what was built to '%s/%s'",
				 core->store_dir, name);
	return err_set(&run->error, STAGE_DIFFERS,
		       "derivation '%s/%s' may not be deterministic: output \"%s/%s\" differs from "
		       "\"%s/%s\"",
		       core->store_dir, run->drv_base, core->store_dir, base, core->store_dir,
		       name);
}

static void differs_finish(struct build_run *run)
{
	run->hook = NULL;
	run->placing = false;
	run_judged(run, STAGE_DIFFERS);
	run_settle(run);
}

static void on_diff_log(void *ctx, uint64_t size)
{
	(void)ctx;
	(void)size;
}

/* What it printed, without the end of its last line. */
static void tell_diff(struct build_run *run)
{
	uint64_t size = hook_log_size(run->hook);
	_cleanup_close_ int fd = hook_log_fd(run->hook);
	_cleanup_free_ char *text = NULL;
	ssize_t n;

	if (size > DIFF_MAX)
		size = DIFF_MAX;
	text = malloc(size + 1);
	n = text && fd >= 0 ? pread(fd, text, size, 0) : -1;
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
		n--;
	if (n <= 0)
		return;
	text[n] = 0;
	run->ev->note(run->ctx, 0, text);
}

static void on_diff_ended(void *ctx, const char *error)
{
	struct build_run *run = ctx;
	_cleanup_free_ char *text = NULL;

	if (run->ev && error &&
	    asprintf(&text, "error: diff hook execution failed: diff-hook %s", error) < 0)
		text = NULL;
	if (text)
		run->ev->note(run->ctx, 0, text);
	else if (run->ev && !error)
		tell_diff(run);
	differs_finish(run);
}

static const struct hook_events diff_events = { .log = on_diff_log, .ended = on_diff_ended };

/* Upstream's four arguments; the last is where the build directory was kept, if it was. */
static int start_diff(struct build_run *run, const char *base, const char *kept, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	const char *store = run->runs->core->store_dir;
	struct hook_job job = { .program = run->diff_hook, .errors_apart = true };
	char *args[] = { arena_printf(&a, "%s/%s", store, base),
			 arena_printf(&a, "%s/%s.check", store, base),
			 arena_printf(&a, "%s/%s", store, run->drv_base),
			 arena_strdup(&a, kept ? kept : "") };

	for (size_t i = 0; i < ELEMENTS(args); i++)
		if (!args[i])
			return err_errno(e, -ENOMEM, "starting '%s'", run->diff_hook);
	job.args = (struct strv){ .v = args, .n = ELEMENTS(args) };
	return hook_start(run->runs->core, &job, &diff_events, run, &run->hook, e);
}

void run_check(struct build_run *run, struct build_stage_input *in)
{
	_cleanup_free_ char *kept = NULL;
	_cleanup_err_ struct err e = {};
	struct store_path differs;
	int r = build_compare(in, &differs, &run->error);

	if (r == STAGE_DIFFERS) {
		kept = run_keep_failed(run);
		if (run->keep_dir || run->diff_hook)
			r = put_beside(run, in, differs.base);
	}
	if (r != STAGE_DIFFERS || !run->diff_hook) {
		run_judged(run, r);
		return;
	}
	run->placing = true;
	if (start_diff(run, differs.base, kept, &e) == 0)
		return;
	log_warn("%s", err_msg(&e));
	differs_finish(run);
}

void run_check_cancel(struct build_run *run)
{
	hook_cancel(run->hook);
	differs_finish(run);
}
