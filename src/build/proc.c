/* The builder's /proc: that of its own processes, and as little of the machine's as programs can do
 * with. Runs in the child before any foreign code does; the working directory is the new root.
 * Linked by airplant-build alone. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "build/supervisor.h"

static int set_attr(const char *path, uint64_t set)
{
	struct mount_attr attr = { .attr_set = set };

	return syscall(SYS_mount_setattr, AT_FDCWD, path, 0, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

/* What of /proc tells about the machine or changes it, as containers hide it: empty, or read-only.
 * The kernel refuses most of it to the builder already. And it lets nobody mount a /proc of his
 * own beside such a one, so it stays whole where builders may have sandboxes. */
int root_proc(const struct build *b, struct err *e)
{
	static const char *const hidden[] = {
		"proc/kallsyms",    "proc/kcore",	  "proc/keys",
		"proc/kmsg",	    "proc/key-users",	  "proc/latency_stats",
		"proc/sched_debug", "proc/sysrq-trigger", "proc/timer_list",
	};
	const uint64_t attrs = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	int r;

	if (mkdir("proc", 0555) < 0 ||
	    mount("none", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return err_errno(e, -errno, "mounting /proc");
	if (b->s.nested || is_range(b))
		return 0;
	for (size_t i = 0; i < ELEMENTS(hidden); i++) {
		r = mount("/dev/null", hidden[i], NULL, MS_BIND, NULL) < 0 ? -errno : 0;
		if (r == -ENOENT)
			continue; /* not every kernel has it */
		if (r == 0)
			r = set_attr(hidden[i], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
		if (r < 0)
			return err_errno(e, r, "hiding '/%s'", hidden[i]);
	}
	if (mount("proc/sys", "proc/sys", NULL, MS_BIND, NULL) < 0)
		return err_errno(e, -errno, "bind mount of '/proc/sys' failed");
	r = set_attr("proc/sys", attrs | MOUNT_ATTR_RDONLY);
	return r < 0 ? err_errno(e, r, "making '/proc/sys' read-only") : 0;
}
