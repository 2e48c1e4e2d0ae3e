/* Slots whose build is over, until they are free again. Most are clean: their supervisor said so.
 * The others, of supervisors or daemons that were killed, are given to a process that deletes with
 * their ids (airplant-build clean), again and again, later each time, and stay leased meanwhile.
 *
 * The order is kept here and nowhere else: the processes and the cgroup (build_run.c), then the
 * files of a slot are gone; then it is returned. Linked by airplantd. */
#pragma once

#include <stddef.h>

struct core;
struct lease;
struct clean;

/* Begins with the slots that earlier lives left. `returned` is called when one is free. Both stay
 * the caller's. NULL: out of memory. */
struct clean *clean_new(struct core *core, struct lease *lease, void (*returned)(void *ctx),
			void *ctx);
/* What is not clean yet is left to the next life: the leases are dropped, not returned. */
void clean_free(struct clean *c);

/* The last process of the lease is dead, and its scratch has been deleted with all that was in it.
 * Takes the fd (-1 is fine). */
void clean_slot_done(struct clean *c, int lease_fd);
/* The last process of the lease is dead, but there may be files. `scratch` is the directory (as
 * spool_make gave it), or NULL where there is none any more. Takes the fd. */
void clean_slot(struct clean *c, int lease_fd, const char *scratch);
/* Something of the lease may still run, and cannot be ended. The next life of the daemon looks
 * after it. `scratch` as above. Takes the fd. */
void clean_slot_alive(struct clean *c, int lease_fd, const char *scratch);
/* A build waits for ids, and there are none: the slots that could not be cleaned are tried now, at
 * most every five seconds. */
void clean_hurry(struct clean *c);
/* How many slots could not be cleaned so far and are waiting for another try. */
size_t clean_stuck(const struct clean *c);
