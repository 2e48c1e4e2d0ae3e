/* See build_run.h: everything up to the moment when the supervisor has its orders. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/build_keep.h"
#include "core/build_run_int.h"
#include "core/core.h"
#include "core/system_features.h"
#include "core/lease.h"
#include "core/nest.h"
#include "core/network.h"
#include "core/place.h"
#include "core/realise.h"
#include "core/sigcheck.h"
#include "core/spool.h"
#include "core/used.h"

enum { RUN_MEMORY = 512 << 20 }; /* inputs, environment and result of one build, bytes */

void spare_drop(struct runs *runs)
{
	struct supervisor *s = &runs->spare;

	if (s->pidfd < 0)
		return;
	(void)syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0); /* or it is dead */
	(void)waitid(P_PIDFD, (id_t)s->pidfd, &(siginfo_t){}, WEXITED);
	close_fdp(&s->chan);
	close_fdp(&s->pidfd);
}

void spare_refill(struct runs *runs)
{
	_cleanup_err_ struct err e = {};

	/* When it fails, so will the next build, and say why. */
	if (runs->spare.pidfd < 0)
		(void)supervisor_start(runs->core, BUILD_WARM, NULL, &runs->spare, &e);
}

static int send_start(struct build_run *run, const struct build_start *start)
{
	int fds[5] = { run->log.plain_fd };
	size_t n = 1;

	if (run->log.compressed_fd >= 0)
		fds[n++] = run->log.compressed_fd;
	for (size_t i = 0; run->nest && i < ELEMENTS(run->nest_fds); i++)
		fds[n++] = run->nest_fds[i];
	if (run->cgroup.fd >= 0)
		fds[n++] = run->cgroup.fd;
	return chan_send_record(run->chan, BUILD_START, 0, &build_start_layout, start, fds, n);
}

static void sent(struct build_run *run)
{
	close_fdp(&run->nest_fds[0]);
	close_fdp(&run->nest_fds[1]);
}

static void take(struct build_run *run, struct supervisor *s)
{
	run->chan = s->chan;
	run->pidfd = s->pidfd;
	run->pid = s->pid;
	s->chan = s->pidfd = -1;
}

/* Hands the build to the spare where there is one that still listens, else to a new supervisor. */
static int start_supervisor(struct build_run *run, const struct build_start *start, struct err *e)
{
	bool warm = start->sandbox == SANDBOX_ON && !start->network;
	struct supervisor s = { .chan = -1, .pidfd = -1 };
	int r;

	if (warm && run->runs->spare.pidfd >= 0) {
		take(run, &run->runs->spare);
		if (send_start(run, start) == 0) {
			sent(run);
			return 0;
		}
		run->runs->spare =
			(struct supervisor){ TAKE_FD(run->chan), TAKE_FD(run->pidfd), run->pid };
		spare_drop(run->runs);
	}
	r = supervisor_start(run->runs->core, warm ? BUILD_WARM : NULL, NULL, &s, e);
	if (r < 0)
		return r;
	take(run, &s);
	r = send_start(run, start);
	sent(run);
	return r < 0 ? err_errno(e, r, "handing the build of '%s' to its supervisor", run->drv_base)
		     : 0;
}

/* The build's processes: in a cgroup of their own, and no more than allowed. */
static int hold_together(struct build_run *run, struct build_start *ret, struct err *e)
{
	struct core *core = run->runs->core;
	uint64_t max = core->settings.build_pids_max;

	if (!cgroups_count_pids(core->cgroups))
		ret->max_procs = max == UINT64_MAX ? 0 : max;
	if (!core->cgroups)
		return 0;
	ret->cgroup = 1;
	return cgroup_make(core->cgroups, core, run->drv_base, run->kind != LEASE_PLAIN,
			   &run->cgroup, e);
}

static bool same_list(const struct strv *a, const struct strv *b)
{
	bool same = a->n == b->n;

	for (size_t i = 0; same && i < a->n; i++)
		same = !strcmp(a->v[i], b->v[i]);
	return same;
}

/* A trusted client may name secret keys of its own in the place of the daemon's, as far as the
 * daemon can read them, or none. */
static int load_keys(struct build_run *run, const struct build_job *job, struct err *e)
{
	const struct strv *files = &job->settings->secret_key_files;
	int r = 0;

	if (same_list(files, &run->runs->core->settings.secret_key_files))
		return 0;
	run->keys = keyring_new();
	if (!run->keys)
		return err_errno(e, -ENOMEM, "reading secret keys");
	for (size_t i = 0; r == 0 && i < files->n; i++)
		r = keyring_add_secret_file(run->keys, files->v[i], e);
	return r > 0 ? MISC_FAILURE : r;
}

static int make_nest(struct build_run *run, struct err *e)
{
	struct core *core = run->runs->core;
	const struct nest_input in = { .core = core,
				       .drv_base = run->drv_base,
				       .closure = &run->inputs.closure,
				       .goal = run->job.goal,
				       .uid = run->job.keep_uid,
				       .gid = (gid_t)-1 };

	if (!has_feature(core, FEATURE_RECURSIVE))
		return feature_missing(e, INPUT_REJECTED, FEATURE_RECURSIVE, NULL);
	return nest_new(&in, &run->nest, run->nest_fds, e);
}

