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

enum {
	SLOT_IDS = 65536, /* a slot's width; a plain build uses the first id of its slot */
	SLOTS_MAX = 4096,
	REASON_MAX = 112, /* struct ids_reply.reason */
};

struct block {
	uint32_t start, count; /* ids handed out: start … start + count - 1 */
};

struct identity {
	uid_t uid;
	gid_t gid;
};

/* block.c. A sentence naming what the block collides with, when it does. Asks NSS. */
int block_check(const struct block *b, const struct identity *own, const struct identity *daemon,
		struct err *e);

/* slots.c. A slot is a file that is locked while it is leased. */
struct slots {
	int dir;
	uint32_t n;
	uint32_t order[SLOTS_MAX]; /* slot numbers, the longest unused first */
};

int slots_open(struct slots *s, const char *path, uint32_t n, struct err *e);
/* The number of a slot that was free, and the fd that holds its lock; -EBUSY, or -errno. */
int slots_take(struct slots *s, uint32_t *ret_slot, int *ret_fd);

/* target.c. The process that is to get a map. */
struct target {
	int pidfd, uid_map, gid_map, setgroups;
};
#define TARGET_INIT ((struct target){ -1, -1, -1, -1 })

struct machine {
	int proc, fdinfo;	 /* /proc and /proc/self/fdinfo */
	uint64_t ns_dev, ns_ino; /* the broker's own user namespace */
	struct identity daemon;
};

int machine_init(struct machine *m, struct err *e);
/* Checks that the process behind `pidfd` (taken over) may get a map; else the reason why not. */
bool target_open(const struct machine *m, int pidfd, struct target *ret, char reason[REASON_MAX]);
/* Maps 0 to `base` and 1 to the daemon. When that fails, the process is dead. */
bool target_map(const struct machine *m, const struct target *t, uint32_t base,
		char reason[REASON_MAX]);
void target_kill(const struct target *t);
void target_done(struct target *t);
