/* What the files of the goal graph share; goals.h is the outside.
 *
 *   goals.c         requests in, answers out, the work of one round
 *   goals_graph.c   goals, which needs which, who waits for which
 *   goals_step.c    what a goal does next, and its end
 *   goals_run.c     the build of a goal that has a slot
 *   goals_given.c   derivations that came with the request
 *   goals_inputs.c  what a goal needs first
 *   goals_resolve.c derivations whose inputs' paths only a build tells
 *   goals_hook.c    programs of the administrator's before and after a build
 *   goals_lock.c    locks that others may have on outputs
 *   goals_slot.c    which build starts when a slot is free
 *   goals_nest.c    requests from within a build
 *   goals_report.c  sentences and events
 *
 * A goal is one derivation to build (or to build again, for --check). An edge says that one goal
 * needs another; an interest says that a request waits for a goal, directly or through others.
 * Interests are explicit, so that an event reaches exactly who waits without walking the graph, and
 * a goal without any is dropped at once.
 *
 * Nothing is freed while a round runs: what is over is put on a list and swept at its end. */
#pragma once

#include <stdbool.h>

#include "base/strv.h"
#include "core/build_run.h"
#include "core/core.h"
#include "core/drv_opts.h"
#include "core/goals.h"
#include "core/path_lock.h"
#include "drv/drv.h"

enum { GOAL_MEMORY = 512 << 20 }; /* a .drv of DRV_MAX bytes, parsed */

enum goal_state {
	GOAL_NEW,     /* nothing known yet: in the queue */
	GOAL_WAITING, /* for other goals */
	GOAL_READY,   /* for a slot */
	GOAL_RUNNING, /* has one */
	GOAL_HOOK,    /* was built and recorded, gave its slot back: a post-build-hook runs */
	GOAL_DONE,    /* over, or dropped: about to be freed */
};

struct edge {
	struct goal *up, *down;		     /* `up` needs `down` */
	struct edge *next_down, **link_down; /* in up->needs */
	struct edge *next_up, **link_up;     /* in down->needed_by */
};

struct interest {
	struct goal *goal;
	struct request *request;
	struct target *targets; /* those of the request that are this goal */
	struct interest *next_of_goal, **link_of_goal;
	struct interest *next_of_request, **link_of_request;
};

struct limits {
	uint64_t timeout, silence, log; /* seconds, seconds, bytes; 0: none */
};

/* What an impure input gave is written down nowhere else. */
struct gift {
	struct gift *next;
	char *drv, *output, *path; /* base names */
};

/* A derivation that need not be in the store. */
struct given {
	struct drv drv;
	char *text;
};

struct goal {
	struct goals *goals;
	char *key; /* of goals->by_key */
	struct store_path drv_path;
	char *given; /* the derivation's text, which then is not read from the store; or NULL */
	bool check, repair;
	enum goal_state state;
	struct arena arena;
	struct drv drv;
	struct drv_opts opts;
	bool loaded;  /* drv and opts are good */
	bool counted; /* known to need a build: in the requests' `expected` */
	struct edge *needs, *needed_by;
	size_t n_waiting, n_failed;
	struct interest *interests;
	bool queued;
	struct goal *next_queued, *next_dead;
	/* GOAL_READY and GOAL_RUNNING: whose slot it takes */
	struct request *payer;
	struct goal *next_ready, **link_ready;
	/* GOAL_RUNNING (and until it is over): its outputs' */
	struct path_locks locks;
	struct loop_timer *lock_timer; /* GOAL_WAITING: somebody else has one */
	bool noted_lock;
	/* GOAL_RUNNING */
	struct build_run *run;
	struct limits limits; /* the run's; one of a request that asked for them */
	bool again; /* an earlier run was ended by limits that not all who wait have asked for */
	uint64_t build; /* number in events */
	bool started;	/* listeners know it */
	bool ended_well; /* and that */
	uint64_t log_size;
	bool has_asked; /* for builds of its own */
	bool lent; /* it waits for builds of its own, and has no slot meanwhile (goals_nest.c) */
	/* goals_hook.c: one that runs, before or after the build */
	struct hook *hook;
	const char *hook_program;
	uint64_t hook_build;	     /* number in events */
	struct strv hooks_done;	     /* programs of post-build-hook */
	struct strv extra_paths;     /* sandbox paths that a pre-build-hook has added; the arena's */
	bool prepared;		     /* there is no pre-build-hook, or it has ended */
	/* Resolving (goals_resolve.c): the derivation that it came down to, and how that one ended;
	 * what impure inputs gave; what it made itself, when that is written down nowhere. */
	struct store_path resolved;
	bool is_resolved;
	uint64_t resolved_status;
	struct gift *gifts;
	struct {
		struct drv_row *v;
		size_t n;
	} made;
	/* the result */
	uint64_t status;
	uint64_t start_time, stop_time; /* seconds since the epoch */
	uint64_t started_usec;		/* of the monotonic clock */
	bool cpu_known;
	uint64_t cpu_user_usec, cpu_system_usec;
	/* search marks of goals_report.c */
	uint64_t mark;
	struct goal *via;
};

