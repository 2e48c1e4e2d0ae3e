/* Where a build's ids come from: the broker, newuidmap, or the daemon's own id. */
#pragma once

#include "base/err.h"
#include "ipc/build.h"

struct core;
struct lease;

/* Decides as lease_setup() does, which then keeps to it. 0 or an error; logs nothing. */
int lease_probe(struct core *core, enum build_ids_mode *ret, struct err *e);
/* Decides by settings.ids ("auto": broker where its socket is, even if nobody answers now, else
 * subid where newuidmap and a grant in /etc/subuid and /etc/subgid exist, else single) and logs
 * which and why. */
int lease_setup(struct core *core, struct lease **ret, struct err *e);
void lease_free(struct lease *l);
enum build_ids_mode lease_mode(const struct lease *l);

enum { LEASE_BUSY = 1 };
/* Maps ids into the namespace of the process behind `pidfd` (pid `pid`), which waits. Gives the
 * locked slot (fd, -1 for single: then the process maps itself). LEASE_BUSY: no slot is free now.
 */
int lease_map(struct lease *l, int pidfd, pid_t pid, struct build_ids *ret_ids, int *ret_fd,
	      struct err *e);
