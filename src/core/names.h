/* What the system's user database says of a client: asked by processes of their own, so that a
 * directory server that does not answer for one client delays nobody else, and so that the modules
 * that speak with it (NSS) run outside of the core.
 *
 * A helper is this same program, told to be one. It answers one question at a time; there are as
 * many as there are slow questions, up to a limit. Answers are kept for some seconds,
 * or until the machine's own files of users change. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "core/loop.h"
#include "ipc/chan.h"

/* core -> helper: NAMES_ASK, struct names_question. helper -> core: NAMES_ANSWER, struct names. */
enum { NAMES_FD = 3, NAMES_ASK = 1, NAMES_ANSWER, NAMES_MSG_MAX = 1 << 20 };

struct names_question {
	uint64_t uid, gid;
	struct strv groups; /* those that the settings name */
};

struct names_group {
	uint64_t exists, gid;
	uint64_t lists_user; /* its list of members names the user */
};

struct names {
	uint64_t error;	      /* errno: the database could not be asked; the rest is void */
	char *user, *primary; /* of the uid, of the gid; the number when there is none */
	uint64_t owns_name;   /* the name leads back to this uid; false when there is none */
	struct {
		struct names_group *v;
		size_t n;
	} groups; /* one for each of the question, in its order */
	/* Filled by the asker, who knows them. */
	struct strv group_names;
};

extern const struct layout names_question_layout, names_layout;

/* names_look.c: asks, and waits. Strings are of the arena. 0 or -ENOMEM. */
int names_look(const struct names_question *q, struct arena *a, struct names *ret);
/* The helper's life: until fd NAMES_FD is closed. Seals itself. The exit status. */
int names_serve(void);
/* This argument makes airplantd one. */
#define NAMES_ARGUMENT "--look-up-names"

/* names.c. */
struct names_desk;

/* `wait_usec`: for an answer. */
struct names_desk *names_desk_new(struct loop *loop, uint64_t wait_usec);
enum { NAMES_WAIT_USEC = 15 * 1000 * 1000 };
/* Those who wait hear nothing. */
void names_desk_free(struct names_desk *d);
/* A helper is started before somebody waits for it. */
void names_desk_warm(struct names_desk *d);

/* `n` until the callback returns, or NULL and a sentence. */
typedef void names_fn(void *ctx, const struct names *n, const char *why);

/* Calls `fn` once, maybe before it returns. NULL never comes for want of memory alone: then it
 * returns -ENOMEM, or -EBUSY when too many wait, and `fn` is not called. */
int names_ask(struct names_desk *d, uid_t uid, gid_t gid, const struct strv *groups, names_fn *fn,
	      void *ctx);
/* Does the answer speak of all these groups? */
bool names_cover(const struct names *n, const struct strv *groups);
