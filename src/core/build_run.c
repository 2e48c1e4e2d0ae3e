/* See build_run.h: the runs of a daemon, and what a supervisor says. One that says something it must
 * not say is killed; its scratch is then the business of clean.c, because its files may belong to ids
 * that the daemon has not got. */
#include "core/build_run_int.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/clean.h"
#include "core/core.h"
#include "core/system_features.h"
#include "core/hook.h"
#include "core/goals.h"
#include "core/lease.h"
#include "core/loop.h"
#include "core/nest.h"
#include "core/optimise.h"
#include "core/sigcheck.h"
#include "core/spool.h"

enum {
	REPLY_MAX = 64 << 20, /* bytes of one message of a supervisor */
	LINGER_USEC = 20 * 1000,
	CANCEL_GRACE_USEC = 5000000, /* before there was anything to delete */
	MESSAGES_PER_ROUND = 64,
	MESSAGES_AT_END = 4096, /* more than fit into a socket */
};

/* A slot is free again. */
static void on_slot_returned(void *ctx)
{
	struct runs *r = ctx;

	for (struct build_run *i = r->first, *next; i; i = next) {
		next = i->next;
		if (i->wants_ids && !i->ids_call)
			run_ask_ids(i);
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

void run_linger(struct build_run *run)
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
	nest_free(run->nest);
	close_fdp(&run->nest_fds[0]);
	close_fdp(&run->nest_fds[1]);
	build_log_close(&run->log);
	free(run->scratch);
	free(run->keep_dir);
	run_unreserve(run);
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
	if (run->nest && run->ev)
		nest_open(run->nest);
	if (run->ev)
		run->ev->started(run->ctx);
}

/* Its builder is dead: nothing joins any more, before its outputs are looked at. */
static void on_ask_added(struct build_run *run)
{
	struct build_names added = {};

	if (!run->nest) {
		run_abort(run, "its supervisor sent a wrong answer");
		return;
	}
	nest_close(run->nest);
	added.names = *nest_added(run->nest);
	if (chan_send_record(run->chan, BUILD_ADDED, 0, &build_names_layout, &added, NULL, 0) < 0)
		run_abort(run, "its supervisor does not listen");
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
		run_ask_ids(run);
		return;
	case BUILD_RUNNING:
		on_running(run, m);
		return;
	case BUILD_LOG:
		on_log(run, m);
		return;
	case BUILD_ASK_ADDED:
		on_ask_added(run);
		return;
	case BUILD_END:
		run_on_end(run, m);
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

void run_exited(struct build_run *run)
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
		run_exited(run);
}

int run_watch(struct build_run *run, struct err *e)
{
	struct loop *loop = run->runs->core->loop;
	int r = loop_add(loop, run->chan, EPOLLIN, on_channel, run, &run->chan_watch);

	if (r == 0)
		r = loop_add(loop, run->pidfd, EPOLLIN, on_exit_event, run, &run->pid_watch);
	return r < 0 ? err_errno(e, r, "watching a build") : 0;
}

void build_run_pins(const struct build_run *run, void (*pin)(void *ctx, const char *base), void *ctx)
{
	if (run->nest)
		nest_pins(run->nest, pin, ctx);
}

void build_run_cancel(struct build_run *run)
{
	if (run->nest)
		nest_close(run->nest);
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
		run_arm_kill(run, run->ids_given ? (uint64_t)RELEASE_GRACE_SEC * 1000000
					     : CANCEL_GRACE_USEC);
}

int build_run_log_fd(const struct build_run *run)
{
	return build_log_reader(&run->log);
}
