/* airplantd --stdio: the far end of ssh-ng. Run by whoever logged in, it carries bytes between its
 * standard streams and the daemon's socket and understands none of them: the daemon takes the
 * caller for the user the kernel says it is. Linked by airplantd alone. */
#pragma once

#include "base/err.h"

/* Until either side is done. 0, or -errno with the reason in `e`. */
int relay_stdio(const char *socket_path, struct err *e);
