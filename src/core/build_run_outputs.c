/* See build_run.h: what a supervisor says at the end of the builder: outputs are judged and placed. */
#include "core/build_run_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/build_stage.h"
#include "core/core.h"
#include "core/nest.h"
#include "core/optimise.h"
#include "core/place.h"
#include "core/sigcheck.h"

static void placed(struct build_run *run, const struct err *e)
{
	run->placing = false;
	if (!e)
		run_tell_end(run, BUILT, "");
	else
		run_tell_end(run, MISC_FAILURE, err_msg(e));
	if (!run->exited)
		run_release(run);
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
	    optimise_soon(run->runs->core, &paths, run->job.replace, &on_optimise, run, &run->optimising) < 0)
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
	run_tell_end(run, run->outcome.status, run->outcome.error);
	if (!run->exited)
		run_release(run);
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
	run_tell_end(run, r ? status : BUILT, r ? err_msg(&run->error) : "");
	if (!run->exited)
		run_release(run);
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
	place_objects_from(run->runs->core->place, v, n, run->keys ? PLACE_SIGNED : 0, on_placed,
			   run);
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
	run_tell_end(run, run->outcome.status, run->outcome.error);
	run_release(run);
}

/* What the builder added, or had built, its outputs may refer to. */
static int inputs_with_added(struct build_run *run, struct build_stage_input *in)
{
	struct strv *all = &run->inputs.with_added;
	int r;

	nest_close(run->nest);
	r = nest_names(run->nest, &run->arena, all);
	if (r == 0)
		strv_sort(all);
	in->inputs = all;
	return r;
}

void run_on_end(struct build_run *run, const struct msg *m)
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
	if (run->nest && inputs_with_added(run, &in) < 0) {
		run_abort(run, "there is no memory for what it added");
		return;
	}
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
