/* The last steps of the process that becomes the builder: it gives up what it may do, for good, and
 * looks at itself from outside of the code that did it.
 *
 * Never: a step that fails silently; anything but plain system calls. Linked by airplant-build
 * alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "build/supervisor.h"
#include "confine/confine.h"

enum {
	LOCKED_BITS = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
		      SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
		      SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
};

/* A second wall against abstract sockets outside (upstream has it too); kernels without it have
 * the network namespace, except for fixed outputs. The structure is newer than some headers. */
static int scope_sockets(struct err *e)
{
	struct {
		uint64_t fs, net, scoped;
	} attr = { .scoped = 1 /* abstract sockets */ | 2 /* signals */ };
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1);
	long fd;
	int r;

	if (abi < 6)
		return 0;
	fd = syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	if (fd < 0)
		return err_errno(e, -errno, "failed to create a landlock ruleset");
	r = syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;
	close((int)fd);
	return r < 0 ? err_errno(e, r, "failed to apply landlock") : 0;
}

static int drop_capabilities(struct err *e)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	for (unsigned long cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
			if (errno == EINVAL)
				break; /* the kernel knows no more */
			return err_errno(e, -errno, "emptying the capability bounding set");
		}
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (prctl(PR_SET_SECUREBITS, LOCKED_BITS) < 0)
		return err_errno(e, -errno, "locking the securebits");
	if (syscall(SYS_capset, &h, none) < 0)
		return err_errno(e, -errno, "giving up the capabilities");
	return 0;
}

static int install_filter(const struct build *b, struct err *e)
{
	bool i386 = !strcmp(b->s.platform, "i686-linux");
	const struct sock_fprog *program =
		confine_builder_filter(is_range(b)   ? CONFINE_BUILDER_RANGE
				       : b->s.nested ? CONFINE_BUILDER_NESTED
						     : CONFINE_BUILDER_PLAIN,
				       i386);

	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) < 0)
		return err_errno(e, -errno,
				 "unable to load seccomp BPF program (a kernel with "
				 "CONFIG_SECCOMP_FILTER is needed, or 'filter-syscalls = false')");
	return 0;
}

/* Root of its own ids keeps its capabilities: they reach what belongs to its namespace. */
static int confine_root(const struct build *b, struct err *e)
{
	int r;

	if (!b->s.allow_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(e, -errno, "failed to set PR_SET_NO_NEW_PRIVS");
	r = scope_sockets(e);
	return r == 0 && b->s.filter_syscalls ? install_filter(b, e) : r;
}

int privileges_drop(const struct build *b, struct err *e)
{
	int r;

	if (is_range(b))
		return confine_root(b, e);
	if (b->s.allow_new_privileges) {
		/* Without no_new_privs both take a capability to install. */
		r = scope_sockets(e);
		if (r == 0 && b->s.filter_syscalls)
			r = install_filter(b, e);
		return r < 0 ? r : drop_capabilities(e);
	}
	r = drop_capabilities(e);
	if (r < 0)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(e, -errno, "failed to set PR_SET_NO_NEW_PRIVS");
	r = scope_sockets(e);
	return r == 0 && b->s.filter_syscalls ? install_filter(b, e) : r;
}

/* /proc/self/<name> must hold exactly one extent: `inside` and up mapped to the slot. */
static bool map_is(const char *path, unsigned int inside, uint64_t count)
{
	_cleanup_free_ char *text = NULL;
	unsigned int a, b, c;
	int used = 0;

	return read_file_at(AT_FDCWD, path, 4096, &text, NULL) == 0 &&
	       sscanf(text, " %u %u %u %n", &a, &b, &c, &used) == 3 && a == inside && b == 0 &&
	       c == count && !text[used];
}

/* All five sets. Ambient capabilities are inheritable ones, of which there are none. */
static bool has_capabilities(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];
	int in_bounding;

	if (syscall(SYS_capget, &h, d) < 0 || d[0].effective | d[1].effective | d[0].permitted |
						      d[1].permitted | d[0].inheritable |
						      d[1].inheritable)
		return true;
	for (unsigned long cap = 0; (in_bounding = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) >= 0;
	     cap++)
		if (in_bounding)
			return true;
	return false;
}

static int check_identity(const struct build *b, const struct identity *id, struct err *e)
{
	uid_t r, u, s;
	gid_t rg, g, sg;

	if (getresuid(&r, &u, &s) < 0 || r != id->uid || u != id->uid || s != id->uid ||
	    getresgid(&rg, &g, &sg) < 0 || rg != id->gid || g != id->gid || sg != id->gid)
		return err_set(e, -EPERM, "the builder does not have its own identity");
	if (!map_is("/proc/self/uid_map", id->uid, b->s.n_ids) ||
	    !map_is("/proc/self/gid_map", id->gid, b->s.n_ids))
		return err_set(e, -EPERM,
			       "the builder's user namespace does not map what it should");
	if (b->ids.mode == IDS_BROKER && !b->s.kvm && getgroups(0, NULL) != 0)
		return err_set(e, -EPERM, "the builder has supplementary groups");
	return 0;
}

/* As it is, not as it was asked for: a missed step must never reach a builder. */
int privileges_check(const struct build *b, const struct identity *id, struct err *e)
{
	char cwd[4096];
	int r = check_identity(b, id, e);

	if (r < 0)
		return r;
	if (getpid() != 1 || getsid(0) != 1)
		return err_set(e, -EPERM, "the builder is not alone in its pid namespace");
	/* The kernel says "(unreachable)" of a directory outside of the root. */
	if (!getcwd(cwd, sizeof(cwd)) || cwd[0] != '/')
		return err_set(e, -EPERM, "the builder is outside of its root directory");
	if (!is_range(b) && has_capabilities())
		return err_set(e, -EPERM, "the builder still has capabilities");
	if (!is_range(b) && prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) != LOCKED_BITS)
		return err_set(e, -EPERM, "the builder's securebits are open");
	if (!b->s.allow_new_privileges && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
		return err_set(e, -EPERM, "the builder could gain privileges");
	if (b->s.filter_syscalls && prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER)
		return err_set(e, -EPERM, "the builder's system calls are not filtered");
	return 0;
}
