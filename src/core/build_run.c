/* See build_run.h. A supervisor that says something it must not say is killed; its scratch is then
 * the business of clean.c, because its files may belong to ids that the daemon has not got. */
#include "core/build_run_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
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
#include "core/build_stage.h"
#include "core/clean.h"
#include "core/core.h"
#include "core/system_features.h"
#include "core/hook.h"
#include "core/goals.h"
#include "core/lease.h"
#include "core/loop.h"
#include "core/optimise.h"
#include "core/place.h"
#include "core/sigcheck.h"
#include "core/spool.h"

enum {
	REPLY_MAX = 64 << 20, /* bytes of one message of a supervisor */
	LINGER_USEC = 20 * 1000,
	RETRY_IDS_USEC = 1000000,
	RETRY_SETTLE_USEC = 20000,
	SETTLE_TRIES = 500,
	CANCEL_GRACE_USEC = 5000000, /* before there was anything to delete */
	RELEASE_GRACE_SEC = 600,     /* deleting a large scratch takes its time */
	MESSAGES_PER_ROUND = 64,
	MESSAGES_AT_END = 4096, /* more than fit into a socket */
};

static void run_step_ids(struct build_run *run);

/* A slot is free again. */
static void on_slot_returned(void *ctx)
{
	struct runs *r = ctx;

	for (struct build_run *i = r->first, *next; i; i = next) {
		next = i->next;
		if (i->wants_ids && !i->ids_call)
			run_step_ids(i);
	}
}

struct runs *runs_new(struct core *core)
{
	struct runs *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->core = core;
	r->n_processors = (uint64_t)get_nprocs();
	r->spare = (struct supervisor){ .chan = -1, .pidfd = -1 };
	if (lease_setup(core, &r->lease, &r->lease_error) != 0) {
		r->lease = NULL;
		log_error("builds are refused: %s", err_msg(&r->lease_error));
	} else if (lease_mode(r->lease) == IDS_SINGLE && core->settings.sandbox != SANDBOX_TRUE) {
		log_warn("the setting 'sandbox' is not true and ids are single: builds without a "
			 "sandbox run as the daemon's own user and can change its store");
	}
	if (r->lease) {
		r->clean = clean_new(core, r->lease, on_slot_returned, r);
		if (!r->clean) {
			runs_free(r);
			return NULL;
		}
	}
	features_settle(core, r->lease);
	return r;
}

void runs_settings_changed(struct runs *r)
{
	features_settle(r->core, r->lease);
}

static void lingered(const struct build_run *run)
{
	if (run->runs->core->goals)
		goals_resume(run->runs->core->goals);
}

static void on_lingered(void *ctx)
{
	struct build_run *run = ctx;

	run->linger_timer = NULL;
	lingered(run);
}

static void linger(struct build_run *run)
{
	if (run->pidfd < 0 || run->exited || run->linger_timer)
		return;
	if (loop_timer(run->runs->core->loop, LINGER_USEC, on_lingered, run, &run->linger_timer) <
	    0)
		run->linger_timer = NULL;
}

bool runs_linger(const struct runs *r)
{
	for (const struct build_run *run = r->first; run; run = run->next)
		if (run->linger_timer)
			return true;
	return false;
}

void run_free(struct build_run *run)
{
	if (run->linger_timer)
		lingered(run);
	loop_timer_cancel(run->linger_timer);
	*run->link = run->next;
	if (run->next)
		run->next->link = run->link;
	loop_remove(run->chan_watch);
	loop_remove(run->pid_watch);
	loop_remove(run->builder_watch);
	loop_remove(run->hangup_watch);
	optimise_forget(run->optimising);
	loop_timer_cancel(run->kill_timer);
	loop_timer_cancel(run->retry_timer);
	loop_timer_cancel(run->settle_timer);
	if (run->hook)
		hook_cancel(run->hook);
	close_fdp(&run->chan);
	close_fdp(&run->pidfd);
	close_fdp(&run->builder);
	close_fdp(&run->lease_fd);
	close_fdp(&run->scratch_fd);
	close_fdp(&run->cgroup.fd);
	build_log_close(&run->log);
	free(run->scratch);
	free(run->keep_dir);
	free(run->diff_hook);
	keyring_free(run->keys);
	err_done(&run->error);
	arena_done(&run->arena);
	free(run);
}

