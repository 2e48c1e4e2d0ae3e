/* What is different for a session whose client is a build. For other clients everything is allowed.
 */
#pragma once

#include "session/session.h"

struct op;

/* Runs an operation, or what stands for it. */
int nest_run(struct session *s, const struct op *op, struct err *e);
/* May the client know of it? 0, DB_ABSENT, or an error. Nothing is said of whether it is valid. */
int nest_allows(struct session *s, const struct store_path *p);
/* All that it may know of. */
int nest_all_paths(struct session *s, struct strv *ret);
/* Leaves out what depends on this machine's past. */
void nest_censor(struct wire_info *info);
