/* The logs of running builds, on their way to the client as activities (feature row E13).
 *
 * A log is a file that the core owns and a supervisor writes; it is read up to the size that the
 * core announced, from its first byte, whenever this client joined. */
#pragma once

#include "session/session.h"

enum { LOG_LINE_MAX = 1 << 20, LOG_BUILDS_MAX = 4096, LOG_NESTED_MAX = 256 };

struct nested {
	uint64_t theirs, ours; /* ids of an activity that the builder opened */
};
struct running {
	uint64_t build, activity, offset;
	bool hook; /* a post-build-hook: its lines are plain text */
	int log;
	struct buf line;
	size_t column; /* where the next character goes: a carriage return sets it back */
	struct nested *nested;
	size_t n_nested;
};
struct build_logs {
	struct running *v;
	size_t n;
};

/* `log` is taken. `verb` is "building", "checking outputs of" … */
int logs_started(struct session *s, struct build_logs *l, const struct session_ev_build *ev,
		 const char *verb, int log);
/* The same for a post-build-hook. */
int logs_hook(struct session *s, struct build_logs *l, const struct session_ev_hook *ev, int log);
int logs_grown(struct session *s, struct build_logs *l, const struct session_ev_build *ev);
int logs_ended(struct session *s, struct build_logs *l, const struct session_ev_build *ev);
/* Stops what is still open. */
void logs_done(struct session *s, struct build_logs *l);
