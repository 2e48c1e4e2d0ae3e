/* Asking the tracer of roots (ipc/roots.h): over its socket, or by starting airplant-roots as our
 * own child where the whole store belongs to this user. The stream counts as hostile; it is read as
 * it comes, without blocking. Linked by the core. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/arena.h"
#include "base/err.h"

struct core;
struct tracer;

struct traced_root {
	const char *base, *what;
};
struct traced_link {
	const char *link, *target, *base; /* see ipc/roots.h */
	char state;			  /* enum roots_link_state */
	bool owner_known;
	uid_t owner;
};
/* A temporary root of a stock process: the path need not be there yet. */
bool tracer_is_temp(const char *what);
/* A complete answer. */
struct traced {
	struct arena arena;
	struct traced_root *roots;
	struct traced_link *links;
	uint32_t *partly; /* users whose processes were not all looked at in full */
	size_t n_roots, n_links, n_partly, cap_roots, cap_links, cap_partly;
	unsigned long long n_skipped; /* processes of others that were not looked at */
	bool own;		      /* by our own child */
};

/* `t` is NULL when there is no complete answer; `e` says why then. `t` lives until the callback
 * returns. Never called from within tracer_start. */
typedef void (*tracer_done)(void *ctx, struct traced *t, const struct err *e);

/* 0, or a sentence that says how to provide what is missing (`done` is not called then). */
int tracer_start(struct core *core, tracer_done done, void *ctx, struct tracer **ret,
		 struct err *e);
/* Nobody wants the answer any more. NULL is fine. */
void tracer_cancel(struct tracer *t);

/* A client of another user was served from this state directory: from now on only the privileged
 * tracer knows all roots. Remembered across restarts. */
void tracer_note_client(struct core *core, uid_t uid);
