/* The garbage collector: requests, pins and phases. See gc.h. Linked by airplantd. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/beside.h"
#include "core/gc_int.h"
#include "core/reserve.h"
#include "core/trash.h"
#include "core/used.h"

/* One step, after which everybody else has his turn. */
enum { SLICE_USEC = 5 * 1000, TELL_USEC = 100 * 1000, LOCK_USEC = 100 * 1000 };

static void start_next(struct gc *gc);

struct gc *gc_new(struct core *core)
{
	struct gc *gc = calloc(1, sizeof(*gc));

	if (!gc)
		return NULL;
	gc->core = core;
	gc->list_fd = gc->links_fd = -1;
	return gc;
}

bool gc_deletes(const struct gc *gc)
{
	return gc->head->o.action >= GC_DELETE_DEAD;
}

/* ---- what the one who asked hears ---- */

void gc_note(struct gc *gc, uint64_t level, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		text = NULL; /* a lost line is no reason to fail */
	else if (gc->head->ev)
		gc->head->ev->note(gc->head->ctx, level, text);
}

void gc_tell_progress(struct gc *gc, bool now)
{
	uint64_t t = now_usec();

	if (!gc->head->ev || (!now && t < gc->told_usec + TELL_USEC))
		return;
	gc->told_usec = t;
	(void)gc_list_flush(gc); /* gc_end tries again, and says so */
	gc->head->ev->progress(gc->head->ctx, &gc->progress);
}

int gc_list(struct gc *gc, const char *name)
{
	size_t len = strlen(name) + 1;
	int r = gc->n_listed + len > sizeof(gc->listed) ? gc_list_flush(gc) : 0;

	if (r < 0)
		return r;
	memcpy(gc->listed + gc->n_listed, name, len);
	gc->n_listed += len;
	return 0;
}

int gc_list_flush(struct gc *gc)
{
	int r = pwrite_full(gc->list_fd, gc->listed, gc->n_listed, (off_t)gc->progress.list_size);

	if (r < 0)
		return r;
	gc->progress.list_size += gc->n_listed;
	gc->n_listed = 0;
	return 0;
}

/* ---- pins ---- */

bool gc_is_running(const struct core *core)
{
	return core->gc && core->gc->phase != GC_IDLE;
}

static int put_digest(struct gc *gc, const char *base)
{
	char digest[STORE_DIGEST_LEN + 1] = {};

	memcpy(digest, base, STORE_DIGEST_LEN);
	return smap_put(&gc->digests, digest, gc);
}

bool gc_has_digest(const struct gc *gc, const char *name)
{
	char digest[STORE_DIGEST_LEN + 1] = {};

	if (strnlen(name, STORE_DIGEST_LEN) < STORE_DIGEST_LEN)
		return false;
	memcpy(digest, name, STORE_DIGEST_LEN);
	return smap_has(&gc->digests, digest);
}

void gc_root(struct gc *gc, const char *base)
{
	int r = smap_put(&gc->roots, base, gc);

	if (r < 0)
		gc->pin_error = r;
}

void gc_pin(struct core *core, const char *base)
{
	struct gc *gc = core->gc;
	int r = 0;

	if (beside_promise(core))
		(void)beside_tell(core, base); /* told in the log */
	if (!gc_is_running(core) || strnlen(base, STORE_DIGEST_LEN) < STORE_DIGEST_LEN)
		return;
	if (gc->phase < GC_MARK) {
		r = smap_put(&gc->pins, base, gc);
	} else {
		graph_mark(&gc->graph, graph_find(&gc->graph, base));
		if (gc->phase > GC_MARK)
			(void)graph_drain(&gc->graph, 0); /* to the end */
		gc_clear_way(core, base);
		r = put_digest(gc, base);
	}
	if (r < 0)
		gc->pin_error = r;
}

/* ---- the end of one ---- */

