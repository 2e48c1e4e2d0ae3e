/* Repairing: which valid paths are not what their hashes say, found by reading them. The core
 * believes a trusted client's session in that, and builds them again. Linked by airplant-session.
 */
#pragma once

#include "session/session.h"

struct repair {
	struct smap seen;   /* base name -> (void *)1 good, (void *)2 broken */
	struct strv broken; /* base names; the request's arena */
	struct strv more;   /* targets that have to be repaired as well: "<drv>!*" */
};

void repair_done(struct repair *r);
/* Is the path whole? 1 yes, 0 no, or an error. One that is not valid is not whole. */
int repair_is_whole(struct session *s, struct repair *r, const struct store_path *p, struct err *e);
/* The outputs of a derivation (none named: all): looks at them and, when they are whole, at all
 * they refer to, else at what they are built from. Tells the client what it finds. 0 or an error.
 */
int repair_scan(struct session *s, struct repair *r, const struct store_path *drv,
		const struct strv *wanted, bool all, struct err *e);
