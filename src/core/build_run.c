/* See build_run.h. A supervisor that says something it must not say is killed; its scratch is then
 * left where it is, named in the log, because its files may belong to ids that only a supervisor
 * could delete. */
#include "core/build_run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/build_inputs.h"
#include "core/build_log.h"
#include "core/build_stage.h"
#include "core/core.h"
#include "core/lease.h"
#include "core/loop.h"
#include "core/place.h"
#include "core/spawn.h"
#include "core/spool.h"

enum {
	RUN_MEMORY = 512 << 20,	   /* inputs, environment and result of one build, bytes */
	REPLY_MAX = 64 << 20,	   /* bytes of one message of a supervisor */
	RETRY_IDS_USEC = 1000000,
	CANCEL_GRACE_USEC = 5000000,
	RELEASE_GRACE_SEC = 600,   /* deleting a large scratch takes its time */
};

struct runs {
	struct core *core;
	struct lease *lease;
	struct err lease_error;
	struct build_run *first;
};

struct build_run {
	struct runs *runs;
	struct build_run *next, **link;
	const struct build_run_events *ev; /* NULL once `ended` was told or it was cancelled */
	void *ctx;
	struct build_job job; /* good while `ev` is set */
	char drv_base[STORE_BASE_MAX + 1];
	struct arena arena;
	struct build_inputs inputs;
	struct build_outcome outcome;
	struct err error;
	struct build_log_files log;
	char *scratch;
	int scratch_fd, chan, pidfd;
	pid_t pid;
	struct loop_fd *chan_watch, *pid_watch;
	struct loop_timer *kill_timer, *retry_timer;
	bool wants_ids, noted_wait, has_foreign_ids;
	bool end_seen, exited, clean, placing;
};

static void run_step_ids(struct build_run *run);

struct runs *runs_new(struct core *core)
{
	struct runs *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->core = core;
	if (lease_setup(core, &r->lease, &r->lease_error) != 0) {
		r->lease = NULL;
		log_error("builds are refused: %s", err_msg(&r->lease_error));
	}
	return r;
}

static void run_free(struct build_run *run)
{
	*run->link = run->next;
	if (run->next)
		run->next->link = run->link;
	loop_remove(run->chan_watch);
	loop_remove(run->pid_watch);
	loop_timer_cancel(run->kill_timer);
	loop_timer_cancel(run->retry_timer);
	close_fdp(&run->chan);
	close_fdp(&run->pidfd);
	close_fdp(&run->scratch_fd);
	build_log_close(&run->log);
	free(run->scratch);
	err_done(&run->error);
	arena_done(&run->arena);
	free(run);
}

void runs_free(struct runs *r)
{
	if (!r)
		return;
	while (r->first)
		run_free(r->first);
	lease_free(r->lease);
	err_done(&r->lease_error);
	free(r);
}

/* Tells the goal, once. */
static void tell_end(struct build_run *run, uint64_t status, const char *error)
{
	const struct build_run_events *ev = run->ev;

	if (!ev)
		return;
	run->ev = NULL;
	run->outcome.status = status;
	run->outcome.error = error ? error : "";
	ev->ended(run->ctx, &run->outcome);
}

/* When the process is gone nothing else can come. */
static void run_settle(struct build_run *run)
{
	struct runs *runs = run->runs;

	if (!run->exited || run->placing)
		return;
	if (run->ev) {
		(void)err_set(&run->error, -EIO,
			      "the supervisor of the build of '%s/%s' ended without an answer",
			      runs->core->store_dir, run->drv_base);
		tell_end(run, MISC_FAILURE, err_msg(&run->error));
	}
	if (run->clean || !run->has_foreign_ids)
		spool_drop(runs->core->spool, run->scratch);
	else
		log_error("the build of '%s' left files in '%s' that only its ids may delete; they "
			  "stay there",
			  run->drv_base, run->scratch);
	run_free(run);
	/* Its ids are free again. */
	for (struct build_run *i = runs->first, *next; i; i = next) {
		next = i->next;
		if (i->wants_ids)
			run_step_ids(i);
	}
}