static void clear(struct gc *gc)
{
	loop_timer_cancel(TAKE_PTR(gc->lock_timer));
	gc->told_lock = false;
	tracer_cancel(TAKE_PTR(gc->tracer));
	trash_forget(TAKE_PTR(gc->trash_wait));
	gc_links_stop(gc);
	if (gc->dir)
		closedir(TAKE_PTR(gc->dir));
	used_read_close(TAKE_PTR(gc->ages));
	gc_bulk_done(gc);
	gc_scan_done(gc);
	graph_done(&gc->graph);
	gc_order_done(gc);
	smap_done(&gc->roots);
	free(TAKE_PTR(gc->partly));
	gc->n_partly = 0;
	smap_done(&gc->pins);
	smap_done(&gc->digests);
	gc->roots = gc->pins = gc->digests = (struct smap){};
	gc->pin_error = 0;
	gc->progress = (struct gc_progress){};
	gc->n_listed = 0;
	gc->n_foreign = 0;
	gc->limit_reached = false;
	close_fdp(&gc->list_fd);
	gc->phase = GC_IDLE;
	beside_collected(gc->core);
}

static void request_free(struct gc_request *r)
{
	strv_done(&r->paths);
	free(r);
}

void gc_end(struct gc *gc, const struct err *e)
{
	struct gc_request *r = gc->head;
	_cleanup_err_ struct err own = {};
	struct gc_progress p;
	bool deleted = gc_deletes(gc);
	int err = gc->n_listed ? gc_list_flush(gc) : 0;

	if (err < 0 && !e) {
		err_errno(&own, err, "noting what was deleted");
		e = &own;
	}
	p = gc->progress;
	gc->head = r->next;
	clear(gc);
	if (deleted) {
		reserve_make(gc->core);
		log_info("garbage collection: %llu paths deleted, %llu bytes%s%s",
			 (unsigned long long)p.n_done, (unsigned long long)p.freed,
			 e ? ", then: " : "", e ? err_msg(e) : "");
	}
	if (r->ev)
		r->ev->done(r->ctx, &p, e);
	request_free(r);
	start_next(gc);
}

void gc_free(struct gc *gc)
{
	if (!gc)
		return;
	clear(gc);
	while (gc->head) {
		struct gc_request *r = gc->head;

		gc->head = r->next;
		request_free(r);
	}
	gc_known_free(gc);
	free(gc);
}

void gc_store_changed(struct gc *gc)
{
	const struct err e = { .code = -ESTALE,
			       .msg = (char *)"the store was deleted and made anew meanwhile" };

	gc_known_free(gc);
	if (gc->phase != GC_IDLE)
		gc_end(gc, &e);
}

/* ---- phases ---- */

static int open_list(struct gc *gc)
{
	_cleanup_close_ int theirs = -1;
	char path[64];

	gc->list_fd = memfd_create("garbage", MFD_CLOEXEC);
	if (gc->list_fd < 0)
		return -errno;
	/* Who asked may read it, not write. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", gc->list_fd);
	theirs = open(path, O_RDONLY | O_CLOEXEC);
	if (theirs < 0)
		return -errno;
	gc->head->ev->started(gc->head->ctx, theirs);
	return 0;
}

static int begin_load(struct gc *gc, struct err *e)
{
	const struct gc_options *o = &gc->head->o;
	_cleanup_free_ char *dir = NULL;

	if (asprintf(&dir, "%s/db", gc->core->state_dir) < 0)
		return err_errno(e, -ENOMEM, "collecting garbage");
	gc->phase = GC_LOAD;
	return graph_open(&gc->graph, dir, gc->core->store_dir,
			  (o->keep_derivations ? GRAPH_KEEP_DERIVERS : 0) |
				  (o->keep_outputs ? GRAPH_KEEP_OUTPUTS : 0),
			  e);
}

static void on_traced(void *ctx, struct traced *t, const struct err *e)
{
	struct gc *gc = ctx;
	_cleanup_err_ struct err own = {};
	int r = 0;

	gc->tracer = NULL;
	if (!t) {
		gc_end(gc, e);
		return;
	}
	for (size_t i = 0; i < t->n_roots; i++) {
		/* A stock process works on what has this digest, valid or not. */
		if (tracer_is_temp(t->roots[i].what))
			gc_pin(gc->core, t->roots[i].base);
		gc_root(gc, t->roots[i].base);
	}
	gc->partly = TAKE_PTR(t->partly);
	gc->n_partly = t->n_partly;
	if (t->own)
		gc_note(gc, 4, "roots: this user's alone, found without the tracer");
	r = gc_known_take(gc, t, &own);
	if (r == 0)
		r = begin_load(gc, &own);
	if (r != 0)
		gc_end(gc, &own);
	else
		gc_step_later(gc);
}

