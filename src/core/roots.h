/* Garbage collector roots: links in <state>/gcroots and <state>/profiles, and what sessions
 * hold. The daemon reads users' links, and never creates, changes or removes one in a home. */
#pragma once

#include "base/err.h"
#include "ipc/session.h"
#include "path/path.h"

struct core;

/* <state>/gcroots/auto/<base 32 sha1 of `path`> -> `path` (absolute). 0, or a positive code or
 * -errno with a sentence. */
int roots_add_indirect(struct core *core, const char *path, struct err *e);
/* A link at `link` to the store path, made by the daemon for a trusted client: directly in
 * <state>/gcroots or a directory there that exists, and nowhere else. It replaces a link into the
 * store, nothing else. */
int roots_add_perm(const char *store_dir, const char *state_dir, const char *link,
		   const struct store_path *target, struct err *e);
/* All roots that are valid paths. With `censor` the names of links are hidden. Everything is in
 * `a`. */
int roots_find(struct core *core, bool censor, struct arena *a, struct session_roots *ret,
	       struct err *e);
