/* Where a build's ids come from: the broker, newuidmap, or the daemon's own id. */
#pragma once

#include <stdbool.h>

#include "base/err.h"
#include "ipc/build.h"

struct core;
struct lease;

/* Decides as lease_setup() does, which then keeps to it. 0 or an error; logs nothing. */
int lease_probe(struct core *core, enum build_ids_mode *ret, struct err *e);
/* Decides by settings.ids ("auto": broker where its socket is, even if nobody answers now, else
 * subid where newuidmap and a grant in /etc/subuid and /etc/subgid exist, else single) and logs
 * which and why. */
int lease_setup(struct core *core, struct lease **ret, struct err *e);
/* Calls under way end without `done`; what they lease is quarantined. */
void lease_free(struct lease *l);
enum build_ids_mode lease_mode(const struct lease *l);

enum lease_kind {
	LEASE_PLAIN,  /* one id */
	LEASE_RANGE,  /* 65536 ids */
	LEASE_RANGE4, /* 262144 ids; setgroups is allowed in all three, to drop the daemon's groups
		       */
};

/* Are there ids of this kind here at all? */
bool lease_offers(const struct lease *l, enum lease_kind kind);

enum { LEASE_BUSY = 1, LEASE_NONE = 2 };

/* What is asked for here, others answer, who may take their time: nothing waits. */
struct lease_call;
struct lease_events {
	/* The end, also from within lease_map() and its like. `r`: 0, LEASE_BUSY, LEASE_NONE, or an
	 * error with a sentence. The fd (-1 where there is none) is the callee's. */
	void (*done)(void *ctx, int r, const struct build_ids *ids, int fd, const struct err *e);
	/* No answer for a while; it goes on. `whom`: "the id broker at '...'". Once at most; NULL
	 * is fine. */
	void (*late)(void *ctx, const char *whom);
};

/* Maps ids (0 to count - 1, and the daemon's own id as `count`) into the namespace of the process
 * behind `pidfd` (pid `pid`), which waits, and must not be reaped before the end. Gives the locked
 * slot (fd, -1 for single: then the process maps itself). LEASE_BUSY: no slot is free now.
 * -EOPNOTSUPP: there are not that many ids here at all, and the sentence says what to do about it.
 * *ret (and the ones below) is NULL again before `done`. */
void lease_map(struct lease *l, enum lease_kind kind, int pidfd, pid_t pid,
	       const struct lease_events *ev, void *ctx, struct lease_call **ret);
/* "No file, process or cgroup of this lease is left": its slot is free at the end. A slot whose fd
 * is closed without that is quarantined: no build gets it, across restarts of everything, until
 * lease_clean() and this. Takes the fd; with -1 it is the end at once. */
void lease_return(struct lease *l, int lease_fd, const struct lease_events *ev, void *ctx);
/* Maps all ids of a slot that was not returned, as lease_map() does, for a process that is to
 * delete what was left: of the slot whose lease `lease_fd` is (it stays the caller's; he is given
 * a copy), or with -1 of any quarantined one (LEASE_NONE: there is none). Processes may still run
 * under these ids. setgroups is denied. */
void lease_clean(struct lease *l, int lease_fd, int pidfd, pid_t pid, const struct lease_events *ev,
		 void *ctx, struct lease_call **ret);
/* True: nobody was asked yet, and there is no `done`. False: it is too late for that. */
bool lease_cancel(struct lease_call *c);
