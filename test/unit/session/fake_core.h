/* A core for tests of the session: it believes all it is told, renames what is added into the
 * store, and registers it. For `build` requests it plays the events that a test prepared. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct db;

struct fake_core {
	char dir[256]; /* holds store/, db/ and spool/ */
	const char *store_dir;
	bool trusted;
	const char *refuse_add; /* a sentence: every ADD fails with it */
	const char *build_log;	/* text of the log of a build; NULL: no build event at all */
	const char *build_error;
	bool build_hangs;   /* a build never ends */
	unsigned idle_msec; /* the socket's receive timeout, as the core sets one; 0: none */
	struct db *keep;
};

/* Makes the directories and an empty database. */
void fake_core_init(struct fake_core *f, const char *dir);
/* Serves one client: forks a core and a session. The client's end of the connection. */
int fake_core_connect(const struct fake_core *f, pid_t ret_pids[2]);
/* As above for a connection that exists: runs both, returns when the client has left. */
void fake_core_serve(const struct fake_core *f, int client);
