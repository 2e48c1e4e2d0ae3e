/* One build in the hands of a supervisor process: started, given ids, watched, its outputs put
 * into the store, and its end seen (the core's side of ipc/build.h). Linked by the core. */
#pragma once

#include "core/drv_opts.h"
#include "ipc/build.h"
#include "store/db.h"

struct core;
struct goal;
struct runs;
struct build_run;

struct build_job { /* all pointers: as drv */
	const char *drv_base;
	const struct drv *drv;		 /* valid until `ended` or build_run_cancel */
	const struct drv_opts *opts;	 /* as drv */
	const struct settings *settings; /* needed only by build_run_start */
	bool check;
	const struct smap *replace; /* base names of valid outputs that are broken, or NULL */
	uid_t keep_uid; /* who may read what a failed build leaves (settings->keep_failed) */
	struct goal *goal; /* what asks for builds from within it belong to */
	bool trusted; /* somebody in 'trusted-users' waits for it */
};

struct build_outcome {
	uint64_t status;   /* enum build_status */
	const char *error; /* "" when all went well */
	bool ran;	   /* the builder was started, as host_uid */
	uid_t host_uid;
	bool cpu_known;
	uint64_t cpu_user_usec, cpu_system_usec, peak_memory_bytes, peak_procs;
	uint64_t log_size; /* bytes */
	/* What was registered when all went well, and not for a check. */
	struct drv_row *outputs;
	size_t n_outputs;
};

/* `ended` is the last call; the run goes on alone until its scratch is gone. Never called from
 * within build_run_start or build_run_cancel. */
struct build_run_events {
	void (*started)(void *ctx);
	void (*log)(void *ctx, uint64_t size);
	void (*note)(void *ctx, uint64_t level, const char *text);
	void (*ended)(void *ctx, const struct build_outcome *o);
};

/* Decides where ids come from. When that fails, each build fails with the reason. NULL: ENOMEM. */
struct runs *runs_new(struct core *core);
/* Ends what runs (the supervisors notice that the channel is gone). */
void runs_free(struct runs *r);

/* The settings are new: which features there are is decided again. */
void runs_settings_changed(struct runs *r);

/* `ret` stays valid until `ended`. Errors: a sentence for the client; code negative for the
 * machine's fault, positive (a build status) for the derivation's. */
int build_run_start(struct runs *r, const struct build_job *job, const struct build_run_events *ev,
		    void *ctx, struct build_run **ret, struct err *e);
/* Nobody wants it any more. No event comes afterwards. */
void build_run_cancel(struct build_run *run);
/* What it may use besides what its derivation names (nest.h), for a collection. */
void build_run_pins(const struct build_run *run, void (*pin)(void *ctx, const char *base), void *ctx);
/* Is a build that ended a moment ago (at most 20 ms) still deleting its scratch? Answers may wait for
 * it: whoever has his answer and deletes the store meets no files that he cannot delete.
 * goals_resume() is called when this changes. */
bool runs_linger(const struct runs *r);
/* A fresh read-only fd on the plain log, or -errno. */
int build_run_log_fd(const struct build_run *run);
