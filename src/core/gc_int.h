/* What the files of the collector share; gc.h is the outside.
 *
 *   gc.c        requests, pins, and the order of the phases
 *   gc_age.c    how long ago paths were used: which stay for it, and the oldest first
 *   gc_mark.c   what is live, and in which order the rest goes
 *   gc_sweep.c  rows and files, some at a time
 *   gc_bulk.c   the rows all at once, and the files then
 *   gc_scan.c   whose the files are
 *   gc_unknown.c  files without a row
 *   gc_links.c  .links
 *   gc_known.c  what indirect roots led to when they could be read */
#pragma once

#include <dirent.h>
#include <sys/stat.h>

#include "core/core.h"
#include "core/gc.h"
#include "core/tracer.h"
#include "core/trash.h"
#include "store/graph.h"

enum gc_phase {
	GC_IDLE,
	GC_LOCK,  /* waits for another collector, of a stock process */
	GC_ROOTS, /* waits for the tracer */
	GC_LOAD,
	GC_AGES,
	GC_MARK,
	GC_ORDER,
	GC_SWEEP,
	GC_UNKNOWN, /* files without a row */
	GC_TRASH,   /* waits until the files are gone */
	GC_LINKS,   /* waits for the child that looks through .links */
};

enum { GC_BATCH_MAX = 1024 };

struct gc_request {
	struct gc *gc;
	struct gc_request *next;
	struct gc_options o;
	struct strv paths;
	const struct gc_events *ev; /* NULL: cancelled */
	void *ctx;
};

/* What is decided of a node in a sweep of all at once. */
enum gc_fate {
	FATE_OPEN,
	FATE_GOES, /* its row, when it is still dead then */
	FATE_GONE, /* the row; its files are still there */
	FATE_DONE,
};

struct gc_order {
	uint32_t *n_referrers; /* dead ones that are not in `v` yet */
	uint8_t *wanted;       /* per node: one of those asked for; NULL: all are */
	uint32_t *v;	       /* dead nodes, referrers first */
	size_t n, next;
	uint32_t *heap; /* oldest first: those that nothing dead refers to any more; else NULL */
	size_t n_heap;
	uint32_t node;
	bool counted, filled; /* referrers; the heap */
};

struct gc {
	struct core *core;
	struct gc_request *head; /* the one that runs, then those that wait */
	enum gc_phase phase;
	bool stepping; /* a step is on its way */
	struct loop_timer *lock_timer;
	bool told_lock;
	struct tracer *tracer;
	struct smap roots;   /* what the tracer found: base names */
	uint32_t *partly;    /* users of whom it could not see all */
	size_t n_partly;
	struct smap pins;    /* base names, since C1 */
	struct smap digests; /* the first 32 characters of all of them, from C4 on */
	int pin_error;	     /* a pin was lost: nothing may be deleted any more */
	struct graph graph;
	struct used_reader *ages;
	struct gc_order order;
	struct gc_progress progress;
	uint64_t told_usec;
	int list_fd;
	char listed[16384]; /* of the list, not written yet */
	size_t n_listed;
	uint64_t freed_before; /* of trash_freed() */
	size_t n_foreign;      /* paths that cannot be moved away */
	bool limit_reached, closing;
	DIR *dir;
	struct trash_wait *trash_wait;
	struct child *links;
	int links_fd;
	struct smap known; /* gc_known.c: link -> struct strv on the heap */
	bool known_loaded;
	/* one round of the sweep */
	struct gc_batch {
		uint32_t v[GC_BATCH_MAX];
		size_t n, size; /* `size`: how many the next one may have */
	} batch;
	struct gc_scan {
		DIR *dir;
		struct smap foreign; /* names of what cannot be moved; when `over`, all of them */
		bool over, failed;
	} scan;
	struct db *sweep_db; /* from the first deletion on */
	/* all at once */
	struct gc_bulk {
		enum {
			BULK_ASK,
			BULK_CHOOSE,
			BULK_BEGIN,
			BULK_KEEP,
			BULK_RESTORE,
			BULK_FILES,
			BULK_NOT, /* not worth it, or over */
		} stage;
		uint8_t *fate;	      /* per node: enum gc_fate, and what lies there */
		struct db_bulk *rows; /* the transaction; NULL: none is open */
		unsigned int emptied, tries;
		uint32_t node;
		size_t next; /* of the order: chosen, or moved, as far as this */
		bool direct; /* small files are deleted, not moved */
	} bulk;
};

