/* The boundary between the core and the id broker: two fixed structures over SOCK_SEQPACKET.
 *
 * No uid, gid, count or path crosses from the core: it says "this process" with a pidfd, and
 * the broker chooses all numbers. libc alone; this header is all the broker shares with others. */
#pragma once

#include <stdint.h>

enum { IDS_VERSION = 1 };

enum ids_kind { IDS_PLAIN = 1 }; /* one id of a slot */

/* core -> broker, with exactly one fd: a pidfd of a process that has just unshared its user
 * namespace and waits. */
struct ids_request {
	uint32_t version, kind;
};

enum ids_status {
	IDS_OK = 0,
	IDS_BUSY = 1,	 /* all slots are leased: ask again when one is free */
	IDS_REFUSED = 2, /* the process is not one that may get ids */
};

/* broker -> core, with exactly one fd when status is IDS_OK: the locked slot file. The slot is
 * leased until its last copy is closed. The maps read
 *   0 -> base (count ids), count -> the daemon's own id. */
struct ids_reply {
	uint32_t version, status;
	uint32_t base, count;
	char reason[112]; /* NUL-terminated, for the log */
};