static int begin_order(struct gc *gc, struct err *e)
{
	int r = gc_check_wanted(gc, e);

	if (r != 0)
		return r;
	if (gc_deletes(gc))
		gc_note(gc, 3, "deleting garbage...");
	else
		gc_note(gc, 3, "determining live/dead paths...");
	gc->phase = GC_ORDER;
	gc_limit_size(gc);
	return gc_order_begin(gc, e);
}

static void after_trash(struct gc *gc)
{
	_cleanup_err_ struct err e = {};

	if (!gc_links_any(gc)) {
		gc_end(gc, NULL);
		return;
	}
	gc_note(gc, 3, "deleting unused links...");
	gc->phase = GC_LINKS;
	if (gc_links_start(gc, &e) < 0)
		gc_end(gc, &e);
}

static void on_trash_empty(void *ctx, bool complete)
{
	struct gc *gc = ctx;

	gc->trash_wait = NULL;
	if (!complete)
		gc_note(gc, 1, "some of it could not be deleted; the daemon's log says why");
	gc->progress.freed = trash_freed(gc->core) - gc->freed_before;
	gc_tell_progress(gc, true);
	after_trash(gc);
}

/* What was thrown away is deleted in the background, after the answer, unless somebody needs the
 * space now. A link in .links counts as unused when nothing else links to its file, so looking
 * there comes after the deleting too. */
static int after_files(struct gc *gc, struct err *e)
{
	int r;

	if (!gc_deletes(gc) || (!gc->head->o.wait_for_space && !gc_links_any(gc))) {
		gc_end(gc, NULL);
		return 0;
	}
	gc->phase = GC_TRASH;
	r = trash_when_empty(gc->core, on_trash_empty, gc, &gc->trash_wait);
	return r < 0 ? err_errno(e, r, "waiting for files to be deleted") : 0;
}

static int next_phase(struct gc *gc, struct err *e)
{
	switch (gc->phase) {
	case GC_LOAD:
		gc->phase = GC_AGES;
		return gc_ages_begin(gc, e);
	case GC_AGES:
		gc->phase = GC_MARK;
		return gc_mark_begin(gc, e);
	case GC_MARK:
		return begin_order(gc, e);
	case GC_ORDER:
		gc->phase = GC_SWEEP;
		return 0;
	case GC_SWEEP:
		gc->phase = GC_UNKNOWN;
		return 0;
	default:
		return after_files(gc, e);
	}
}

static int step(struct gc *gc, struct err *e)
{
	uint64_t until = now_usec() + SLICE_USEC;
	int r;

	switch (gc->phase) {
	case GC_LOAD:
		r = graph_load(&gc->graph, until);
		if (r < 0)
			err_errno(e, r, "reading the graph of references");
		return r;
	case GC_AGES:
		return gc_ages_step(gc, until, e);
	case GC_MARK:
		return graph_drain(&gc->graph, until);
	case GC_ORDER:
		return gc_order_step(gc, until);
	case GC_SWEEP:
		return gc_deletes(gc) ? gc_sweep_round(gc, until, e) : gc_list_round(gc, e);
	default:
		return gc_unknown_round(gc, until, e);
	}
}

static void on_step(void *ctx)
{
	struct gc *gc = ctx;
	_cleanup_err_ struct err e = {};
	int r;

	gc->stepping = false;
	if (gc->phase == GC_ROOTS && gc_scan_round(gc, now_usec() + SLICE_USEC) == GRAPH_MORE)
		gc_step_later(gc);
	if (gc->phase < GC_LOAD || gc->phase >= GC_TRASH)
		return;
	if (!gc->head->ev && !gc_has_files(gc)) {
		(void)err_set(&e, -ECANCELED, "nobody waits for it any more");
		gc_end(gc, &e);
		return;
	}
	if (gc->pin_error) {
		err_errno(&e, gc->pin_error, "keeping the temporary roots of a collection");
		gc_end(gc, &e);
		return;
	}
	r = step(gc, &e);
	if (r == 0) {
		r = next_phase(gc, &e);
		if (r == 0 && (gc->phase < GC_LOAD || gc->phase >= GC_TRASH))
			return; /* over, or waiting */
	}
	if (r < 0 || r == GC_REFUSED)
		gc_end(gc, &e);
	else
		gc_step_later(gc);
}

