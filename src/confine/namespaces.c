/* Why this machine refuses a namespace, in words that say what to do. For processes that are about
 * to give up: nothing here confines anything. Linked by the core and by airplant-build. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/macro.h"
#include "confine/confine.h"

/* The number in a file of /proc/sys, or -1 where there is none. */
static long sysctl_value(const char *name)
{
	_cleanup_free_ char *text = NULL;
	char path[96];

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	if (read_file_at(AT_FDCWD, path, 64, &text, NULL) < 0)
		return -1;
	return strtol(text, NULL, 10);
}

static void explain(const char *kind, const char *limit_name, int error, char *ret, size_t size)
{
	/* Which number it is cannot be told: the sysctl shows the limit of one's own namespace. */
	if (error == ENOSPC || error == EUSERS)
		snprintf(ret, size, "the limit user.max_%s_namespaces is 0 or reached; raise it",
			 limit_name);
	else if (error == EINVAL || error == ENOSYS)
		snprintf(ret, size, "the kernel was built without %s namespaces", kind);
	else if (sysctl_value("kernel/unprivileged_userns_clone") == 0)
		snprintf(ret, size, "set kernel.unprivileged_userns_clone to 1");
	else if (sysctl_value("kernel/apparmor_restrict_unprivileged_userns") == 1)
		snprintf(
			ret, size,
			"AppArmor refuses them to programs without a profile; load Airplant's, "
			"airplant.apparmor, or set kernel.apparmor_restrict_unprivileged_userns to "
			"0");
	else
		snprintf(ret, size,
			 "a security module or the system call filter of a container refuses them");
}

void confine_explain_namespaces(int flags, char *ret, size_t size)
{
	static const struct {
		int flag;
		const char *kind, *limit;
	} kinds[] = {
		{ CLONE_NEWUSER, "user", "user" },	 { CLONE_NEWNET, "network", "net" },
		{ CLONE_NEWNS, "mount", "mnt" },	 { CLONE_NEWPID, "pid", "pid" },
		{ CLONE_NEWIPC, "ipc", "ipc" },		 { CLONE_NEWUTS, "uts", "uts" },
		{ CLONE_NEWCGROUP, "cgroup", "cgroup" },
	};
	char why[256];

	for (size_t i = 0; i < ELEMENTS(kinds); i++) {
		if (!(flags & kinds[i].flag) || unshare(kinds[i].flag) == 0)
			continue;
		explain(kinds[i].kind, kinds[i].limit, errno, why, sizeof(why));
		snprintf(ret, size, "this machine refuses %s namespaces (%s)", kinds[i].kind, why);
		return;
	}
	/* One by one they are given: what was refused was a step behind them. */
	snprintf(ret, size, "this machine refuses what goes with namespaces");
}
