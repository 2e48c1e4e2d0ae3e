/* The core's side of ipc/build.h for tests: prepares a store and a scratch, starts a supervisor as
 * an ordinary user, maps ids for it as a broker would (that takes root), and collects what it says.
 */
#pragma once

#include <stdbool.h>

#include "ipc/build.h"

enum { PEER_UID = 65534, PEER_GID = 65534, PEER_BASE = 872415232 };
#define PEER_DRV     "00000000000000000000000000000000-test.drv"
#define PEER_OUT     "11111111111111111111111111111111-test"
#define PEER_DEV     "22222222222222222222222222222222-test-dev"
#define PEER_BUSYBOX "33333333333333333333333333333333-busybox"
#define PEER_FILE    "44444444444444444444444444444444-file"
#define PEER_LINK    "55555555555555555555555555555555-link"

struct peer {
	struct arena arena;
	struct build_start start; /* fill what differs from the default before peer_run */
	enum build_ids_mode mode;
	char *top, *store, *out; /* temporary directory, its store, and <scratch>/out */
	const char *program;	 /* the supervisor */
	/* knobs */
	int cancel_after_ms; /* -1: never */
	bool hang_up;	     /* instead of BUILD_CANCEL */
	bool kill;	     /* SIGKILL to the supervisor, likewise */
	/* results */
	struct build_end end;
	struct build_bye bye;
	struct build_running running;
	bool got_end, got_bye, got_running;
	int exit_status;
	char *log; /* whole log */
	size_t log_len;
	char *zlog;
	size_t zlog_len;
	double ms;     /* from spawn to exit */
	double ms_end; /* from spawn to BUILD_END */
	/* called between BUILD_END and BUILD_RELEASE, while the outputs lie in p->out */
	void (*inspect)(struct peer *p);
};

/* Makes store and scratch below a fresh directory of $TMPDIR or /tmp. A mode but single takes root.
 */
void peer_init(struct peer *p, enum build_ids_mode mode, const char *program);
/* A shell script as the builder. */
void peer_script(struct peer *p, const char *script);
void peer_env(struct peer *p, const char *name, const char *value);
void peer_inputs(struct peer *p, size_t n); /* adds n directories as inputs */
void peer_run(struct peer *p);
void peer_done(struct peer *p); /* removes everything */
