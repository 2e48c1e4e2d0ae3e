/* The daemon inside one build (the feature recursive-nix): its socket, the sessions of who connects
 * there, and the set of paths that these may know of: the build's input closure, what they have
 * added, and what they had built, with all that refers to. Linked by airplantd.
 *
 * The socket names the build: nobody's uid is asked, since a builder's is a leased one. Its
 * sessions are nobody's whom the daemon trusts; session_nest.c says what they may ask for.
 *
 * Never: a path in the set that is not valid, pinned, and with its references in the set. */
#pragma once

#include <sys/types.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/strv.h"

struct core;
struct goal;
struct nest;
struct peer;

struct nest_input {
	struct core *core;
	const char *drv_base;
	const struct strv
		*closure;  /* base names of the build's inputs, sorted; stays the caller's */
	struct goal *goal; /* what is being built */
	uid_t uid;	   /* for whom */
	gid_t gid;
};

/* `ret_fds` become the caller's: the socket, which is to be bound and to listen, and the channel of
 * what shows paths to the builder. 0, or a sentence. */
int nest_new(const struct nest_input *in, struct nest **ret, int ret_fds[2], struct err *e);
/* The builder runs: who connects is served. */
void nest_open(struct nest *n);
/* The builder is dead, or not wanted any more: its sessions end, with all they wait for. The set
 * stays. */
void nest_close(struct nest *n);
void nest_free(struct nest *n); /* NULL is fine */

bool nest_allows(const struct nest *n, const char *base);
/* All of it, in no order; the names stay the set's. 0 or -ENOMEM. */
int nest_names(const struct nest *n, struct arena *a, struct strv *ret);
/* What came since the build was started. */
const struct strv *nest_added(const struct nest *n);
struct goal *nest_goal(const struct nest *n);
/* Every path of the set, for a collection (gc.h). */
void nest_pins(const struct nest *n, void (*pin)(void *ctx, const char *base), void *ctx);

/* `e` is NULL when the builder sees them now. */
typedef void (*nest_taken)(void *ctx, const struct err *e);
/* The paths, which are valid, and all that they refer to join the set. `done` is called once,
 * perhaps at once; when the nest is closed before, with an error. */
void nest_take(struct nest *n, const struct strv *paths, nest_taken done, void *ctx);

/* A session of the nest is gone. */
void nest_left(struct nest *n);
