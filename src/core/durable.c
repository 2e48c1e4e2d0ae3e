/* Background flushing and the watermark. See durable.h. Linked by airplantd.
 *
 * The flush runs in a child (syncfs may take seconds); the watermark is written only after it,
 * by rename, and never names a row that the flush did not cover. */
#include "core/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/core.h"
#include "core/store_open.h"
#include "core/process.h"
#include "core/trash.h"
#include "nar/tree.h"

enum { FLUSH_USEC = 5 * 1000 * 1000, BOOT_ID_MAX = 64, CHECK_ARENA = 256 << 20 };

struct durable {
	struct core *core;
	char boot_id[BOOT_ID_MAX];
	uint64_t safe, flushing; /* row ids: on disk; on disk when the running child succeeds */
	struct loop_timer *timer;
	struct child *child;
	bool dirty;
};

static const char *boot_id_file = "/proc/sys/kernel/random/boot_id";

void durable_set_boot_id_file(const char *path)
{
	boot_id_file = path ? path : "/proc/sys/kernel/random/boot_id";
}

static int read_boot_id(char ret[BOOT_ID_MAX])
{
	_cleanup_free_ char *text = NULL;
	int r = read_file_at(AT_FDCWD, boot_id_file, BOOT_ID_MAX - 1, &text, NULL);

	if (r < 0)
		return r;
	text[strcspn(text, " \n")] = 0;
	snprintf(ret, BOOT_ID_MAX, "%s", *text ? text : "unknown");
	return 0;
}

static int write_watermark(const struct durable *d, bool clean)
{
	_cleanup_close_ int dir = store_own_dir(d->core), fd = -1;
	char text[BOOT_ID_MAX + 64];
	int n = snprintf(text, sizeof(text), "1 %s %llu %s\n", d->boot_id,
			 (unsigned long long)d->safe, clean ? "clean" : "running");
	int r;

	if (dir < 0)
		return dir;
	fd = openat(dir, "watermark.new", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
		    0644);
	if (fd < 0)
		return -errno;
	r = write_full(fd, text, (size_t)n);
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(dir, "watermark.new", dir, "watermark") < 0)
		r = -errno;
	return r;
}

static void note_written(const struct durable *d, bool clean)
{
	int r = write_watermark(d, clean);

	if (r < 0)
		log_warn("writing the watermark of what is safely on disk: %s", strerror(-r));
}

static int flush_child(void *ctx)
{
	const struct core *core = ctx;

	return syncfs(core->store_fd) < 0;
}

static void flush(void *ctx);

static void arm(struct durable *d)
{
	if (!d->timer && !d->child && d->core->loop)
		(void)loop_timer(d->core->loop, FLUSH_USEC, flush, d, &d->timer);
}

static void flushed(void *ctx, int status)
{
	struct durable *d = ctx;

	d->child = NULL;
	if (status == 0) {
		d->safe = d->flushing;
		note_written(d, false);
	} else {
		log_warn("flushing the store to disk failed");
		d->dirty = true;
	}
	if (d->dirty)
		arm(d);
}

static void flush(void *ctx)
{
	struct durable *d = ctx;

	d->timer = NULL;
	d->dirty = false;
	if (db_max_id(d->core->db, &d->flushing) < 0 ||
	    child_run(d->core->loop, flush_child, d->core, &d->core->store_fd, flushed, d,
		      &d->child) < 0) {
		d->dirty = true;
		arm(d);
	}
}

void durable_note(struct durable *d)
{
	if (!d)
		return;
	d->dirty = true;
	arm(d);
}

int durable_before_commit(struct core *core)
{
	if (!core->settings.durable)
		return 0;
	return syncfs(core->store_fd) < 0 ? -errno : 0;
}

/* Hashes one path again. 0 good, 1 not what the row says, or -errno. */
static int examine(const struct core *core, const struct store_path *path)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(64 << 20);
	_cleanup_err_ struct err e = {};
	struct path_info info;
	struct tree_facts facts;
	int r = db_path_info(core->db, path, &a, &info);

	if (r == DB_ABSENT)
		return 0; /* went with another one */
	if (r != 0)
		return r < 0 ? r : -EIO;
	r = tree_measure(core->store_fd, path->base, NULL, &facts, &e);
	if (r == -ENOENT || r > 0)
		return 1;
	if (r < 0)
		return r;
	return memcmp(facts.nar_hash, info.nar_hash, sizeof(info.nar_hash)) != 0;
}