/* gc.c */
/* A root from outside. Unlike a pin it keeps valid paths alone, no lock files beside them. */
void gc_root(struct gc *gc, const char *base);
void gc_note(struct gc *gc, uint64_t level, const char *fmt, ...) _printf_(3, 4);
void gc_tell_progress(struct gc *gc, bool now);
int gc_list(struct gc *gc, const char *name); /* told with the next flush */
int gc_list_flush(struct gc *gc);
void gc_step_later(struct gc *gc);
/* Ends the collection that runs; NULL: with success. */
void gc_end(struct gc *gc, const struct err *e);
bool gc_deletes(const struct gc *gc);
bool gc_has_digest(const struct gc *gc, const char *name);

/* Each step: GRAPH_MORE, 0 when the phase is over, or negative with a sentence; positive codes in
 * `e` are the client's. */
enum { GC_REFUSED = 2 };

/* gc_mark.c */
int gc_mark_begin(struct gc *gc, struct err *e);
int gc_order_begin(struct gc *gc, struct err *e);
int gc_order_step(struct gc *gc, uint64_t until_usec);
void gc_order_done(struct gc *gc);
int gc_check_wanted(struct gc *gc, struct err *e);

/* gc_age.c */
int gc_ages_begin(struct gc *gc, struct err *e);
int gc_ages_step(struct gc *gc, uint64_t until_usec, struct err *e);
bool gc_ages_any(const struct gc *gc); /* does age matter to this one? */
void gc_mark_recent(struct gc *gc);
/* What they have used, whom the tracer could not see in full. */
void gc_mark_used(struct gc *gc);
/* keep-size: how much may go at most. */
void gc_limit_size(struct gc *gc);
bool gc_oldest_first(const struct gc *gc);
void gc_heap_put(struct gc *gc, uint32_t v);
uint32_t gc_heap_take(struct gc *gc); /* n_heap > 0 */

/* gc_sweep.c */
int gc_sweep_round(struct gc *gc, uint64_t until_usec, struct err *e);
int gc_list_round(struct gc *gc, struct err *e);
bool gc_is_dead(const struct gc *gc, uint32_t v);
/* The parent of a directory that moves is written into it, which takes its owner. */
bool gc_is_movable(const struct gc *gc, const struct stat *st);
bool gc_may_go(struct gc *gc, uint32_t v); /* dead, and its files can be moved away */
/* The files of a path that is not valid any more. What cannot be moved is a leftover: the next add
 * of that path or the next collection tries again. */
int gc_throw(struct gc *gc, uint32_t v, enum trash_hint hint);

/* gc_scan.c: GRAPH_MORE, or 0 when it is over. */
int gc_scan_round(struct gc *gc, uint64_t until_usec);
void gc_scan_done(struct gc *gc);

/* gc_bulk.c: as much as pays to be done at once. 0 also when nothing does. */
int gc_bulk_round(struct gc *gc, uint64_t until_usec, struct err *e);
/* Rows are gone whose files are still there. */
bool gc_has_files(const struct gc *gc);
void gc_bulk_done(struct gc *gc);

/* gc_unknown.c */
int gc_unknown_round(struct gc *gc, uint64_t until_usec, struct err *e);

/* gc_links.c */
bool gc_links_any(const struct gc *gc);
int gc_links_start(struct gc *gc, struct err *e);
void gc_links_stop(struct gc *gc);

/* gc_known.c: takes what the tracer said of indirect links: pins what unreadable ones led to,
 * removes stale ones. GC_REFUSED when a link cannot be read and nothing is known of it. */
int gc_known_take(struct gc *gc, const struct traced *t, struct err *e);
void gc_known_free(struct gc *gc);