void runs_free(struct runs *r)
{
	if (!r)
		return;
	while (r->first) {
		if (r->first->builder >= 0) /* its supervisor may be gone already */
			(void)syscall(SYS_pidfd_send_signal, r->first->builder, SIGKILL, NULL, 0);
		loop_timer_cancel(r->first->linger_timer);
		r->first->linger_timer = NULL;
		run_free(r->first);
	}
	spare_drop(r);
	clean_free(r->clean);
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
	run->outcome.ran = run->ran;
	run->outcome.host_uid = run->host_uid;
	run->outcome.status = status;
	run->outcome.error = error ? error : "";
	linger(run);
	ev->ended(run->ctx, &run->outcome);
}

static void on_builder_gone(void *ctx, uint32_t events)
{
	struct build_run *run = ctx;

	(void)events;
	loop_remove(run->builder_watch);
	run->builder_watch = NULL;
	run_settle(run);
}

/* The supervisor is gone. Its builder may still be there (it can do without its death signal);
 * readable means that the last process of its pid namespace is dead. */
static bool end_builder(struct build_run *run)
{
	struct pollfd p = { .fd = run->builder, .events = POLLIN };

	if (run->builder < 0)
		return true;
	(void)syscall(SYS_pidfd_send_signal, run->builder, SIGKILL, NULL, 0); /* gone is fine */
	if (poll(&p, 1, 0) > 0)
		return true;
	if (!run->builder_watch && loop_add(run->runs->core->loop, run->builder, EPOLLIN,
					    on_builder_gone, run, &run->builder_watch) < 0) {
		run->builder_watch = NULL;
		log_error("the builder of '%s' cannot be watched: its ids stay taken",
			  run->drv_base);
	}
	return false;
}

static void on_settle_timer(void *ctx)
{
	struct build_run *run = ctx;

	run->settle_timer = NULL;
	run_settle(run);
}

/* Its cgroup is empty and gone before its ids are free. The kernel takes a moment to bury the last
 * process. False: again later. */
static bool end_cgroup(struct build_run *run)
{
	struct core *core = run->runs->core;
	int r;

	if (run->settle_timer)
		return false;
	cgroup_kill(&run->cgroup);
	r = cgroup_remove(core->cgroups, &run->cgroup);
	if (r == 0)
		return true;
	if (r == -EBUSY && run->settle_tries++ < SETTLE_TRIES &&
	    loop_timer(core->loop, RETRY_SETTLE_USEC, on_settle_timer, run, &run->settle_timer) ==
		    0)
		return false;
	run->settle_timer = NULL;
	log_error("removing the cgroup '%s' of the build of '%s': %s", run->cgroup.name,
		  run->drv_base, strerror(-r));
	run->cgroup_left = true;
	return true;
}

static void on_hangup(void *ctx, uint32_t events)
{
	struct build_run *run = ctx;

	(void)events;
	loop_remove(run->hangup_watch);
	run->hangup_watch = NULL;
	run_settle(run);
}

/* A child that the supervisor had not told us of when it died ends by itself. While it may make
 * files it holds the channel, afterwards the lease, so that two things wait for it. */
static bool child_is_past_files(struct build_run *run)
{
	struct pollfd p = { .fd = run->chan };

	if (poll(&p, 1, 0) > 0 && (p.revents & POLLHUP))
		return true;
	loop_remove(run->chan_watch); /* whatever it says is too late */
	run->chan_watch = NULL;
	if (!run->hangup_watch &&
	    loop_add(run->runs->core->loop, run->chan, 0, on_hangup, run, &run->hangup_watch) < 0) {
		run->hangup_watch = NULL;
		log_error("a child of the supervisor of '%s' cannot be watched: its ids stay taken",
			  run->drv_base);
	}
	return false;
}