struct target {
	char *text; /* as asked */
	struct store_path path;
	bool is_drv;	    /* outputs of a .drv; else the path itself */
	struct strv wanted; /* output names; empty: all */
	const struct given *given; /* or NULL */
	/* Derivations that are outputs: `path` gets the next one when the output
	 * chain.v[n_followed] of it is there. */
	struct strv chain;
	size_t n_followed;
	bool follows; /* it is there */
	struct target *next_of_interest;
	bool done;
	uint64_t status;
	char *error; /* heap, or NULL */
	/* Outputs that are written down nowhere; else the database is asked. */
	struct {
		struct drv_row *v;
		size_t n;
	} made;
	uint64_t times_built, start_time, stop_time;
	bool cpu_known;
	uint64_t cpu_user_usec, cpu_system_usec;
};

struct owner {
	uid_t uid;
	size_t n_requests, running;
	uint64_t last_turn;
	struct owner *next;
};

struct request {
	struct goals *goals;
	struct request *next, **link;
	struct request_events ev;
	void *ctx;
	struct settings settings;
	struct owner *owner;
	bool check, repair, with_results, trusted, begun, over, dead;
	struct goal *outer; /* the build from within which it comes, or NULL */
	unsigned int depth; /* how many builds it is in */
	uint64_t told;	    /* mark of goals_nest.c */
	struct strv broken; /* its entries of goals->broken */
	bool follows; /* one of its targets does */
	struct arena arena;
	struct {
		struct target *v;
		size_t n, left;
	} targets;
	struct interest *interests;
	struct session_progress progress;
	bool progress_due;
	/* slots */
	struct goal *ready, **ready_end; /* goals that this request pays for */
	size_t running;			 /* builds that it pays for */
	uint64_t last_turn;
};

struct goals {
	struct core *core;
	struct runs *runs;
	struct smap by_key;
	struct smap broken; /* base names that a repair must make anew though they are valid */
	struct goal *queue, **queue_end, *dead;
	struct request *requests;
	struct owner *owners;
	size_t running;
	uint64_t processors;
	size_t n_lent; /* goals without a slot that run all the same */
	uint64_t cap; /* slots, with what the present requests ask for */
	uint64_t next_build, turn, epoch;
	size_t n_lock_timers;
	bool due;      /* goals_work is on its way */
	bool in_round; /* or running */
	bool stopping;
};

/* goals.c */
void goals_kick(struct goals *g); /* something changed: goals_work at the end of this loop round */
void target_done(struct request *r, struct target *t, uint64_t status, const char *error);
int request_make(struct goals *g, const struct session_build *b, const struct settings *settings,
		 uid_t owner_uid, bool trusted, struct goal *outer,
		 const struct request_events *events, void *ctx, struct request **ret,
		 struct err *e);

/* goals_pins.c: to a collection that runs */
void pin_target(struct goals *g, const struct target *t);
void pin_goal(struct goal *g);

/* goals_graph.c */
/* `mode`: enum session_build_mode. NULL: ENOMEM. */
struct goal *goal_get(struct goals *g, const struct store_path *drv, uint64_t mode);
uint64_t goal_mode(const struct goal *g);
/* The same for a derivation whose text came with a request (NULL: is in the store). */
struct goal *goal_get_given(struct goals *g, const struct store_path *drv, uint64_t mode,
			    const char *text);
/* `t` may be NULL. The request now waits for the goal and all it needs. 0 or -ENOMEM. */
int interest_add(struct request *r, struct goal *g, struct target *t);
void interest_free(struct interest *i);
void interests_drop_all(struct request *r);
struct interest *interest_find(const struct goal *g, const struct request *r);
void edge_free(struct edge *e);
void goal_push(struct goal *g);
/* Leaves the graph; the memory goes at the end of the round. */
void goal_retire(struct goal *g);
void goals_sweep(struct goals *g);
/* The goal, and all who wait for it, now wait for `dep` too. 0 or -ENOMEM. */
int goal_need(struct goal *g, struct goal *dep);

/* goals_step.c */
void goal_step(struct goal *g);
void goal_done(struct goal *g, bool ok, uint64_t status, const char *error);
void goal_fail(struct goal *g, uint64_t status, const struct err *e);
/* The goal is over for one request, whose interest ends. `alone`: others still wait for it, so that
 * no goal above it can fail for this request's sake; the request is over, keep-going or not. */
void interest_done(struct interest *i, bool was_running, bool ok, uint64_t status,
		   const char *error, bool alone);
/* Gives its slot back, and is not to be dropped while it is told. */
void goal_stand(struct goal *g);
/* Are all outputs there, and what does that mean in this mode? True when the goal is over. */
bool goal_settled(struct goal *g);
/* 0: all wanted outputs (none named: all there are) are valid (and, to repair, not broken); 1: not, or not known beforehand;
 * DB_ABSENT is not returned. -errno. */
