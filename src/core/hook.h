/* One run of a program that the administrator (or a trusted client) named: a process of its own
 * that nothing waits for but who is told here. Linked by the core. */
#pragma once

#include "base/err.h"
#include "ipc/build.h"

struct core;
struct hook;

struct hook_job {
	const char *program;
	struct strv args;	/* without argv[0] */
	struct build_pairs env; /* on top of the daemon's own environment */
	bool errors_apart;	/* standard error goes to the daemon's log */
};

/* `ended` is the last call; `error` is NULL when the program exited with 0. Never called from
 * within hook_start or hook_cancel. */
struct hook_events {
	void (*log)(void *ctx, uint64_t size);
	void (*ended)(void *ctx, const char *error);
};

/* 0, or a sentence. Nothing of `job` is needed after the call. */
int hook_start(struct core *core, const struct hook_job *job, const struct hook_events *ev,
	       void *ctx, struct hook **ret, struct err *e);
/* Ends the program. No event comes afterwards. */
void hook_cancel(struct hook *h);
/* A fresh read-only fd on what it printed, or -errno; also from within `ended`. */
int hook_log_fd(const struct hook *h);
uint64_t hook_log_size(const struct hook *h);
