/* See build_run.h: the ids of a run, which may have to be waited for. */
#include "core/build_run_int.h"

#include <stdio.h>

#include "core/clean.h"
#include "core/core.h"
#include "core/loop.h"

enum { RETRY_IDS_USEC = 1000000 };

static void on_retry_timer(void *ctx)
{
	struct build_run *run = ctx;

	run->retry_timer = NULL;
	if (run->wants_ids && !run->ids_call)
		run_ask_ids(run);
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
	if (run->runs->clean)
		clean_hurry(run->runs->clean);
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
		run_exited(run);
}

void run_ask_ids(struct build_run *run)
{
	static const struct lease_events events = { on_ids, on_late };

	lease_map(run->runs->lease, run->kind, run->pidfd, run->pid, &events, run, &run->ids_call);
}
