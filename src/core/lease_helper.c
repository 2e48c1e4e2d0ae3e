/* See lease_int.h. newgidmap and newuidmap ask the machine's user database, which may be somewhere
 * in a network: they have a minute each, and only the build that needs them waits. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "core/core.h"
#include "core/lease_int.h"
#include "core/spawn.h"

#define LIMIT_USEC (60ULL * 1000 * 1000)

static const char *const helpers[] = { "newgidmap", "newuidmap" };

static void kill_helper(const struct lease_call *c)
{
	(void)syscall(SYS_pidfd_send_signal, c->helper, SIGKILL, NULL, 0); /* gone is fine */
}

static void forget_helper(struct lease_call *c)
{
	loop_remove(c->watch);
	loop_timer_cancel(c->limit);
	c->watch = NULL;
	c->limit = NULL;
	close_fdp(&c->helper);
}

void helpers_stop(struct lease_call *c)
{
	if (c->helper < 0)
		return;
	kill_helper(c);
	(void)waitid(P_PIDFD, (id_t)c->helper, &(siginfo_t){}, WEXITED | WNOHANG);
	forget_helper(c);
}

static void failed(struct lease_call *c, int r, const char *what)
{
	_cleanup_err_ struct err e = {};

	(void)err_errno(&e, r, "'%s/%s' %s", subid_helpers(c->lease->subid), helpers[c->step],
			what);
	call_end(c, r, NULL, -1, &e);
}

static void on_limit(void *ctx)
{
	struct lease_call *c = ctx;

	c->limit = NULL;
	c->late = true;
	kill_helper(c);
}

static void on_end(void *ctx, uint32_t events)
{
	struct lease_call *c = ctx;
	siginfo_t si = {};

	(void)events;
	if (waitid(P_PIDFD, (id_t)c->helper, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
		return;
	forget_helper(c);
	if (si.si_code != CLD_EXITED || si.si_status != 0)
		failed(c, c->late ? -ETIMEDOUT : -EPERM,
		       "did not map ids for a build (see the log)");
	else if (++c->step < ELEMENTS(helpers))
		helpers_run(c, subid_helpers(c->lease->subid));
	else
		call_end(c, 0, &c->ids, TAKE_FD(c->lease_fd), NULL);
}

/* newuidmap PID 0 FIRST COUNT COUNT OWN 1; no environment. */
static int start(struct lease_call *c, const char *dir)
{
	bool gid = c->step == 0;
	const struct lease *l = c->lease;
	char path[96], pid[16], first[16], count[24], own[16];
	char *argv[] = { path, pid, (char *)"0", first, count, count, own, (char *)"1", NULL };
	char *envp[] = { NULL };
	pid_t child;
	int r;

	snprintf(path, sizeof(path), "%s/%s", dir, helpers[c->step]);
	snprintf(pid, sizeof(pid), "%d", c->pid);
	snprintf(first, sizeof(first), "%llu",
		 gid ? c->first_gid : (unsigned long long)c->ids.host_base);
	snprintf(count, sizeof(count), "%llu", (unsigned long long)c->ids.count);
	snprintf(own, sizeof(own), "%u", gid ? l->gid : l->uid);
	r = spawn_child(&(struct spawn){ .path = path, .argv = argv, .envp = envp }, &c->helper,
			&child);
	if (r < 0) {
		c->helper = -1;
		return r;
	}
	r = loop_add(l->core->loop, c->helper, EPOLLIN, on_end, c, &c->watch);
	if (r == 0)
		r = loop_timer(l->core->loop, LIMIT_USEC, on_limit, c, &c->limit);
	return r;
}

void helpers_run(struct lease_call *c, const char *dir)
{
	int r = start(c, dir);

	if (r < 0)
		failed(c, r, "cannot be started");
}