enum { OUTPUTS_VALID = 0, OUTPUTS_MISSING = 1, OUTPUTS_NO_DRV = 2, OUTPUTS_NO_SUCH = 3 };
int outputs_valid(struct goals *g, const struct store_path *drv, const struct strv *wanted,
		  bool repair, const char **ret_unknown);

/* The same for all outputs of a derivation that came with a request. */
int outputs_valid_of(struct goals *g, const struct drv *d, bool repair);

/* goals_inputs.c: 0, or a sentence and as code a build status or -errno. */
int goal_check_sources(const struct goal *g, struct err *e);
/* Goals for the inputs that are not there, as far as it is known which those are. */
int goal_add_inputs(struct goal *g, struct err *e);

/* goals_given.c: the request's one target is this derivation. `believed`: its output paths need no
 * proof. 0 or a sentence. */
int given_take(struct request *r, const char *text, bool believed, struct err *e);

/* goals_hook.c */
/* The goal was built: true when a post-build-hook runs, and goal_hooked comes later. */
bool goal_post_hook(struct goal *g);
/* It has a slot: true when a pre-build-hook runs, and goal_prepared comes later; or a sentence in
 * `e`, with a negative code. */
bool goal_pre_hook(struct goal *g, struct err *e);
void goal_drop_hook(struct goal *g);
/* Is that the post-build-hook of the request (NULL: has it one), which still waits? */
bool wants_hook(const struct request *r, const char *program);
/* goals_run.c */
void goal_hooked(struct goal *g);
void goal_prepared(struct goal *g, const char *error);

/* goals_resolve.c */
/* The path of a .drv with this text. */
int drv_text_path(const char *store_dir, const struct drv *d, const struct buf *text,
		  struct store_path *ret, struct err *e);
void goal_resolve(struct goal *g);  /* its inputs are there */
void goal_resolved(struct goal *g); /* the resolved derivation's outputs are */
int goal_give(struct goal *to, const struct goal *from);
bool goal_was_given(const struct goal *g, const struct store_path *drv);
int goal_note_made(struct goal *g, const struct drv_row *v, size_t n);
/* The path of an output of `drv`, as far as this goal knows. 0, a sentence, -errno. */
int goal_output_of(struct goal *g, const struct store_path *drv, const char *output,
		   struct store_path *ret, struct err *e);

/* goals_lock.c: a goal that is about to start. True when it has its locks; else it waits for them, or
 * there is a sentence in `e`, with a negative code. */
bool goal_lock(struct goal *g, struct err *e);
void goal_unlock(struct goal *g); /* and waits for none any more */

/* goals_load.c: reads and checks the .drv. 0, or a sentence and as code a build status. */
int goal_load(struct goal *g, struct err *e);

/* goals_slot.c */
void slots_recount(struct goals *g);
void goal_ready(struct goal *g);   /* waits for a slot from now on */
void goal_unready(struct goal *g); /* does not any more */
void slot_taken(struct goal *g);
void slot_free(struct goal *g);
void slots_fill(struct goals *g);		       /* starts what may start */
/* Do the settings of the request (a trusted client may say more than the daemon) name it? */
bool request_has_platform(const struct request *r, const struct goal *g);
void goal_repay(struct goal *g, struct request *gone); /* the payer is gone */
bool request_is_at_limit(const struct request *r);
void goal_start(struct goal *g); /* goals_run.c */

/* goals_nest.c */
/* Would the request's outer build then wait for itself? */
bool request_closes_circle(const struct request *r, struct goal *g);
void request_fail_circle(struct request *r);
/* Builds that wait no longer have their slots again, where there are some. */
void slots_give_back(struct goals *g);
/* Has the build that hears it a slot? */
bool request_may_be_told(const struct request *r);
void goal_unlend(struct goal *g);	 /* it has no slot to give back */
void goal_forget_nested(struct goal *g); /* it leaves the graph */
typedef void (*listener_fn)(struct request *r, const struct goal *g);
/* Calls it for each client that waits for the goal, also through builds that asked for it; or for those
 * who do so by one new interest. */
void goal_tell(struct goal *g, listener_fn fn);
void goal_tell_joined(struct goal *g, const struct interest *joined, listener_fn fn);

/* goals_report.c */
char *text_no_derivation(const struct request *r, const struct target *t);
char *text_dependency_failed(const struct goal *g, size_t n_failed); /* heap; NULL: ENOMEM */
/* Upstream's reason why this machine may not build it, or NULL. */
char *text_rejected(const struct goal *g, bool no_jobs);
void note_error(struct request *r, const char *sentence);
/* Without keep-going: the request is over because `failed` is. The chain from it up to a target is
 * told as if each goal on it had failed by its one dependency: what upstream does when it drops the
 * rest. */
void request_give_up(struct request *r, struct goal *failed);
void report_hook(struct goal *g);
void report_hook_log(struct goal *g, uint64_t size);
void report_hook_ended(struct goal *g, uint64_t size, bool ok);
void report_started(struct goal *g, struct interest *only);
void report_log(struct goal *g);
void report_note(struct goal *g, uint64_t level, const char *text);
void report_ended(struct goal *g, bool ok);
void report_progress(struct request *r);
void report_built(struct request *r);