/* Invalidates a path after everything that refers to it. Iterative: the stack is a list. */
static int invalidate(struct core *core, const struct store_path *bad)
{
	_cleanup_strv_ struct strv stack = {};
	size_t steps = 0;
	int r = strv_add(&stack, bad->base);

	while (r == 0 && stack.n > 0) {
		_cleanup_arena_ struct arena a = ARENA_INIT(64 << 20);
		struct store_path top;
		struct strv refs = {};
		size_t before = stack.n;

		if (++steps > 10 * 1000 * 1000)
			return -ELOOP;
		r = store_path_parse_base(stack.v[stack.n - 1], &top, NULL);
		if (r == 0)
			r = db_referrers(core->db, &top, &a, &refs);
		for (size_t i = 0; r == 0 && i < refs.n; i++)
			if (strcmp(refs.v[i], top.base))
				r = strv_add(&stack, refs.v[i]);
		if (r != 0 || stack.n > before)
			continue;
		r = db_invalidate(core->db, &top);
		if (r == DB_ABSENT)
			r = 0;
		if (r == 0) {
			log_warn("'%s/%s' was lost or damaged by the unclean stop: removed",
				 core->store_dir, top.base);
			r = trash_put_uncounted(core, core->store_fd, top.base);
		}
		free(stack.v[--stack.n]);
	}
	return r > 0 ? -EIO : r;
}

static int check_above(struct core *core, uint64_t watermark, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(CHECK_ARENA);
	struct strv paths = {};
	size_t n_bad = 0;
	int r = db_paths_above(core->db, watermark, &a, &paths);

	if (r < 0)
		return err_errno(e, r, "listing the paths to check after an unclean stop");
	log_info("the last stop was unclean: checking %zu path%s", paths.n,
		 paths.n == 1 ? "" : "s");
	for (size_t i = 0; i < paths.n; i++) {
		struct store_path path;

		r = store_path_parse_base(paths.v[i], &path, e);
		if (r == 0)
			r = examine(core, &path);
		if (r == 1) {
			n_bad++;
			r = invalidate(core, &path);
		}
		if (r < 0)
			return err_errno(e, r, "checking '%s/%s' after an unclean stop",
					 core->store_dir, paths.v[i]);
	}
	log_info("checked after the unclean stop: %zu good, %zu removed", paths.n - n_bad, n_bad);
	return 0;
}

/* What the last life left. No file: nothing is known, and nothing was promised by us. */
static int recover(struct durable *d, struct err *e)
{
	_cleanup_close_ int dir = store_own_dir(d->core);
	_cleanup_free_ char *text = NULL;
	char boot_id[BOOT_ID_MAX], word[16];
	unsigned long long mark;
	int r;

	if (dir < 0)
		return err_errno(e, dir, "opening '%s/airplant'", d->core->state_dir);
	r = read_file_at(dir, "watermark", 256, &text, NULL);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return err_errno(e, r, "reading '%s/airplant/watermark'", d->core->state_dir);
	if (sscanf(text, "1 %63s %llu %15s", boot_id, &mark, word) != 3) {
		log_warn("'%s/airplant/watermark' is unreadable: checking everything",
			 d->core->state_dir);
		return check_above(d->core, 0, e);
	}
	if (!strcmp(word, "clean") || !strcmp(boot_id, d->boot_id)) {
		/* After a mere crash of the daemon the kernel still had everything. */
		d->safe = mark;
		return 0;
	}
	return check_above(d->core, mark, e);
}

int durable_open(struct core *core, struct durable **ret, struct err *e)
{
	struct durable *d = calloc(1, sizeof(*d));
	uint64_t max;
	int r;

	if (!d)
		return err_set(e, -ENOMEM, "out of memory");
	d->core = core;
	r = read_boot_id(d->boot_id);
	if (r < 0)
		r = err_errno(e, r, "reading '%s'", boot_id_file);
	if (r == 0)
		r = recover(d, e);
	if (r < 0) {
		free(d);
		return r;
	}
	/* Flush before anything new is promised: what is valid now is then safe. */
	if (db_max_id(core->db, &max) == 0 && max > d->safe && syncfs(core->store_fd) == 0)
		d->safe = max;
	note_written(d, false);
	*ret = d;
	return 0;
}

void durable_abandon(struct durable *d)
{
	if (!d)
		return;
	loop_timer_cancel(d->timer);
	if (d->child)
		child_forget(d->child);
	free(d);
}

void durable_close(struct durable *d)
{
	if (!d)
		return;
	if (db_max_id(d->core->db, &d->flushing) == 0 && syncfs(d->core->store_fd) == 0) {
		d->safe = d->flushing;
		note_written(d, true);
	}
	durable_abandon(d);
}
