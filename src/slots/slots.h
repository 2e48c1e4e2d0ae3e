/* Slots of ids: which are free, which are leased, and which somebody has to clean up after.
 *
 * A slot is a file. Locked (flock), it is leased: whoever holds a copy of the fd holds the lease,
 * and the kernel ends it with the last copy. Marked (its first byte), it may have left files and
 * processes behind: the mark is set before a slot is handed out and taken away by slots_return()
 * alone. Unlocked and marked is therefore what a kill -9 leaves, at whatever moment and of
 * whomever: such a slot is quarantined, and only slots_stale() gives it out, to be cleaned.
 *
 * libc and libbase alone; linked by the broker, and by the core for the ids of /etc/subuid. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

enum {
	SLOTS_MAX = 4096,
	SLOTS_WIDE = 4, /* a wide lease: so many slots, the first a multiple of it */
};

struct slots {
	int dir;
	uint32_t base, ids, n;	   /* slot i: the ids from base + i * ids, `ids` of them */
	uint32_t order[SLOTS_MAX]; /* slot numbers, the longest unused first */
	ino_t inode[SLOTS_MAX];
};

/* What one lease is of. */
struct slot {
	uint32_t number, width; /* width: 1, or SLOTS_WIDE */
	int fd;			/* holds the lock */
};

/* `dir` is taken over. Slot files are named after their first id, so that a block that was moved
 * finds the marks of its ids, and no others. The files are made, or checked to be this user's own
 * and nobody else's to open. 0 or an error. */
int slots_open(struct slots *s, int dir, uint32_t base, uint32_t ids, uint32_t n, struct err *e);
/* A free slot in which `used` ids are about to be used: unlocked, without a mark, and no process
 * on this machine has one of these as its uid. Marks it. -EBUSY when there is none; -errno. */
int slots_take(struct slots *s, uint32_t width, uint32_t used, struct slot *ret);
/* Is it leased or quarantined, so that something may well use its ids? */
bool slots_known(const struct slots *s, uint32_t slot);
/* A quarantined slot, now locked; -ENOENT when there is none. The one that failed last comes last.
 */
int slots_stale(struct slots *s, struct slot *ret);
/* Which leased slot an fd is; ret->fd is not set. -EPERM: it is none of ours, is not leased, or
 * another fd holds its lock. */
int slots_find(const struct slots *s, int fd, struct slot *ret);
/* Takes the mark away: what was left behind in the slot of `fd` is gone. Free with the last copy
 * of the fd. As slots_find(), and -errno. */
int slots_return(struct slots *s, int fd);

static inline uint32_t slot_first_id(const struct slots *s, const struct slot *slot)
{
	return s->base + slot->number * s->ids;
}
