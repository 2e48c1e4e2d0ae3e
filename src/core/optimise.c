/* See optimise.h. */
#include "core/optimise.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/core.h"
#include "core/process.h"
#include "core/spool.h"
#include "nar/optimise.h"

enum {
	LATER_USEC = 200 * 1000, /* additions within this time are one job */
	LATER_MAX = 100 * 1000,	 /* paths; beyond that only a whole run helps */
	PATHS_BYTES = 1 << 30,
	TOLD_EVERY = 64, /* paths between two reports of progress */
};

struct optimise_job {
	struct optimiser *all;
	struct optimise_job *next;
	struct strv paths; /* of additions: heap. A whole run's are loaded when it begins */
	uint64_t n_paths;
	bool whole, repaired;
	const struct optimise_events *ev; /* NULL: nobody listens */
	void *ctx;
	uint64_t files, bytes;
	struct err error;
};

struct optimiser {
	struct core *core;
	struct optimise_job *head; /* the first is being done when `child` is there */
	struct optimise_job *later;
	struct loop_timer *timer;
	struct child *child;
	struct loop_fd *watch;
	int pipe;
};

/* What the child says; written and read whole (below PIPE_BUF). */
enum report_kind { REPORT_PROGRESS, REPORT_NOTE, REPORT_ERROR };
struct report {
	uint32_t kind, level;
	uint64_t done, files, bytes;
	char text[480];
};

/* ---- in the child ---- */

struct work {
	const struct optimise_job *job;
	const struct strv *paths;
	const char *store_dir, *spool_dir;
	int out;
};

static void send_report(const struct work *w, struct report *r)
{
	(void)write_full(w->out, r, sizeof(*r)); /* nobody there: killed soon */
}

static void note(void *ctx, unsigned level, const char *text)
{
	struct report r = { .kind = REPORT_NOTE, .level = level };

	snprintf(r.text, sizeof(r.text), "%s", text);
	send_report(ctx, &r);
}

