/* Sessions: one airplant-session process per client, and warm spares so that nobody waits for a
 * start. What they may ask for is in ipc/session.h; it is answered in session_ops.c. */
#pragma once

#include "base/arena.h"
#include "base/err.h"
#include "core/trust.h"
#include "ipc/session.h"

/* What the handshake reports. Clients derive features from it; nothing may change it. */
#define AIRPLANT_PROTOCOL_VERSION_STRING "2.34.8"

struct core;
struct names_desk;
struct nest;
struct sessions;

struct sessions *sessions_new(struct core *core);
void sessions_free(struct sessions *ss);
/* Has spares started from now on. */
void sessions_warm(struct sessions *ss);
/* Gives the client to a session, soon for one who crashed too many. Takes fd and *peer over. */
void sessions_serve(struct sessions *ss, int fd, struct peer *peer);
/* `old` became core->settings: it is taken over, for those who are connected. */
void sessions_settings_changed(struct sessions *ss, struct names_desk *desk, struct settings *old);
/* The build is over (nest.h): so are its sessions. */
void sessions_end_nest(struct sessions *ss, const struct nest *n);
/* The store was reopened: spares belong to the old jail. */
void sessions_drop_spares(struct sessions *ss);
/* Ends all of them. */
void sessions_stop(struct sessions *ss);
/* Calls `fn` for each temp root of each session: base name, and the session's pid. */
int sessions_temp_roots(struct sessions *ss, int (*fn)(void *ctx, const char *base, pid_t pid),
			void *ctx);
/* There is space again: what they hold back goes on. */
void sessions_resume(struct sessions *ss);
/* db_on_blocked()'s: ends the session with this pid, if there is one. */
void sessions_end_blocker(void *core, pid_t pid);
/* Does any of them wait for a build? */
bool sessions_building(const struct sessions *ss);