static void kill_now(struct build_run *run)
{
	if (!run->exited && run->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, run->pidfd, SIGKILL, NULL, 0); /* gone is fine */
}

static void on_kill_timer(void *ctx)
{
	struct build_run *run = ctx;

	run->kill_timer = NULL;
	log_warn("the supervisor of '%s' does not end; killing it", run->drv_base);
	kill_now(run);
}

static void arm_kill(struct build_run *run, uint64_t usec)
{
	loop_timer_cancel(run->kill_timer);
	run->kill_timer = NULL;
	if (loop_timer(run->runs->core->loop, usec, on_kill_timer, run, &run->kill_timer) < 0) {
		run->kill_timer = NULL;
		kill_now(run); /* without a timer there is no waiting */
	}
}

/* Something is wrong between us and the supervisor: the build is over. */
static void run_abort(struct build_run *run, const char *why)
{
	log_error("the build of '%s': %s", run->drv_base, why);
	loop_remove(run->chan_watch);
	run->chan_watch = NULL;
	kill_now(run);
	if (run->ev) {
		(void)err_set(&run->error, -EPROTO, "the build of '%s/%s' was given up: %s",
			      run->runs->core->store_dir, run->drv_base, why);
		tell_end(run, MISC_FAILURE, err_msg(&run->error));
	}
}

static void send_release(struct build_run *run)
{
	if (chan_send(run->chan, BUILD_RELEASE, 0, NULL, 0, NULL, 0) < 0)
		kill_now(run); /* it hung up: nothing more comes from it */
	else
		arm_kill(run, (uint64_t)RELEASE_GRACE_SEC * 1000000);
}

static void on_retry_timer(void *ctx)
{
	struct build_run *run = ctx;

	run->retry_timer = NULL;
	if (run->wants_ids)
		run_step_ids(run);
}

static void wait_for_ids(struct build_run *run)
{
	_cleanup_free_ char *text = NULL;

	if (!run->noted_wait && run->ev &&
	    asprintf(&text, "waiting for a free build user ID for '%s/%s'",
		     run->runs->core->store_dir, run->drv_base) >= 0) {
		run->noted_wait = true;
		run->ev->note(run->ctx, 1, text);
	}
	if (!run->retry_timer &&
	    loop_timer(run->runs->core->loop, RETRY_IDS_USEC, on_retry_timer, run,
		       &run->retry_timer) < 0)
		run->retry_timer = NULL; /* the end of another build wakes us too */
}

static void run_step_ids(struct build_run *run)
{
	_cleanup_err_ struct err e = {};
	_cleanup_close_ int fd = -1;
	struct build_ids ids = {};
	int r = lease_map(run->runs->lease, run->pidfd, run->pid, &ids, &fd, &e);

	if (r == LEASE_BUSY) {
		wait_for_ids(run);
		return;
	}
	run->wants_ids = false;
	if (r) {
		run_abort(run, err_msg(&e));
		return;
	}
	run->has_foreign_ids = ids.mode != IDS_SINGLE;
	r = chan_send_record(run->chan, BUILD_IDS, 0, &build_ids_layout, &ids, &fd, fd >= 0);
	if (r < 0)
		run_abort(run, "its supervisor does not listen");
}

static void on_placed(void *ctx, const struct err *e)
{
	struct build_run *run = ctx;

	run->placing = false;
	if (!e)
		tell_end(run, BUILT, "");
	else
		tell_end(run, MISC_FAILURE, err_msg(e));
	if (!run->exited)
		send_release(run);
	run_settle(run);
}

/* The build failed, but what it made is kept under another name; whether that works or not, the
 * build's own error is what counts. */
static void on_mismatch_placed(void *ctx, const struct err *e)
{
	struct build_run *run = ctx;

	run->placing = false;
	if (e)
		log_warn("keeping the output of '%s': %s", run->drv_base, err_msg(e));
	tell_end(run, run->outcome.status, run->outcome.error);
	if (!run->exited)
		send_release(run);
	run_settle(run);
}

