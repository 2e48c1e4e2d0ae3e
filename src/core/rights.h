/* Rights between none and trust: the setting `may`.
 *
 *   may   = entry *( ";" entry )
 *   entry = WHO right *( "," right )       WHO: as in trusted-users: a user, "@group" or "*"
 *   right = [ "not" ] NAME / "set" SETTING / "add-substituter" URL
 *
 * Entries hold in their order: what a later one says about a client wins. Who is trusted may do
 * everything, whatever stands here. All decisions about rights are the core's; sessions know the
 * client's to say early, in the right place, what will be refused. */
#pragma once

#include "base/err.h"
#include "base/strv.h"
#include "ipc/session.h"

struct names;
struct peer;

struct rights {
	uint64_t mask;		  /* enum session_right */
	struct strv set;	  /* settings that the client may override, besides upstream's */
	struct strv substituters; /* that it may name, besides the configured ones */
};

void rights_done(struct rights *r);
/* Is the setting well-formed? 0, or a sentence with -EINVAL. */
int rights_check(const char *may, struct err *e);
/* Whom the setting speaks of, as it is written there. Heap. 0 or -ENOMEM. */
int rights_who(const char *may, struct strv *ret);
/* What the setting says about this peer, whose name and trust are known. 0 or -ENOMEM. */
int rights_of(const char *may, const struct peer *p, const struct names *n, struct rights *ret);
