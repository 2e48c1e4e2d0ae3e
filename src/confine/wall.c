/* Landlock, a second wall: of the file system a process reaches by path what its profile names, and
 * no abstract socket or, where the profile says so, process outside. On kernels without it the
 * namespaces and the filter stand alone. libc alone; called by seal.c between no_new_privs and the
 * filter.
 *
 * The core has none: children inherit it, and within it nobody may mount. Nor have the broker and
 * the tracer: whoever is within it may not look into processes that are not, and that is their
 * work. The numbers are the kernel's; its header may be older than the kernel. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/fd.h"
#include "confine/profiles.h"

enum {
	FS_EXECUTE = 1 << 0,
	FS_WRITE_FILE = 1 << 1,
	FS_READ_FILE = 1 << 2,
	FS_READ_DIR = 1 << 3,
	FS_REMOVE_DIR = 1 << 4,
	FS_REMOVE_FILE = 1 << 5,
	FS_MAKE_DIR = 1 << 7,
	FS_MAKE_REG = 1 << 8,
	FS_MAKE_SYM = 1 << 12,
	FS_REFER = 1 << 13,    /* ABI 2 */
	FS_TRUNCATE = 1 << 14, /* ABI 3 */
	FS_ALL_2 = (1 << 14) - 1,
	FS_IOCTL_DEV = 1 << 15, /* ABI 5 */
	NET_TCP = 3,		/* ABI 4: bind, connect */
	SCOPE_SOCKETS = 1,	/* ABI 6 */
	SCOPE_SIGNALS = 2,
	RULE_PATH_BENEATH = 1,
	/* No devices, sockets or pipes; nothing is executed. */
	READ = FS_READ_FILE | FS_READ_DIR,
	WORK = READ | FS_WRITE_FILE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | FS_MAKE_REG |
	       FS_MAKE_SYM | FS_REFER | FS_TRUNCATE,
};

struct ruleset {
	uint64_t fs, net, scoped;
};

static struct ruleset handled(const struct profile *p, long abi)
{
	struct ruleset h = { .fs = FS_ALL_2 };

	if (abi >= 3)
		h.fs |= FS_TRUNCATE;
	if (abi >= 4 && !p->network)
		h.net = NET_TCP;
	if (abi >= 5)
		h.fs |= FS_IOCTL_DEV;
	if (abi >= 6)
		h.scoped = (p->network ? 0 : SCOPE_SOCKETS) | (p->signals ? 0 : SCOPE_SIGNALS);
	return h;
}

static int allow(int ruleset, const struct place *place, uint64_t handled_fs)
{
	struct {
		uint64_t allowed;
		int32_t parent_fd;
	} __attribute__((packed)) rule = {
		.allowed = (place->work ? WORK : READ) & handled_fs,
		.parent_fd = place->fd,
	};
	_cleanup_close_ int dir = -1;

	if (place->optional && fcntl(place->fd, F_GETFD) < 0)
		return 0;
	if (place->path) {
		dir = open(place->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dir < 0)
			return -errno;
		rule.parent_fd = dir;
	}
	return syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno
											: 0;
}

int confine_wall(const struct profile *p, struct err *e)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* the version */);
	struct ruleset h = handled(p, abi);
	_cleanup_close_ int ruleset = -1;
	int r;

	/* The first version allows no rename from one directory to another. */
	if (!p->n_places || abi < 2)
		return 0;
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &h, sizeof(h), 0);
	if (ruleset < 0)
		return err_errno(e, -errno, "cannot create a Landlock ruleset for %s", p->process);
	for (size_t i = 0; i < p->n_places; i++) {
		r = allow(ruleset, &p->places[i], h.fs);
		if (r < 0)
			return err_errno(e, r, "cannot name what %s may reach", p->process);
	}
	r = syscall(SYS_landlock_restrict_self, ruleset, 0) < 0 ? -errno : 0;
	return r < 0 ? err_errno(e, r, "cannot wall %s in", p->process) : 0;
}