/* Everything the supervisor is told, read from the database and the settings. */
static int prepare(struct build_run *run, struct build_start *ret, struct err *e)
{
	struct core *core = run->runs->core;
	const struct build_job *job = &run->job;
	struct build_env_input in = { .store_dir = core->store_dir,
				      .drv_base = run->drv_base,
				      .drv = job->drv,
				      .opts = job->opts,
				      .settings = job->settings,
				      .n_processors = run->runs->n_processors,
				      .check = job->check,
				      .own_uid = lease_mode(run->runs->lease) == IDS_SINGLE,
				      .trusted = job->trusted,
				      .get_env = (const char *(*)(const char *))getenv };
	int r;

	in.net_helper = network_helper(job->settings, &run->arena, getenv("PATH"));
	in.ca_file = network_ca_file(job->settings, &run->arena, in.get_env);
	in.fetcher = arena_printf(&run->arena, "%s/airplant-fetch", core->libexec_dir);
	in.netrc_file = *job->settings->netrc_file
				? job->settings->netrc_file
				: arena_printf(&run->arena, "%s/netrc", core->conf_dir);
	if (!in.net_helper || !in.ca_file || !in.fetcher || !in.netrc_file)
		return err_errno(e, -ENOMEM, "starting a build");
	place_flush(core->place); /* inputs may have been built a moment ago */
	r = build_inputs_load(core->db, core->store_dir, run->drv_base, job->drv, job->opts,
			      job->settings, &run->arena, &run->inputs, e);
	if (r)
		return r;
	used_note(core, USED_BY_NOBODY, run->drv_base);
	for (size_t i = 0; i < run->inputs.closure.n; i++)
		used_note(core, USED_BY_NOBODY, run->inputs.closure.v[i]);
	if (job->settings->keep_failed) {
		const char *dir = job->settings->build_dir;

		if (asprintf(&run->keep_dir, "%s%s", dir && *dir ? dir : core->state_dir,
			     dir && *dir ? "" : "/builds") < 0) {
			run->keep_dir = NULL;
			return err_errno(e, -ENOMEM, "starting a build");
		}
	}
	if (job->settings->run_diff_hook && job->settings->diff_hook && *job->settings->diff_hook) {
		run->diff_hook = strdup(job->settings->diff_hook);
		if (!run->diff_hook)
			return err_errno(e, -ENOMEM, "starting a build");
	}
	r = spool_make(core->spool, 'b', &run->scratch, &run->scratch_fd);
	if (r == 0 && run->keep_dir) {
		r = build_keep_prepare(run->scratch_fd, job->keep_uid);
		if (r == KEEP_PRIVATE)
			log_warn("the file system of '%s' has no access lists: what a failed build "
				 "of '%s' leaves can be read by the daemon's user alone",
				 run->scratch, run->drv_base);
	}
	if (r < 0)
		return err_errno(e, r, "creating a directory for the build of '%s'", run->drv_base);
	if (run->keep_dir && job->settings->sandbox != SANDBOX_TRUE) {
		r = build_keep_reserve(run->keep_dir, job->drv->name, run->scratch, in.own_uid,
				       &run->keep_path, e);
		if (r < 0)
			return r;
	}
	in.host_dir = run->keep_path;
	in.scratch = run->scratch;
	in.graphs = run->inputs.graphs;
	in.inputs = &run->inputs.closure;
	in.sandbox_closure = &run->inputs.sandbox_closure;
	r = build_env_make(&in, &run->arena, ret, e);
	if (r == 0 && ret->recursive)
		r = make_nest(run, e);
	if (r)
		return r;
	if (ret->sandbox == SANDBOX_ON)
		run_unreserve(run);
	r = build_log_open(core->log_dir, spool_dir(core->spool), run->drv_base,
			   job->settings->keep_build_log, job->settings->compress_build_log,
			   &run->log, e);
	return r ? r : hold_together(run, ret, e);
}

int build_run_start(struct runs *runs, const struct build_job *job,
		    const struct build_run_events *ev, void *ctx, struct build_run **ret,
		    struct err *e)
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
	run->optimise = job->settings->auto_optimise_store;
	run->arena = ARENA_INIT(RUN_MEMORY);
	run->log = BUILD_LOG_FILES_INIT;
	run->cgroup = CGROUP_INIT;
	run->kind = features_ids(job->opts);
	run->nest_fds[0] = run->nest_fds[1] = -1;
	run->scratch_fd = run->chan = run->pidfd = run->builder = run->lease_fd = -1;
	run->generation = runs->core->generation;
	snprintf(run->drv_base, sizeof(run->drv_base), "%s", job->drv_base);
	run->link = &runs->first;
	run->next = runs->first;
	if (run->next)
		run->next->link = &run->next;
	runs->first = run;
	r = load_keys(run, job, e);
	if (r == 0)
		r = prepare(run, &start, e);
	if (r == 0)
		r = start_supervisor(run, &start, e);
	if (r == 0)
		r = run_watch(run, e);
	if (r == 0) {
		*ret = run;
		return 0;
	}
	if (run->pidfd >= 0) { /* let it be seen out by the loop, or by us */
		run_kill(run);
		(void)waitid(P_PIDFD, (id_t)run->pidfd, &(siginfo_t){}, WEXITED);
	}
	if (run->scratch)
		spool_drop(runs->core->spool, run->scratch);	/* no ids were given yet */
	(void)cgroup_remove(runs->core->cgroups, &run->cgroup); /* nothing was started in it */
	run_free(run);
	return r > 0 ? err_set(e, INPUT_REJECTED, "%s", err_msg(e)) : r;
}