static int open_out(const struct build_run *run, struct err *e)
{
	int fd = open_beneath(run->scratch_fd, "out", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);

	return fd < 0 ? err_errno(e, fd, "opening '%s/out'", run->scratch) : fd;
}

static void stage_failed(struct build_run *run, int r)
{
	uint64_t status = r > 0 ? OUTPUT_REJECTED : MISC_FAILURE;

	if (r > 0 && run->job.check)
		status = NOT_DETERMINISTIC;
	tell_end(run, status, err_msg(&run->error));
	send_release(run);
}

static void end_well(struct build_run *run, struct build_stage_input *in)
{
	struct staged *v = NULL;
	size_t n = 0;
	int r;

	if (run->job.check) {
		r = build_compare(in, &run->error);
		if (r) {
			stage_failed(run, r);
			return;
		}
		tell_end(run, BUILT, "");
		send_release(run);
		return;
	}
	r = build_stage(in, &run->arena, &v, &n, &run->error);
	if (r) {
		stage_failed(run, r);
		return;
	}
	run->placing = true;
	place_objects(run->runs->core->place, v, n, on_placed, run);
}

static void end_badly(struct build_run *run, struct build_stage_input *in)
{
	struct staged s;
	_cleanup_err_ struct err e = {};

	if (in->end->real_path[0] && in->out_dirfd >= 0 && !run->job.check &&
	    build_stage_mismatch(in, &run->arena, &s, &e) == 0) {
		run->placing = true;
		place_objects(run->runs->core->place, &s, 1, on_mismatch_placed, run);
		return;
	}
	tell_end(run, run->outcome.status, run->outcome.error);
	send_release(run);
}

static void on_end(struct build_run *run, const struct msg *m)
{
	struct core *core = run->runs->core;
	_cleanup_err_ struct err log_err = {};
	_cleanup_close_ int out = -1;
	struct build_end end;
	struct build_stage_input in = { .db = core->db, .store_dir = core->store_dir,
					.drv_base = run->drv_base, .drv = run->job.drv,
					.opts = run->job.opts, .inputs = &run->inputs.closure,
					.end = &end };

	if (run->end_seen || msg_decode(m, &build_end_layout, &run->arena, &end)) {
		run_abort(run, "its supervisor sent a wrong answer");
		return;
	}
	run->end_seen = true;
	if (build_log_publish(&run->log, core->log_dir, run->drv_base, &log_err) < 0)
		log_warn("%s", err_msg(&log_err));
	if (!run->ev)
		return; /* cancelled: it is cleaning up already */
	run->outcome = (struct build_outcome){ .status = end.status, .error = end.error,
					       .cpu_known = true, .cpu_user_usec = end.cpu_user_usec,
					       .cpu_system_usec = end.cpu_system_usec,
					       .peak_rss_bytes = end.peak_rss_bytes,
					       .log_size = end.log_size };
	out = open_out(run, &run->error);
	in.out_dirfd = out;
	if (end.status != BUILT) {
		if (end.status == SUBSTITUTED || end.status == ALREADY_VALID ||
		    end.status > NO_SUBSTITUTERS)
			run->outcome.status = MISC_FAILURE;
		end_badly(run, &in);
	} else if (out < 0) {
		stage_failed(run, out);
	} else {
		end_well(run, &in);
	}
}

static void on_bye(struct build_run *run, const struct msg *m)
{
	struct build_bye bye;

	if (msg_decode(m, &build_bye_layout, &run->arena, &bye)) {
		run_abort(run, "its supervisor sent a wrong answer");
		return;
	}
	run->clean = bye.clean == 1;
	if (!run->clean)
		log_error("cleaning up after the build of '%s': %s", run->drv_base, bye.error);
}