void gc_step_later(struct gc *gc)
{
	const struct err e = { .code = -ENOMEM };

	if (gc->stepping)
		return;
	if (loop_defer(gc->core->loop, on_step, gc) == 0)
		gc->stepping = true;
	else
		gc_end(gc, &e);
}

/* ---- requests ---- */

static void find_roots(struct gc *gc)
{
	_cleanup_err_ struct err e = {};
	int r = 0;

	gc->phase = GC_ROOTS;
	gc_note(gc, 3, "finding garbage collector roots...");
	if (gc->head->o.ignore_liveness) {
		r = begin_load(gc, &e);
		if (r == 0)
			gc_step_later(gc);
	} else {
		r = tracer_start(gc->core, on_traced, gc, &gc->tracer, &e);
		if (r == 0)
			gc_step_later(gc); /* it looks at the files meanwhile */
	}
	if (r != 0)
		gc_end(gc, &e);
}

static void take_lock(void *ctx)
{
	struct gc *gc = ctx;
	_cleanup_err_ struct err e = {};
	int r = gc_deletes(gc) ? beside_collect(gc->core, &e) : 0;

	gc->lock_timer = NULL;
	if (r == 0) {
		find_roots(gc);
		return;
	}
	if (r > 0) {
		if (!gc->told_lock)
			gc_note(gc, 3, "waiting for the big garbage collector lock...");
		gc->told_lock = true;
		r = loop_timer(gc->core->loop, LOCK_USEC, take_lock, gc, &gc->lock_timer);
		if (r == 0)
			return;
		err_errno(&e, r, "waiting for another garbage collection");
	}
	gc_end(gc, &e);
}

static void begin(struct gc *gc)
{
	_cleanup_err_ struct err e = {};
	int r;

	gc->phase = GC_LOCK; /* C1 */
	gc->freed_before = trash_freed(gc->core);
	if (gc_deletes(gc))
		reserve_drop(gc->core);
	gc->limit_reached = gc->head->o.max_freed == 0 && gc->head->o.action == GC_DELETE_DEAD;
	r = open_list(gc);
	if (r == 0) {
		take_lock(gc);
		return;
	}
	err_errno(&e, r, "collecting garbage");
	gc_end(gc, &e);
}

static void on_start(void *ctx)
{
	struct gc *gc = ctx;

	if (gc->phase != GC_IDLE)
		return;
	while (gc->head && !gc->head->ev) {
		struct gc_request *r = gc->head;

		gc->head = r->next;
		request_free(r);
	}
	if (gc->head)
		begin(gc);
}

static void start_next(struct gc *gc)
{
	if (gc->head && loop_defer(gc->core->loop, on_start, gc) < 0)
		log_error("out of memory: garbage is collected when the next one asks");
}

int gc_collect(struct gc *gc, const struct gc_options *o, const struct gc_events *ev, void *ctx,
	       struct gc_request **ret)
{
	struct gc_request *r = calloc(1, sizeof(*r)), **end = &gc->head;
	int err = 0;

	if (!r)
		return -ENOMEM;
	*r = (struct gc_request){ .gc = gc, .o = *o, .ev = ev, .ctx = ctx };
	for (size_t i = 0; err == 0 && o->paths && i < o->paths->n; i++)
		err = strv_add(&r->paths, o->paths->v[i]);
	if (err < 0) {
		request_free(r);
		return err;
	}
	r->o.paths = NULL;
	while (*end)
		end = &(*end)->next;
	*end = r;
	if (gc->phase == GC_IDLE)
		start_next(gc);
	*ret = r;
	return 0;
}

void gc_cancel(struct gc_request *r)
{
	struct gc *gc = r->gc;
	const struct err e = { .code = -ECANCELED, .msg = (char *)"nobody waits for it any more" };

	r->ev = NULL;
	/* One that waits for another process is not stepped. */
	if (r == gc->head &&
	    (gc->phase == GC_LOCK || gc->phase == GC_ROOTS || gc->phase >= GC_TRASH))
		gc_end(gc, &e);
}