/* Its processes are gone: now its files, and then its slot is free (clean.c). */
static void run_clean_up(struct build_run *run)
{
	struct runs *runs = run->runs;
	_cleanup_free_ char *scratch = TAKE_PTR(run->scratch);
	int lease_fd = TAKE_FD(run->lease_fd);
	bool clean = run->clean, foreign = run->has_foreign_ids, alive = run->cgroup_left;
	/* Else its spool is gone; in the new one the name may be another build's. */
	bool same_spool = run->generation == runs->core->generation;

	run_free(run);
	if (!same_spool)
		free(TAKE_PTR(scratch));
	if (alive) {
		clean_slot_alive(runs->clean, lease_fd, scratch);
	} else if (!foreign) {
		if (scratch)
			spool_drop(runs->core->spool, scratch);
		clean_slot_done(runs->clean, lease_fd);
	} else if (clean && (!scratch || spool_remove_empty(runs->core->spool, scratch))) {
		/* It said so, and the kernel does. */
		clean_slot_done(runs->clean, lease_fd);
	} else {
		clean_slot(runs->clean, lease_fd, scratch);
	}
}

/* When the process is gone nothing else can come. */
void run_settle(struct build_run *run)
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
	if (!end_builder(run) || !end_cgroup(run) || !child_is_past_files(run))
		return; /* again when it is gone */
	run_clean_up(run);
}

void run_kill(struct build_run *run)
{
	if (!run->exited && run->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, run->pidfd, SIGKILL, NULL,
			      0); /* gone is fine */
}

static void on_kill_timer(void *ctx)
{
	struct build_run *run = ctx;

	run->kill_timer = NULL;
	log_warn("the supervisor of '%s' does not end; killing it", run->drv_base);
	run_kill(run);
}

static void arm_kill(struct build_run *run, uint64_t usec)
{
	loop_timer_cancel(run->kill_timer);
	run->kill_timer = NULL;
	if (loop_timer(run->runs->core->loop, usec, on_kill_timer, run, &run->kill_timer) < 0) {
		run->kill_timer = NULL;
		run_kill(run); /* without a timer there is no waiting */
	}
}

/* Something is wrong between us and the supervisor: the build is over. */
static void run_abort(struct build_run *run, const char *why)
{
	log_error("the build of '%s': %s", run->drv_base, why);
	loop_remove(run->chan_watch);
	run->chan_watch = NULL;
	run->wants_ids = false;
	run_kill(run);
	if (run->ev) {
		(void)err_set(&run->error, -EPROTO, "the build of '%s/%s' was given up: %s",
			      run->runs->core->store_dir, run->drv_base, why);
		tell_end(run, MISC_FAILURE, err_msg(&run->error));
	}
}

static void send_release(struct build_run *run)
{
	if (chan_send(run->chan, BUILD_RELEASE, 0, NULL, 0, NULL, 0) < 0)
		run_kill(run); /* it hung up: nothing more comes from it */
	else
		arm_kill(run, (uint64_t)RELEASE_GRACE_SEC * 1000000);
}

static void on_retry_timer(void *ctx)
{
	struct build_run *run = ctx;

	run->retry_timer = NULL;
	if (run->wants_ids && !run->ids_call)
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
	if (!run->retry_timer && loop_timer(run->runs->core->loop, RETRY_IDS_USEC, on_retry_timer,
					    run, &run->retry_timer) < 0)
		run->retry_timer = NULL; /* the end of another build wakes us too */
}

static void on_late(void *ctx, const char *whom)
{
	struct build_run *run = ctx;
	_cleanup_free_ char *text = NULL;

	if (run->noted_late || !run->ev ||
	    asprintf(&text, "waiting for %s, which does not answer, before building '%s/%s'", whom,
		     run->runs->core->store_dir, run->drv_base) < 0) {
		text = NULL;
		return;
	}
	run->noted_late = true;
	run->ev->note(run->ctx, 1, text);
}

static void exited(struct build_run *run);

/* Whoever does not want them any more has them all the same: the cleaner returns them. */
static void on_ids(void *ctx, int r, const struct build_ids *ids, int fd, const struct err *e)
{
	struct build_run *run = ctx;

	if (r == LEASE_BUSY && run->wants_ids && !run->exit_seen) {
		wait_for_ids(run);
		return;
	}
	if (r == 0) {
		run->ids_given = true;
		run->has_foreign_ids = ids->mode != IDS_SINGLE;
		run->lease_fd = fd;
	}
	if (run->wants_ids && !run->exit_seen) {
		run->wants_ids = false;
		if (r)
			run_abort(run, err_msg(e));
		else if (chan_send_record(run->chan, BUILD_IDS, 0, &build_ids_layout, ids, &fd,
					  fd >= 0) < 0)
			run_abort(run, "its supervisor does not listen");
		else
			spare_refill(run->runs); /* while the builder's root is being made */
	}
	if (run->exit_seen)
		exited(run);
}