static void on_log(struct build_run *run, const struct msg *m)
{
	struct build_log l;

	if (msg_decode(m, &build_log_layout, &run->arena, &l)) {
		run_abort(run, "its supervisor sent a wrong answer");
		return;
	}
	run->outcome.log_size = l.size;
	if (run->ev)
		run->ev->log(run->ctx, l.size);
}

static void handle(struct build_run *run, const struct msg *m)
{
	switch (m->type) {
	case BUILD_NEED_IDS:
		if (!run->ev)
			return; /* cancelled: it ends without ids */
		if (run->wants_ids || run->has_foreign_ids) {
			run_abort(run, "its supervisor asked twice for ids");
			return;
		}
		run->wants_ids = true;
		run_step_ids(run);
		return;
	case BUILD_RUNNING:
		if (run->ev)
			run->ev->started(run->ctx);
		return;
	case BUILD_LOG:
		on_log(run, m);
		return;
	case BUILD_END:
		on_end(run, m);
		return;
	case BUILD_BYE:
		on_bye(run, m);
		return;
	default:
		run_abort(run, "its supervisor sent an unknown message");
	}
}

static void on_channel(void *ctx, uint32_t events)
{
	struct build_run *run = ctx;

	(void)events; /* data and hang-up are both learnt by reading */
	while (run->chan_watch) {
		_cleanup_msg_ struct msg m = MSG_INIT;
		int r = chan_recv(run->chan, REPLY_MAX, &m);

		if (r == -EAGAIN)
			return;
		if (r == CHAN_EOF) {
			/* The rest is told by the end of the process. */
			loop_remove(run->chan_watch);
			run->chan_watch = NULL;
		} else if (r) {
			run_abort(run, "its supervisor sent something that is no message");
		} else {
			handle(run, &m);
		}
	}
}

