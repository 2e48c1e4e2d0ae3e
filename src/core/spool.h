/* The spool: private directories on the store's own mount (rename must work from here into the
 * store), and in it the trash (trash.h).
 *
 *   <state>/airplant/spool when state and store lie on the same mount, else <store>/.airplant
 *     s-<n>/   one session      b-<n>/   one build      trash/<n>   to be deleted */
#pragma once

#include "base/err.h"

struct core;
struct spool;

/* Opens or makes it, moves leftovers of an earlier life into the trash. */
int spool_open(struct core *core, struct spool **ret, struct err *e);
void spool_close(struct spool *s);
/* A fresh 0700 directory: `kind` is 's' or 'b'. Gives its absolute path (heap) and a directory fd.
 */
int spool_make(struct spool *s, char kind, char **ret_path, int *ret_fd);
/* Moves a spool directory (by the path spool_make gave) to the trash. */
void spool_drop(struct spool *s, const char *path);
const char *spool_dir(const struct spool *s); /* absolute path */
