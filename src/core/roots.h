/* Garbage collector roots: links in <state>/gcroots and <state>/profiles, and what sessions
 * hold. The daemon reads users' links, and never creates, changes or removes one in a home. */
#pragma once

#include "base/err.h"
#include "ipc/session.h"
#include "path/path.h"

struct core;

/* <state>/gcroots/auto/<base 32 sha1 of `path`> -> `path` (absolute), for somebody who holds `held`
 * (base names), and among them what `path` leads to. 0, or a positive code or -errno with a
 * sentence. */
int roots_add_indirect(struct core *core, const char *path, const struct smap *held, struct err *e);
/* A link at `link` to the store path, made by the daemon for a trusted client: directly in
 * <state>/gcroots or a directory there that exists, and nowhere else. It replaces a link into the
 * store, nothing else. */
int roots_add_perm(const char *store_dir, const char *state_dir, const char *link,
		   const struct store_path *target, struct err *e);
/* All roots that are valid paths: the tracer's, and what sessions hold. With `censor` the names of
 * links outside the state directory are hidden, except those of `uid`. `done` is called once, from
 * the loop; what it is given is gone afterwards. 0 or -ENOMEM. */
struct roots_query;
struct roots_finder;
typedef void (*roots_done)(void *ctx, const struct session_roots *roots);
int roots_find(struct core *core, uid_t uid, bool censor, roots_done done, void *ctx,
	       struct roots_query **ret);
void roots_forget(struct roots_query *q); /* `done` is not called; NULL is fine */
void roots_free(struct roots_finder *f);
