/* What the core has to tell one session: sent at once where the channel takes it, else kept in
 * order, with a limit. A peer that does not read costs itself, nobody else. */
#pragma once

#include "ipc/chan.h"

enum { OUTBOX_MAX_BYTES = 16 << 20, OUTBOX_MAX_MESSAGES = 4096, OUTBOX_ANSWER_MAX = 64 << 20 };

struct outmsg;

struct outbox {
	int fd; /* the channel; the owner's */
	struct outmsg *head, **tail;
	size_t bytes, n;
};

void outbox_init(struct outbox *o, int fd);
void outbox_done(struct outbox *o);
/* Sends or queues. `fd` (-1: none) stays the caller's. With `replace_key` not 0 a queued message of
 * this type and key is replaced: only the newest state counts (log sizes, progress).
 * 0; -ENOBUFS when the peer does not read; -EPIPE when it is gone; other -errno. */
int outbox_send(struct outbox *o, uint32_t type, uint32_t id, const struct layout *l,
		const void *record, int fd, uint64_t replace_key);
/* Sends what waits. 0 (perhaps not all: see outbox_waiting) or -errno. */
int outbox_flush(struct outbox *o);
static inline bool outbox_waiting(const struct outbox *o)
{
	return o->head;
}
