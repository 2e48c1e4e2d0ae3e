/* One session as the core sees it. Shared by sessions.c (its life), session_ops.c (its requests)
 * and session_build.c (its builds). */
#pragma once

#include "core/accounts.h"
#include "core/core.h"
#include "core/goals.h"
#include "core/outbox.h"
#include "core/place.h"
#include "core/sessions.h"

struct gc_request;
struct kept_settings;
struct roots_query;

struct session {
	struct sessions *all;
	struct session *prev, *next;
	unsigned int refs; /* the list, while the process lives; requests on their way */
	bool spare;	   /* waits for a client, and is counted so */
	bool assigned;	   /* has a client */
	bool stopped;	   /* the channel is closed, the process told to go */
	bool blocked;	   /* it locked the database, and was killed */
	bool doomed;	   /* will be stopped at the end of the round */
	pid_t pid;
	int pidfd, chan;
	struct loop_fd *pid_watch, *chan_watch;
	struct outbox out;
	char *spool_path;
	int spool_fd;
	uint64_t generation;
	struct peer peer;
	struct msg held;    /* an add that waits for space; nothing else is read until then */
	struct kept_settings *kept; /* the daemon's when it began; NULL: they are the same still */
	struct msg options; /* the last SESSION_OPTIONS; applied when a build starts */
	struct smap temp_roots;
	bool building;
	struct request *request;
	uint32_t build_id; /* of the SESSION_BUILD message */
	struct gc_request *gc;
	struct roots_query *roots;
	struct optimise_job *optimising;
	uint32_t optimise_id;
	uint32_t roots_id;
	uint32_t gc_id; /* of the SESSION_COLLECT message */
};

struct sessions {
	struct core *core;
	struct session *list;
	struct accounts accounts;
	struct waiting *waiting; /* clients that have to wait for their session */
	size_t n_spares;
	bool warm, refilling;
};

static inline bool session_may(const struct session *s, enum session_right right)
{
	return s->peer.rights.mask & right;
}

void session_ref(struct session *s);
void session_unref(struct session *s);
/* Sends to the session; one that does not read, or is gone, is stopped soon. */
void session_send(struct session *s, uint32_t type, uint32_t id, const struct layout *l,
		  const void *record, int fd, uint64_t replace_key);
/* Its end comes when the round is over. */
void session_doom(struct session *s);
/* The session said something it must not: one log line, and its end (after this round). */
void session_misbehaves(struct session *s, const char *what);

/* Answers one message. */
void session_dispatch(struct session *s, struct msg *m);

/* A path that the client may use from now on. 0, -ENOBUFS or -ENOMEM. */
int session_temp_root(struct session *s, const char *base);
/* sessions_reload.c */
const struct settings *session_daemon_settings(const struct session *s);
void session_let_settings_go(struct session *s);
/* These with what the client may override. 0 or -ENOMEM. */
int session_settings(struct session *s, struct settings *ret);

/* session_keys.c: a trusted client's own settings make it believe in all of these. */
bool session_vouches(struct session *s, const struct staged *v, size_t n);

/* session_nest.c: what is different for a session of a build (peer.nested). */
/* May it send this at all? */
bool session_nest_may(uint32_t type);
void session_nest_allowed(struct session *s, uint32_t id, const struct session_texts *t);
void session_nest_ensure(struct session *s, uint32_t id, const struct store_path *path);
/* Does it know of all that these refer to? 0, or a sentence. */
int session_nest_knows(struct session *s, const struct session_add *add, struct err *e);
/* They are added: answers when the builder sees them. */
void session_nest_added(struct session *s, uint32_t id, const struct strv *paths);
/* 0, or a sentence why this may not be built. */
int session_nest_may_build(struct session *s, const struct session_build *b, struct err *e);
/* It was built: answers when the builder sees it. */
void session_nest_built(struct session *s, const struct session_built *b);

/* SESSION_COLLECT and SESSION_FIND_ROOTS, and their end. */
void session_collect(struct session *s, uint32_t id, const struct session_collect *c);
void session_find_roots(struct session *s, uint32_t id);
void session_gc_cancel(struct session *s);

/* SESSION_OPTIMISE and its end. */
void session_optimise(struct session *s, uint32_t id);
void session_optimise_cancel(struct session *s);

/* SESSION_BUILD and its end. */
void session_build(struct session *s, uint32_t id, const struct session_build *b);
void session_build_cancel(struct session *s);
