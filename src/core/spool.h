/* The spool: private directories on the store's own mount (rename must work from here into the
 * store), and in it the trash (trash.h).
 *
 *   <state>/airplant/spool when state and store lie on the same mount, else <store>/SPOOL_IN_STORE
 *     s-<n>/   one session      b-<n>/   one build      trash/<n>   to be deleted
 *     lost/<n>  a build's, whose supervisor did not delete it: files of its ids may be there */
#pragma once

#include <stdbool.h>

#include "base/err.h"

struct core;
struct spool;

/* A name that could be a store path's, and is none's. */
#define SPOOL_IN_STORE "a1rp1an0000000000000000000000000-airplant"

/* Opens or makes it, moves leftovers of sessions of an earlier life into the trash; those of builds
 * wait for spool_lose_leftovers(). */
int spool_open(struct core *core, struct spool **ret, struct err *e);
void spool_close(struct spool *s);
/* A fresh 0700 directory: `kind` is 's' or 'b'. Gives its absolute path (heap) and a directory fd.
 */
int spool_make(struct spool *s, char kind, char **ret_path, int *ret_fd);
/* Moves a spool directory (by the path spool_make gave) to the trash. */
void spool_drop(struct spool *s, const char *path);
/* Moves a build's directory to `lost`. 0 also when it is gone, or -errno: it is where it was. */
int spool_lose(struct spool *s, const char *path);
/* The same for those that were there when the spool was opened. */
int spool_lose_leftovers(struct spool *s);
/* Removes a build's directory unless something is in it: false. */
bool spool_remove_empty(struct spool *s, const char *path);
const char *spool_lost_dir(const struct spool *s); /* absolute path */
const char *spool_dir(const struct spool *s);	   /* absolute path */
