/* See build_run.h: how a run ends. Its goal is told once; its supervisor, its builder, its cgroup and
 * its files go, in this order, and then its ids are free. */
#include "core/build_run_int.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "core/clean.h"
#include "core/core.h"
#include "core/loop.h"
#include "core/nest.h"
#include "core/spool.h"

enum {
	RETRY_SETTLE_USEC = 20000,
	SETTLE_TRIES = 500,
};

void run_tell_end(struct build_run *run, uint64_t status, const char *error)
{
	const struct build_run_events *ev = run->ev;

	if (run->nest)
		nest_close(run->nest);
	if (!ev)
		return;
	run->ev = NULL;
	run->outcome.ran = run->ran;
	run->outcome.host_uid = run->host_uid;
	run->outcome.status = status;
	run->outcome.error = error ? error : "";
	run_linger(run);
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
		run_tell_end(run, MISC_FAILURE, err_msg(&run->error));
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

void run_arm_kill(struct build_run *run, uint64_t usec)
{
	loop_timer_cancel(run->kill_timer);
	run->kill_timer = NULL;
	if (loop_timer(run->runs->core->loop, usec, on_kill_timer, run, &run->kill_timer) < 0) {
		run->kill_timer = NULL;
		run_kill(run); /* without a timer there is no waiting */
	}
}

void run_abort(struct build_run *run, const char *why)
{
	log_error("the build of '%s': %s", run->drv_base, why);
	loop_remove(run->chan_watch);
	run->chan_watch = NULL;
	run->wants_ids = false;
	run_kill(run);
	if (run->ev) {
		(void)err_set(&run->error, -EPROTO, "the build of '%s/%s' was given up: %s",
			      run->runs->core->store_dir, run->drv_base, why);
		run_tell_end(run, MISC_FAILURE, err_msg(&run->error));
	}
}

void run_release(struct build_run *run)
{
	if (chan_send(run->chan, BUILD_RELEASE, 0, NULL, 0, NULL, 0) < 0)
		run_kill(run); /* it hung up: nothing more comes from it */
	else
		run_arm_kill(run, (uint64_t)RELEASE_GRACE_SEC * 1000000);
}
