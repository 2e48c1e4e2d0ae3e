/* What the files of the id broker share. Linked by airplant-ids alone.
 *
 * The broker holds CAP_SETUID and CAP_SETGID of the machine, so it does one thing: it writes the
 * id maps of a fresh user namespace. It never takes a number, a name or a path from its client,
 * never makes a process, and never changes its ids again once it has sealed itself. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "ipc/ids.h"
#include "slots/slots.h"

struct block {
	uint32_t start, count; /* ids handed out: start … start + count - 1 */
};

struct identity {
	uid_t uid;
	gid_t gid;
};

struct machine {
	int proc, fdinfo;	 /* /proc and /proc/self/fdinfo */
	uint64_t ns_dev, ns_ino; /* the broker's own user namespace */
	struct identity daemon;
};

struct broker {
	const char *socket, *daemon_user, *locks;
	struct block block;
	struct identity own;
	struct machine machine;
	struct slots slots;
	int listener, client;
};

/* start.c: everything up to the seal. */
int broker_start(struct broker *b, int argc, char **argv, struct err *e);

/* block.c. A sentence naming what the block collides with, when it does. Asks NSS. */
int block_check(const struct block *b, const struct identity *own, const struct identity *daemon,
		struct err *e);
/* The same for the processes that run now; those of leased and quarantined slots are known. */
int block_check_running(const struct block *b, const struct slots *s, struct err *e);

/* target.c. The process that is to get a map. */
struct target {
	int pidfd, uid_map, gid_map, setgroups;
};
#define TARGET_INIT ((struct target){ -1, -1, -1, -1 })

enum { REASON_MAX = sizeof(((struct ids_reply *)0)->reason) };

int machine_init(struct machine *m, struct err *e);
/* Checks that the process behind `pidfd` (taken over) may get a map; else the reason why not. */
bool target_open(const struct machine *m, int pidfd, struct target *ret, char reason[REASON_MAX]);
/* Maps 0 to `base` (`count` ids) and `count` to the daemon. When that fails, the process is dead.
 */
bool target_map(const struct machine *m, const struct target *t, uint32_t base, uint32_t count,
		bool setgroups, char reason[REASON_MAX]);
void target_kill(const struct target *t);
void target_done(struct target *t);