static void on_exit_event(void *ctx, uint32_t events)
{
	struct build_run *run = ctx;
	siginfo_t si = {};

	(void)events;
	if (waitid(P_PIDFD, (id_t)run->pidfd, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
		return;
	/* What it said last comes first. */
	if (run->chan_watch)
		on_channel(run, 0);
	if (si.si_code != CLD_EXITED)
		log_error("the supervisor of the build of '%s' was ended by signal %d", run->drv_base,
			  si.si_status);
	run->exited = true;
	run->wants_ids = false;
	loop_remove(run->pid_watch);
	run->pid_watch = NULL;
	run_settle(run);
}

static int spawn_supervisor(struct build_run *run, struct err *e)
{
	struct core *core = run->runs->core;
	_cleanup_free_ char *path = NULL;
	char *argv[] = { (char *)"airplant-build", NULL }, *envp[] = { NULL };
	int pair[2], r;

	if (asprintf(&path, "%s/airplant-build", core->libexec_dir) < 0) {
		path = NULL;
		return err_errno(e, -ENOMEM, "starting a build");
	}
	r = chan_pair(pair);
	if (r < 0)
		return err_errno(e, r, "starting a build");
	run->chan = pair[0];
	r = spawn_child(&(struct spawn){ .path = path, .argv = argv, .envp = envp, .fds = &pair[1],
					 .targets = (int[]){ BUILD_FD }, .n_fds = 1 },
			&run->pidfd, &run->pid);
	close(pair[1]);
	if (r < 0)
		return err_errno(e, r, "executing '%s'", path);
	if (fcntl(run->chan, F_SETFL, fcntl(run->chan, F_GETFL) | O_NONBLOCK) < 0)
		return err_errno(e, -errno, "starting a build");
	return 0;
}

static int watch(struct build_run *run, struct err *e)
{
	struct loop *loop = run->runs->core->loop;
	int r = loop_add(loop, run->chan, EPOLLIN, on_channel, run, &run->chan_watch);

	if (r == 0)
		r = loop_add(loop, run->pidfd, EPOLLIN, on_exit_event, run, &run->pid_watch);
	return r < 0 ? err_errno(e, r, "watching a build") : 0;
}

/* Everything the supervisor is told, read from the database and the settings. */
static int prepare(struct build_run *run, struct build_start *ret, struct err *e)
{
	struct core *core = run->runs->core;
	const struct build_job *job = &run->job;
	struct build_env_input in = { .store_dir = core->store_dir, .drv_base = run->drv_base,
				      .drv = job->drv, .opts = job->opts, .settings = job->settings,
				      .n_processors = (uint64_t)get_nprocs(), .check = job->check,
				      .get_env = (const char *(*)(const char *))getenv };
	int r;

	place_flush(core->place); /* inputs may have been built a moment ago */
	r = build_inputs_load(core->db, core->store_dir, run->drv_base, job->drv, job->opts,
			      job->settings, &run->arena, &run->inputs, e);
	if (r)
		return r;
	r = spool_make(core->spool, 'b', &run->scratch, &run->scratch_fd);
	if (r < 0)
		return err_errno(e, r, "creating a directory for the build of '%s'", run->drv_base);
	in.scratch = run->scratch;
	in.graphs = run->inputs.graphs;
	in.inputs = &run->inputs.closure;
	in.sandbox_closure = &run->inputs.sandbox_closure;
	r = build_env_make(&in, &run->arena, ret, e);
	if (r)
		return r;
	return build_log_open(core->log_dir, spool_dir(core->spool), run->drv_base,
			      job->settings->keep_build_log, job->settings->compress_build_log,
			      &run->log, e);
}

static int send_start(struct build_run *run, const struct build_start *start, struct err *e)
{
	int fds[2] = { run->log.plain_fd, run->log.compressed_fd };
	int r = chan_send_record(run->chan, BUILD_START, 0, &build_start_layout, start, fds,
				 fds[1] >= 0 ? 2 : 1);

	return r < 0 ? err_errno(e, r, "handing the build of '%s' to its supervisor", run->drv_base) :
		       0;
}

int build_run_start(struct runs *runs, const struct build_job *job, const struct build_run_events *ev,
		    void *ctx, struct build_run **ret, struct err *e)
{
	struct build_start start;
	struct build_run *run;
	int r;

	if (!runs->lease)
		return err_set(e, -EOPNOTSUPP, "%s", err_msg(&runs->lease_error));
	run = calloc(1, sizeof(*run));
	if (!run)
		return err_errno(e, -ENOMEM, "starting a build");
	run->runs = runs;
	run->ev = ev;
	run->ctx = ctx;
	run->job = *job;
	run->arena = ARENA_INIT(RUN_MEMORY);
	run->log = BUILD_LOG_FILES_INIT;
	run->scratch_fd = run->chan = run->pidfd = -1;
	snprintf(run->drv_base, sizeof(run->drv_base), "%s", job->drv_base);
	run->link = &runs->first;
	run->next = runs->first;
	if (run->next)
		run->next->link = &run->next;
	runs->first = run;
	r = prepare(run, &start, e);
	if (r == 0)
		r = spawn_supervisor(run, e);
	if (r == 0)
		r = watch(run, e);
	if (r == 0)
		r = send_start(run, &start, e);
	if (r == 0) {
		*ret = run;
		return 0;
	}
	if (run->pidfd >= 0) { /* let it be seen out by the loop, or by us */
		kill_now(run);
		(void)waitid(P_PIDFD, (id_t)run->pidfd, &(siginfo_t){}, WEXITED);
	}
	if (run->scratch)
		spool_drop(runs->core->spool, run->scratch); /* no ids were given yet */
	run_free(run);
	return r > 0 ? err_set(e, INPUT_REJECTED, "%s", err_msg(e)) : r;
}

void build_run_cancel(struct build_run *run)
{
	run->ev = NULL;
	run->wants_ids = false;
	if (run->end_seen)
		return; /* its outputs are being placed; it is released after that */
	if (chan_send(run->chan, BUILD_CANCEL, 0, NULL, 0, NULL, 0) < 0)
		kill_now(run);
	else
		arm_kill(run, CANCEL_GRACE_USEC);
}

int build_run_log_fd(const struct build_run *run)
{
	return build_log_reader(&run->log);
}
