/* The goal graph of the whole machine: one goal per derivation, however many clients ask.
 *
 * A request names targets; each target is a goal that others may share. A goal nobody waits for
 * any more is dropped, and its build ended. Slots (max-jobs) are machine-wide; a request's own
 * lower max-jobs holds for the builds that only it waits for. */
#pragma once

#include "base/err.h"
#include "conf/conf.h"
#include "ipc/session.h"

struct core;
struct goal;
struct goals;
struct request;

/* What a request's owner is told. Fds stay the caller's (duplicate to keep). `built` is the last
 * call; the request is freed after it. */
struct request_events {
	void (*started)(void *ctx, uint64_t build, const char *drv, int log_fd, uint64_t size);
	void (*log)(void *ctx, uint64_t build, uint64_t size);
	void (*ended)(void *ctx, uint64_t build, uint64_t size, bool ok);
	void (*progress)(void *ctx, const struct session_progress *p);
	void (*note)(void *ctx, uint64_t level, const char *text);
	void (*built)(void *ctx, const struct session_built *b);
	/* A post-build-hook of this number has started; `log` and `ended` tell the rest. */
	void (*hook)(void *ctx, uint64_t build, const char *drv, const char *program, int log_fd);
};

struct goals *goals_new(struct core *core);
void goals_settings_changed(struct goals *g);
void goals_free(struct goals *g);
/* `settings` are the daemon's with the client's permitted overrides applied; copied. `owner_uid`
 * shares slots fairly between users; `trusted` as trust.h has it. Events may come before this
 * returns. 0, or an error that the client sees (then no event comes). */
int request_new(struct goals *g, const struct session_build *b, const struct settings *settings,
		uid_t owner_uid, bool trusted, const struct request_events *events, void *ctx,
		struct request **ret, struct err *e);
/* The same for a build that asks for builds while it runs (nest.h): with the settings, and for the user,
 * of who waits for it. */
int request_new_within(struct goal *outer, const struct session_build *b,
		       const struct request_events *events, void *ctx, struct request **ret,
		       struct err *e);
/* Nobody waits any more. No event comes afterwards. */
void request_cancel(struct request *r);
/* Every path that a request or a goal needs: targets, derivations, inputs, outputs. */
void goals_pins(struct goals *g, void (*pin)(void *ctx, const char *base), void *ctx);
/* Is there a request or a goal? */
bool goals_any(const struct goals *g);
/* There is space again: builds may start. */
void goals_resume(struct goals *g);
/* Ends all builds (daemon shutdown). */
void goals_shutdown(struct goals *g);
