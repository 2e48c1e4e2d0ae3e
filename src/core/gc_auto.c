/* Disk pressure: a collection that starts by itself when less than min-free is free, until max-free
 * is (upstream's settings). Builds and adds that come meanwhile wait for it. Linked by airplantd.
 */
#include "core/gc_auto.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/log.h"
#include "core/core.h"
#include "core/gc.h"
#include "core/goals.h"
#include "core/sessions.h"

struct gc_auto {
	struct core *core;
	struct gc_request *request; /* the one that runs or waits its turn */
	uint64_t next_look_usec;
	uint64_t after; /* bytes that were free after the last one */
};

static int available(const struct core *core, uint64_t *ret)
{
	struct statvfs st;

	if (fstatvfs(core->store_fd, &st) < 0)
		return -errno;
	*ret = (uint64_t)st.f_bavail * st.f_frsize;
	return 0;
}

static void on_started(void *ctx, int list_fd)
{
	(void)ctx;
	(void)list_fd;
}

static void on_note(void *ctx, uint64_t level, const char *text)
{
	(void)ctx;
	if (level <= 1)
		log_warn("%s", text);
}

static void on_progress(void *ctx, const struct gc_progress *p)
{
	(void)ctx;
	(void)p;
}

static void on_done(void *ctx, const struct gc_progress *p, const struct err *e)
{
	struct gc_auto *a = ctx;

	(void)p;
	if (e)
		log_warn("collecting garbage for want of space: %s", err_msg(e));
	a->request = NULL;
	if (available(a->core, &a->after) < 0)
		a->after = UINT64_MAX;
	/* Whoever waited goes on, whatever came of it. */
	a->next_look_usec = now_usec() + a->core->settings.min_free_check_interval * 1000000;
	sessions_resume(a->core->sessions);
	if (a->core->goals)
		goals_resume(a->core->goals);
}

static const struct gc_events events = {
	.started = on_started,
	.note = on_note,
	.progress = on_progress,
	.done = on_done,
};

static bool start(struct gc_auto *a, const struct settings *set, uint64_t free)
{
	const struct gc_options o = {
		.action = GC_DELETE_DEAD,
		.keep_outputs = a->core->settings.keep_outputs,
		.keep_derivations = a->core->settings.keep_derivations,
		.whole_store = true,
		.wait_for_space = true,
		.max_freed = set->max_free - free,
	};

	log_info("%llu bytes are free: collecting garbage to free %llu more",
		 (unsigned long long)free, (unsigned long long)o.max_freed);
	return gc_collect(a->core->gc, &o, &events, a, &a->request) == 0;
}

bool gc_auto_look(struct gc_auto *a, const struct settings *set)
{
	uint64_t now, free;

	if (!a || set->min_free == 0)
		return false;
	if (a->request)
		return true;
	now = now_usec();
	if (now < a->next_look_usec || available(a->core, &free) < 0)
		return false;
	a->next_look_usec = now + set->min_free_check_interval * 1000000;
	if (free >= set->min_free || free >= set->max_free)
		return false;
	/* The last one left no more than this: another would find nothing new. */
	if (a->after != UINT64_MAX && free > a->after / 100 * 97)
		return false;
	return start(a, set, free);
}

struct gc_auto *gc_auto_new(struct core *core)
{
	struct gc_auto *a = calloc(1, sizeof(*a));

	if (a)
		*a = (struct gc_auto){ .core = core, .after = UINT64_MAX };
	return a;
}
