/* Opening the store, its state directories and the database; noticing that they were deleted and
 * made anew under the running daemon (upstream's test suite does that, and people do). */
#pragma once

#include "base/err.h"

struct core;

/* Makes missing directories as upstream does and fills store_fd, db, spool, jail, durable and
 * identity. Everything must be closed (fresh, or after store_close). */
int store_open(struct core *core, struct err *e);
/* Closes what store_open opened. `clean`: flush first and note a clean stop. */
void store_close(struct core *core, bool clean);
/* 0: still the same store; 1: it is another one now (directories gone or replaced). */
int store_changed(const struct core *core);
/* The directory below the state directory that holds our own files, opened. fd or -errno. */
int store_own_dir(const struct core *core);
/* Takes the lock of the state directory: two daemons would both write its database as its only
 * writer. store_reopen does it too. */
int store_lock(struct core *core, struct err *e);
/* Makes the directories again that clients put their links into, when somebody deleted them, and
 * says it once when the store was taken away. */
void store_mend(struct core *core);
/* 0, or -EACCES and a sentence: the store is another's, and the daemon may not write to it. */
int store_check_owner(const struct core *core, struct err *e);
/* Reopens after store_changed: generation rises. */
int store_reopen(struct core *core, struct err *e);
