/* The garbage collector. Linked by the core.
 *
 * The protocol between the collector and everybody who uses paths. One thread decides all of it, so
 * each step below is atomic towards the others; what happens between two steps is the point.
 *
 *   pin(p)     somebody in this daemon needs p from now on: a session's temp root (AddTempRoot and
 *              each path it adds, and the outputs it was told are built), a new indirect root, a
 *              path that is registered and what it refers to, and for a build: its derivation, its
 *              inputs and its outputs, from the moment somebody waits for it.
 *   C1 start   From now on no pin is forgotten: sessions that end leave theirs behind.
 *              Stock processes tell us of what they need from now on (beside.h).
 *   C2 roots   The tracer is asked; its complete answer is awaited.
 *   C3 load    A snapshot of the database is taken and read. It is younger than the tracer's
 *              answer.
 *   C4 mark    Everything that the tracer's roots, all pins since C1 and all that are held now
 *              reach in the snapshot is live. From here on pin(p) marks at once all that p reaches.
 *   C5 sweep   Rows: of a few dead paths at a time, those that refer before what they refer to, or
 *              of all at once. The step that commits leaves out what is live by then, without
 *              letting anybody in between. Files: when their rows are gone, in the same step or in
 *              later ones. Who puts something in such a place, and who pins it, has what lies
 *              there moved away before (gc_clear_way): a stock process that told us of a path
 *              writes there itself.
 *   C6 end     Pins are only what is held again.
 *
 * Why nothing that is needed goes:
 *   - A root that was there at C1 and has stayed is in the tracer's answer.
 *   - Whoever makes a root himself (a link) held a pin on its target when he made it, over a
 *     connection. If he held it at or after C1, it counts until C6, also when he has left since. If
 *     he had left before C1, his link was there before the tracer looked.
 *   - A path that is not in the snapshot is never deleted. It and what it refers to were pinned
 *     when it was registered.
 *   - A client pins first and asks then whether the path is valid (session/ops_roots.c answers after
 *     the core has; the question after it sees the database as it is then). So it hears "valid" of a
 *     path that stays, or "not valid" of one whose row is gone, and which it can add again at once,
 *     also when its old files are still there.
 *   - A crash between commit and rename leaves files without a row, which the next add or
 *     collection clears away; never a row without files.
 * No lock is taken anywhere. One collection runs at a time, the others wait their turn. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "base/strv.h"

struct core;
struct gc;
struct gc_request;

enum gc_action { GC_RETURN_LIVE, GC_RETURN_DEAD, GC_DELETE_DEAD, GC_DELETE_SPECIFIC };

struct gc_options {
	enum gc_action action;
	bool ignore_liveness; /* of roots; temp roots count all the same */
	bool keep_outputs, keep_derivations;
	bool whole_store;      /* else `paths` alone */
	bool delete_referrers; /* and what refers to them, when it is dead too */
	uint64_t max_freed;    /* bytes: stops when more than these are freed */
	bool wait_for_space;   /* the end comes when the files are gone, not only out of the way */
	const struct strv *paths; /* base names; copied */
};

struct gc_progress {
	uint64_t n_done, n_expected; /* paths */
	uint64_t freed;		     /* bytes: sizes as the database has them */
	uint64_t list_size;	     /* bytes of the list so far */
};

/* What the one who asked is told. `list_fd` (read-only) comes with the first call and grows: names
 * of files in the store, each with a NUL behind it: the live, the dead or the deleted ones. */
struct gc_events {
	void (*started)(void *ctx, int list_fd);
	void (*note)(void *ctx, uint64_t level, const char *text);
	void (*progress)(void *ctx, const struct gc_progress *p);
	/* The last call. `e` is NULL on success. */
	void (*done)(void *ctx, const struct gc_progress *p, const struct err *e);
};

struct gc *gc_new(struct core *core);
void gc_free(struct gc *gc); /* nobody is told */
/* Queues a collection. Events come later, never from within this call. 0 or -ENOMEM. */
int gc_collect(struct gc *gc, const struct gc_options *o, const struct gc_events *ev, void *ctx,
	       struct gc_request **ret);
/* Nobody wants it any more: it ends after this round, and no event comes. */
void gc_cancel(struct gc_request *r);
/* The store was reopened: what runs ends with an error. */
void gc_store_changed(struct gc *gc);

/* pin(p): cheap when no collection runs. Also tells another's collector, if there is one (beside.h). */
void gc_pin(struct core *core, const char *base);
/* Something is about to be put into the store under that name: what lies there of a path that is
 * not valid any more goes now, so that its turn does not take what is new. */
void gc_clear_way(struct core *core, const char *base);
/* Does a pin have to be told? (To spare the work of finding out what to pin.) */
bool gc_is_running(const struct core *core);
