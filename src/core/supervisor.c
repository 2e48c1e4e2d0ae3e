/* See supervisor.h. */
#include "core/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/macro.h"
#include "core/core.h"
#include "core/spawn.h"
#include "ipc/build.h"

int supervisor_start(const struct core *core, const char *mode, const char *arg,
		     struct supervisor *ret, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	char *argv[] = { (char *)"airplant-build", (char *)mode, (char *)arg, NULL };
	char *envp[] = { NULL };
	struct supervisor s;
	int pair[2], r;

	if (asprintf(&path, "%s/airplant-build", core->libexec_dir) < 0) {
		path = NULL;
		return err_errno(e, -ENOMEM, "starting airplant-build");
	}
	r = chan_pair(pair);
	if (r < 0)
		return err_errno(e, r, "starting '%s'", path);
	s.chan = pair[0];
	r = spawn_child(&(struct spawn){ .path = path,
					 .argv = argv,
					 .envp = envp,
					 .fds = &pair[1],
					 .targets = (int[]){ BUILD_FD },
					 .n_fds = 1 },
			&s.pidfd, &s.pid);
	close(pair[1]);
	if (r < 0) {
		close(s.chan);
		return err_errno(e, r, "executing '%s'", path);
	}
	(void)fcntl(s.chan, F_SETFL, O_RDWR | O_NONBLOCK); /* cannot fail on a socket */
	*ret = s;
	return 0;
}
