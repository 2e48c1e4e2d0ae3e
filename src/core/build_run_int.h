/* What the files of a run share; build_run.h is the outside.
 *
 *   build_run.c          the runs of a daemon; what a supervisor says; cancelling
 *   build_run_start.c    up to the moment when the supervisor has its orders
 *   build_run_ids.c      its ids
 *   build_run_outputs.c  its outputs, judged and placed
 *   build_run_check.c    the same for a goal that checks
 *   build_run_end.c      its end, and what is left of it */
#pragma once

#include "core/build_inputs.h"
#include "core/build_log.h"
#include "core/build_run.h"
#include "core/cgroup.h"
#include "core/lease.h"
#include "core/supervisor.h"

struct core;
struct clean;
struct lease;
struct loop_fd;
struct nest;
struct loop_timer;
struct optimise_job;

struct runs {
	struct core *core;
	struct lease *lease;
	struct clean *clean; /* NULL as lease is */
	struct err lease_error;
	struct build_run *first;
	uint64_t n_processors;
	/* Warm (see ipc/build.h) and waiting for its build, or pidfd is -1. Nobody watches it: when
	 * it has died, the build that wants it starts another. */
	struct supervisor spare;
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
	enum lease_kind kind;
	struct cgroup cgroup;
	struct nest *nest; /* the daemon inside it, or NULL */
	int nest_fds[2];   /* until the supervisor has them */
	bool optimise; /* its outputs share files with others before it has ended */
	struct optimise_job *optimising;
	char *scratch, *keep_dir; /* keep_dir: NULL when a failure leaves nothing behind */
	char *keep_path;	  /* an empty directory that was reserved in it, or NULL */
	struct keyring *keys;	  /* a trusted client's own, in the daemon's place; or NULL */
	char *diff_hook;	  /* what compares outputs that differ, or NULL */
	struct hook *hook;	  /* it runs, and `placing` is set */
	int scratch_fd, chan, pidfd;
	pid_t pid;
	/* The builder's pidfd from BUILD_RUNNING on, and the lease of its ids: whatever becomes of
	 * the supervisor, the builder is ended, and its ids are not free before it is gone. */
	int builder, lease_fd;
	struct lease_call *ids_call; /* somebody is about to map its ids */
	uint64_t generation; /* of the core's store, to which the scratch belongs */
	struct loop_fd *chan_watch, *pid_watch, *builder_watch, *hangup_watch;
	struct loop_timer *kill_timer, *retry_timer, *settle_timer, *linger_timer;
	unsigned int settle_tries;
	bool wants_ids, noted_wait, noted_late, ids_given, has_foreign_ids;
	bool ran; /* the builder did, as host_uid */
	uid_t host_uid;
	bool end_seen, exit_seen /* by the loop */, exited /* and reaped */, clean, placing, cgroup_left;
};

/* One warm supervisor is kept ready, so that a build does not wait for its start. */
void spare_refill(struct runs *runs);
void spare_drop(struct runs *runs);
/* Hears of messages and of the end from now on. 0, or a sentence. */
int run_watch(struct build_run *run, struct err *e);
/* build_run_check.c: a build that succeeded, of a goal that checks. */
struct build_stage_input;
void run_check(struct build_run *run, struct build_stage_input *in);
void run_check_cancel(struct build_run *run);
/* Where what the builder left is kept now, heap; or NULL. */
char *run_keep_failed(struct build_run *run);
/* What was reserved to be kept is not needed. */
void run_unreserve(struct build_run *run);
/* build_run_ids.c: asks for them (again); they are handed on when they come. */
void run_ask_ids(struct build_run *run);
/* build_run_outputs.c */
struct msg;
void run_on_end(struct build_run *run, const struct msg *m);
/* The end of a build. `r`: 0, or an outcome of build_stage.h whose sentence stands in run->error.
 * Then run_settle. */
void run_judged(struct build_run *run, int r);

/* build_run_end.c */
/* Tells the goal, once. */
void run_tell_end(struct build_run *run, uint64_t status, const char *error);
/* Something is wrong between us and the supervisor: the build is over. */
void run_abort(struct build_run *run, const char *why);
/* The outputs are placed, or not wanted: the supervisor may delete the rest. */
void run_release(struct build_run *run);
void run_settle(struct build_run *run);
void run_kill(struct build_run *run);
enum { RELEASE_GRACE_SEC = 600 }; /* deleting a large scratch takes its time */
void run_arm_kill(struct build_run *run, uint64_t usec);

/* build_run.c */
void run_linger(struct build_run *run);
void run_exited(struct build_run *run); /* reaps it */
void run_free(struct build_run *run);
