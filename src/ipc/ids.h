/* The boundary between the core and the id broker: two fixed structures over SOCK_SEQPACKET.
 *
 * No uid, gid, count or path crosses from the core: it says "this process" with a pidfd and "this
 * lease" with the fd that it was given, and the broker chooses all numbers. libc alone; this
 * header is all the broker shares with others. */
#pragma once

#include <stdint.h>

enum { IDS_VERSION = 1 };

/* Ids of the kinds: how many a build may use. A slot has IDS_SLOT; IDS_RANGE4 takes four. */
enum { IDS_SLOT = 65536, IDS_SLOT4 = 4 * IDS_SLOT };

enum ids_kind {
	IDS_PLAIN = 1,	/* one id of a slot; setgroups stays allowed: builders drop the daemon's
			   groups */
	IDS_RANGE = 2,	/* a slot; as IDS_PLAIN */
	IDS_RANGE4 = 3, /* four slots; as IDS_RANGE */
	IDS_CLEAN = 4,	/* all ids of a slot that was not returned, to clean up with */
	IDS_RETURN = 5, /* no files or processes of this lease are left: its slot may be leased
			 * again. Without this it is quarantined, and IDS_CLEAN alone gets it */
};

/* core -> broker, with fds: a pidfd of a process that has just unshared its user namespace and
 * waits; for IDS_RETURN the lease instead; for IDS_CLEAN the pidfd and, if there is one, the lease
 * (else any quarantined slot is meant). */
struct ids_request {
	uint32_t version, kind;
};

enum ids_status {
	IDS_OK = 0,
	IDS_BUSY = 1,	 /* no slot is free: ask again when one is */
	IDS_REFUSED = 2, /* the process is not one that may get ids, the fd is no lease */
	IDS_NONE = 3,	 /* IDS_CLEAN: nothing is quarantined */
};

/* broker -> core, with exactly one fd when ids were mapped: the locked slot file. The slot is
 * leased until its last copy is closed. The maps read
 *   0 -> base (count ids), count -> the daemon's own id. */
struct ids_reply {
	uint32_t version, status;
	uint32_t base, count;
	char reason[112]; /* NUL-terminated, for the log */
};