static void run_step_ids(struct build_run *run)
{
	static const struct lease_events events = { on_ids, on_late };

	lease_map(run->runs->lease, run->kind, run->pidfd, run->pid, &events, run, &run->ids_call);
}

static void placed(struct build_run *run, const struct err *e)
{
	run->placing = false;
	if (!e)
		tell_end(run, BUILT, "");
	else
		tell_end(run, MISC_FAILURE, err_msg(e));
	if (!run->exited)
		send_release(run);
	run_settle(run);
}

/* Whether it worked or not: the outputs are there. */
static void on_optimised(void *ctx, uint64_t files, uint64_t bytes, const struct err *e)
{
	struct build_run *run = ctx;

	(void)files;
	(void)bytes;
	run->optimising = NULL;
	if (e)
		log_warn("%s", err_msg(e));
	placed(run, NULL);
}

static const struct optimise_events on_optimise = { .done = on_optimised };

static void on_placed(void *ctx, const struct err *e)
{
	struct build_run *run = ctx;
	struct strv paths = { .n = run->outcome.n_outputs };

	paths.v = arena_array(&run->arena, paths.n ? paths.n : 1, sizeof(*paths.v));
	for (size_t i = 0; paths.v && i < paths.n; i++)
		paths.v[i] = run->outcome.outputs[i].path;
	if (e || !run->optimise || !paths.v ||
	    optimise_soon(run->runs->core, &paths, &on_optimise, run, &run->optimising) < 0)
		placed(run, e);
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

/* r: 0, or what stands in run->error. */
void run_judged(struct build_run *run, int r)
{
	uint64_t status = r > 0 ? OUTPUT_REJECTED : MISC_FAILURE;

	if (r == STAGE_DIFFERS)
		status = NOT_DETERMINISTIC;
	tell_end(run, r ? status : BUILT, r ? err_msg(&run->error) : "");
	if (!run->exited)
		send_release(run);
}

static int note_outputs(struct build_run *run, const struct staged *v, size_t n)
{
	struct build_outcome *o = &run->outcome;

	o->outputs = arena_array(&run->arena, n, sizeof(*o->outputs));
	if (n && !o->outputs)
		return -ENOMEM;
	for (; o->n_outputs < n; o->n_outputs++) {
		struct drv_row *row = &o->outputs[o->n_outputs];

		row->output = run->job.drv->outputs.v[o->n_outputs].name;
		row->path = arena_strdup(&run->arena, v[o->n_outputs].info.path.base);
		if (!row->path)
			return -ENOMEM;
	}
	return 0;
}

static void end_well(struct build_run *run, struct build_stage_input *in)
{
	struct staged *v = NULL;
	size_t n = 0;
	int r;

	if (run->job.check) {
		run_check(run, in);
		return;
	}
	r = build_stage(in, &run->arena, &v, &n, &run->error);
	if (r) {
		run_judged(run, r);
		return;
	}
	r = note_outputs(run, v, n);
	for (size_t i = 0; r == 0 && run->keys && i < n; i++)
		r = keyring_sign(run->keys, run->runs->core->store_dir, &run->arena, &v[i].info);
	if (r < 0) {
		err_errno(&run->error, r, "registering the outputs of '%s'", run->drv_base);
		run_judged(run, r);
		return;
	}
	run->placing = true;
	place_objects(run->runs->core->place, v, n, on_placed, run);
}

static void end_badly(struct build_run *run, struct build_stage_input *in)
{
	struct staged s;
	_cleanup_err_ struct err e = {};

	free(run_keep_failed(run));
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
	struct build_stage_input in = { .db = core->db,
					.store_dir = core->store_dir,
					.drv_base = run->drv_base,
					.drv = run->job.drv,
					.opts = run->job.opts,
					.inputs = &run->inputs.closure,
					.replace = run->job.replace,
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
	run->outcome = (struct build_outcome){ .status = end.status,
					       .error = end.error,
					       .cpu_known = true,
					       .cpu_user_usec = end.cpu_user_usec,
					       .cpu_system_usec = end.cpu_system_usec,
					       .peak_memory_bytes = end.peak_memory_bytes,
					       .peak_procs = end.peak_procs,
					       .log_size = end.log_size };
	out = open_out(run, &run->error);
	in.out_dirfd = out;
	if (end.status != BUILT) {
		if (end.status == SUBSTITUTED || end.status == ALREADY_VALID ||
		    end.status > NO_SUBSTITUTERS)
			run->outcome.status = MISC_FAILURE;
		end_badly(run, &in);
	} else if (out < 0) {
		run_judged(run, out);
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

/* Signal 0 tells a pidfd from any other file. */
static bool is_pidfd(int fd)
{
	return syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0) == 0 || errno != EBADF;
}

static void on_running(struct build_run *run, struct msg *m)
{
	struct build_running running;

	if (run->ran || m->n_fds != 1 || !is_pidfd(m->fds[0]) ||
	    msg_decode(m, &build_running_layout, &run->arena, &running)) {
		run_abort(run, "its supervisor sent a wrong answer");
		return;
	}
	run->builder = TAKE_FD(m->fds[0]);
	run->ran = true;
	run->host_uid = (uid_t)running.host_uid;
	if (run->ev)
		run->ev->started(run->ctx);
}

static void handle(struct build_run *run, struct msg *m)
{
	switch (m->type) {
	case BUILD_NEED_IDS:
		if (!run->ev)
			return; /* cancelled: it ends without ids */
		if (run->wants_ids || run->ids_given) {
			run_abort(run, "its supervisor asked twice for ids");
			return;
		}
		run->wants_ids = true;
		run_step_ids(run);
		return;
	case BUILD_RUNNING:
		on_running(run, m);
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

/* At most `max` messages, and none after a big one: others have their turn in between. */
static void read_messages(struct build_run *run, size_t max, bool after_big)
{
	for (size_t i = 0; i < max && run->chan_watch; i++) {
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
		if (m.len > CHAN_INLINE && !after_big)
			return;
	}
}

static void on_channel(void *ctx, uint32_t events)
{
	(void)events; /* data and hang-up are both learnt by reading */
	read_messages(ctx, MESSAGES_PER_ROUND, false);
}

static void exited(struct build_run *run)
{
	siginfo_t si = {};

	/* Its end was seen. Where somebody traced it, he is told first: a moment. */
	if (waitid(P_PIDFD, (id_t)run->pidfd, &si, WEXITED) < 0)
		return;
	if (si.si_code != CLD_EXITED)
		log_error("the supervisor of the build of '%s' was ended by signal %d",
			  run->drv_base, si.si_status);
	run->exited = true;
	run->wants_ids = false;
	run_settle(run);
}

static void on_exit_event(void *ctx, uint32_t events)
{
	struct build_run *run = ctx;

	(void)events;
	/* What it said last comes first. */
	read_messages(run, MESSAGES_AT_END, true);
	loop_remove(run->pid_watch);
	run->pid_watch = NULL;
	run->exit_seen = true;
	/* Not reaped while somebody maps ids for it, who may know it by its number alone. */
	if (!run->ids_call || lease_cancel(run->ids_call))
		exited(run);
}

int run_watch(struct build_run *run, struct err *e)
{
	struct loop *loop = run->runs->core->loop;
	int r = loop_add(loop, run->chan, EPOLLIN, on_channel, run, &run->chan_watch);

	if (r == 0)
		r = loop_add(loop, run->pidfd, EPOLLIN, on_exit_event, run, &run->pid_watch);
	return r < 0 ? err_errno(e, r, "watching a build") : 0;
}

void build_run_cancel(struct build_run *run)
{
	run->ev = NULL;
	run->wants_ids = false;
	if (run->ids_call)
		(void)lease_cancel(run->ids_call); /* else they are taken back when they come */
	if (run->hook)
		run_check_cancel(run);
	if (run->end_seen)
		return; /* its outputs are being placed; it is released after that */
	if (chan_send(run->chan, BUILD_CANCEL, 0, NULL, 0, NULL, 0) < 0)
		run_kill(run);
	else
		/* It deletes what the builder made, which nobody else may; nobody waits for that.
		 */
		arm_kill(run, run->ids_given ? (uint64_t)RELEASE_GRACE_SEC * 1000000
					     : CANCEL_GRACE_USEC);
}

int build_run_log_fd(const struct build_run *run)
{
	return build_log_reader(&run->log);
}
