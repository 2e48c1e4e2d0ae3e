/* Messages between our own processes over a SOCK_SEQPACKET socket pair, with fds.
 *
 *   message = u32 type, u32 id, u32 length, u32 flags, payload[length]
 *
 * Payloads up to CHAN_INLINE bytes travel in the message; larger ones in a sealed memfd that is
 * the first fd (flag CHAN_SPILLED), up to the receiver's limit. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/record.h"

enum { CHAN_INLINE = 32 * 1024, CHAN_MAX_FDS = 8 };

struct msg {
	uint32_t type, id;
	uint8_t *data; /* heap; NUL is not appended */
	size_t len;
	int fds[CHAN_MAX_FDS];
	size_t n_fds;
};

#define MSG_INIT      ((struct msg){ .n_fds = 0 })
#define _cleanup_msg_ _cleanup_(msg_done)

/* Frees the payload and closes the fds that were not taken (set to -1). */
void msg_done(struct msg *m);

/* A connected pair, close-on-exec. Buffers are enlarged to what the kernel allows. 0 or -errno. */
int chan_pair(int ret[2]);

/* 0; -EAGAIN when the socket is non-blocking and full (nothing was sent); -EPIPE when the peer is
 * gone; other -errno. Never raises SIGPIPE. The caller keeps its fds. */
int chan_send(int fd, uint32_t type, uint32_t id, const void *data, size_t len, const int *fds,
	      size_t n_fds);

enum { CHAN_EOF = 1, CHAN_BAD = 2 };
/* Receives one message of at most `max` bytes payload. 0; -EAGAIN; CHAN_EOF when the peer closed;
 * CHAN_BAD when what came is not a message (short, truncated fds, over the limit, unsealed memfd).
 */
int chan_recv(int fd, size_t max, struct msg *ret);

/* record_encode and chan_send in one. */
int chan_send_record(int fd, uint32_t type, uint32_t id, const struct layout *l, const void *record,
		     const int *fds, size_t n_fds);
/* record_decode of a message's payload. */
int msg_decode(const struct msg *m, const struct layout *l, struct arena *a, void *ret);