static int open_dirs(const struct work *w, struct optimise *o)
{
	_cleanup_close_ int spool = open(w->spool_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	o->store = open(w->store_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (o->store < 0 || spool < 0)
		return -errno;
	if ((mkdirat(o->store, ".links", 0755) < 0 && errno != EEXIST) ||
	    (mkdirat(spool, "optimise", 0700) < 0 && errno != EEXIST))
		return -errno;
	o->links = openat(o->store, ".links", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	o->temp = openat(spool, "optimise", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return o->links < 0 || o->temp < 0 ? -errno : 0;
}

static int work_paths(struct work *w, struct optimise *o, struct err *e)
{
	for (size_t i = 0; i < w->paths->n; i++) {
		struct report r = { .kind = REPORT_PROGRESS, .done = i + 1 };
		int error = optimise_path(o, w->paths->v[i], e);

		if (error)
			return error;
		r.files = o->files;
		r.bytes = o->bytes;
		if (i % TOLD_EVERY == 0 || i + 1 == w->paths->n)
			send_report(w, &r);
	}
	return 0;
}

static int work(void *ctx)
{
	struct work *w = ctx;
	struct optimise o = { .store = -1,
			      .links = -1,
			      .temp = -1,
			      .note = note,
			      .ctx = w,
			      .distrust = w->job->repaired };
	struct report report = { .kind = REPORT_ERROR };
	_cleanup_err_ struct err e = {};
	int r = open_dirs(w, &o);

	if (r == 0 && w->job->whole) {
		(void)setpriority(PRIO_PROCESS, 0, 10);
		r = optimise_learn(&o);
	}
	if (r < 0)
		(void)err_errno(&e, r, "optimising the store '%s'", w->store_dir);
	else
		r = work_paths(w, &o, &e);
	if (r == 0)
		return 0;
	snprintf(report.text, sizeof(report.text), "%s", err_msg(&e));
	send_report(w, &report);
	return 1;
}

/* ---- in the core ---- */

static void next(struct optimiser *o);

static void job_free(struct optimise_job *job)
{
	strv_done(&job->paths);
	err_done(&job->error);
	free(job);
}

static void take_report(struct optimise_job *job, struct report *r)
{
	const struct optimise_events *ev = job->ev;

	r->text[sizeof(r->text) - 1] = 0;
	switch (r->kind) {
	case REPORT_PROGRESS:
		job->files = r->files;
		job->bytes = r->bytes;
		if (ev && ev->progress)
			ev->progress(job->ctx, r->done, job->n_paths);
		return;
	case REPORT_NOTE:
		if (ev && ev->note)
			ev->note(job->ctx, r->level, r->text);
		else
			log_warn("optimising: %s", r->text);
		return;
	default:
		(void)err_set(&job->error, -EIO, "%s", r->text);
	}
}

static void on_report(void *ctx, uint32_t events)
{
	struct optimiser *o = ctx;
	struct report r;

	(void)events;
	while (read(o->pipe, &r, sizeof(r)) == sizeof(r))
		take_report(o->head, &r);
}

static void job_end(struct optimiser *o)
{
	struct optimise_job *job = o->head;
	const struct optimise_events *ev = job->ev;

	o->head = job->next;
	if (ev)
		ev->done(job->ctx, job->files, job->bytes, job->error.code ? &job->error : NULL);
	else if (job->error.code)
		log_warn("%s", err_msg(&job->error));
	job_free(job);
}

static void child_gone(struct optimiser *o)
{
	loop_remove(o->watch);
	o->watch = NULL;
	close_fdp(&o->pipe);
	o->child = NULL;
}

static void on_ended(void *ctx, int status)
{
	struct optimiser *o = ctx;

	on_report(o, 0); /* its last words */
	child_gone(o);
	if (status != 0 && !o->head->error.code)
		(void)err_set(&o->head->error, -EIO, "optimising the store was interrupted");
	job_end(o);
	next(o);
}

/* The names of all paths are the child's alone, once there is one: many may wait for their turn. */
static int start(struct optimiser *o, struct optimise_job *job)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(PATHS_BYTES);
	struct strv all = {};
	struct work w = { .job = job,
			  .paths = job->whole ? &all : &job->paths,
			  .store_dir = o->core->store_dir,
			  .spool_dir = spool_dir(o->core->spool) };
	int pair[2], r = job->whole ? db_all_paths(o->core->db, &a, &all) : 0;

	if (r)
		return r < 0 ? r : -EIO;
	job->n_paths = w.paths->n;
	if (pipe2(pair, O_CLOEXEC) < 0)
		return -errno;
	o->pipe = pair[0];
	w.out = pair[1];
	r = fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
	if (r == 0)
		r = loop_add(o->core->loop, o->pipe, EPOLLIN, on_report, o, &o->watch);
	if (r == 0)
		r = child_run(o->core->loop, work, &w, &w.out, on_ended, o, &o->child);
	close(pair[1]);
	if (r < 0)
		child_gone(o);
	return r;
}

static void next(struct optimiser *o)
{
	while (o->head && !o->child) {
		int r = start(o, o->head);

		if (r == 0)
			return;
		(void)err_errno(&o->head->error, r, "optimising the store");
		job_end(o);
	}
}

static struct optimise_job *job_new(struct core *core, const struct optimise_events *ev, void *ctx)
{
	struct optimise_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->all = core->optimiser;
	job->ev = ev;
	job->ctx = ctx;
	return job;
}

/* Builds wait for theirs, so it goes before whole runs that have not begun. */
static void job_queue(struct optimise_job *job)
{
	struct optimise_job **at = &job->all->head;

	if (*at && job->all->child)
		at = &(*at)->next;
	while (*at && (job->whole || !(*at)->whole))
		at = &(*at)->next;
	job->next = *at;
	*at = job;
	next(job->all);
}

int optimise_store(struct core *core, const struct optimise_events *ev, void *ctx,
		   struct optimise_job **ret, struct err *e)
{
	struct optimise_job *job = job_new(core, ev, ctx);

	if (!job)
		return err_set(e, -ENOMEM, "out of memory");
	job->whole = true;
	*ret = job;
	job_queue(job);
	return 0;
}

int optimise_soon(struct core *core, const struct strv *paths, bool repaired,
		  const struct optimise_events *ev, void *ctx, struct optimise_job **ret)
{
	struct optimise_job *job = job_new(core, ev, ctx);

	for (size_t i = 0; job && i < paths->n; i++)
		if (strv_add(&job->paths, paths->v[i]) < 0) {
			job_free(job);
			job = NULL;
		}
	if (!job)
		return -ENOMEM;
	job->repaired = repaired;
	*ret = job;
	job_queue(job);
	return 0;
}

static void on_later(void *ctx)
{
	struct optimiser *o = ctx;
	struct optimise_job *job = o->later;

	o->timer = NULL;
	o->later = NULL;
	job_queue(job);
}

void optimise_later(struct core *core, const char *base, bool repaired)
{
	struct optimiser *o = core->optimiser;

	if (!o->later)
		o->later = job_new(core, NULL, NULL);
	/* What is lost here the next whole run finds. */
	if (!o->later || o->later->paths.n >= LATER_MAX || strv_add(&o->later->paths, base) < 0)
		return;
	o->later->repaired = o->later->repaired || repaired;
	if (!o->timer && loop_timer(core->loop, LATER_USEC, on_later, o, &o->timer) < 0)
		o->timer = NULL;
}

/* One that has not begun. */
static void take_out(struct optimiser *o, struct optimise_job *job)
{
	struct optimise_job **at = &o->head;

	while (*at != job)
		at = &(*at)->next;
	*at = job->next;
	job_free(job);
}

void optimise_forget(struct optimise_job *job)
{
	struct optimiser *o;

	if (!job)
		return;
	o = job->all;
	job->ev = NULL;
	if (job == o->head && o->child && job->whole) {
		child_stop(o->child);
		child_gone(o);
		job_end(o);
		next(o);
	} else if (job->whole && !(job == o->head && o->child)) {
		take_out(o, job);
	}
}

struct optimiser *optimiser_new(struct core *core)
{
	struct optimiser *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->core = core;
	o->pipe = -1;
	return o;
}

void optimiser_free(struct optimiser *o)
{
	if (!o)
		return;
	loop_timer_cancel(o->timer);
	child_stop(o->child);
	loop_remove(o->watch);
	close_fdp(&o->pipe);
	while (o->head) {
		struct optimise_job *job = o->head;

		o->head = job->next;
		job_free(job);
	}
	if (o->later)
		job_free(o->later);
	free(o);
}
