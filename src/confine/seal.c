/* A process closes its own doors, and tries the handles afterwards. Linked by every process that
 * reads foreign bytes or holds a privilege; libc alone, no allocation but for the error sentence.
 */
#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "confine/profiles.h"

/* Spelled out: newer headers add bits to SECURE_ALL_BITS that older kernels refuse. */
enum {
	SEALED_BITS = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
		      SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
		      SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
};

static int get_caps(uint64_t *ret_permitted, uint64_t *ret_effective, uint64_t *ret_inheritable)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];

	if (syscall(SYS_capget, &h, d) < 0)
		return -errno;
	*ret_permitted = d[0].permitted | (uint64_t)d[1].permitted << 32;
	*ret_effective = d[0].effective | (uint64_t)d[1].effective << 32;
	*ret_inheritable = d[0].inheritable | (uint64_t)d[1].inheritable << 32;
	return 0;
}

static int set_caps(uint64_t permitted)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = {
		{ .effective = (uint32_t)permitted, .permitted = (uint32_t)permitted },
		{ .effective = (uint32_t)(permitted >> 32),
		  .permitted = (uint32_t)(permitted >> 32) },
	};

	return syscall(SYS_capset, &h, d) < 0 ? -errno : 0;
}

static uint64_t may_pass_on(const struct profile *p)
{
	return p->passes_no_caps_on ? 0 : p->caps;
}

/* Whoever lacks CAP_SETPCAP can neither cut the bounding set nor lock the securebits, and does
 * not need to: under no_new_privs no exec raises its capabilities, whatever those say. */
static int cut_bounding_set(uint64_t keep, struct err *e)
{
	int r;

	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
		if (keep & (1ULL << cap))
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
			r = -errno;
			return err_errno(e, r, "cannot drop capability %d from the bounding set",
					 cap);
		}
	}
	if (prctl(PR_SET_SECUREBITS, SEALED_BITS, 0, 0, 0) < 0) {
		r = -errno;
		return err_errno(e, r, "cannot lock the securebits");
	}
	return 0;
}

static int seal_caps(const struct profile *p, bool *ret_bounded, struct err *e)
{
	uint64_t permitted, effective, inheritable;
	bool bound;
	int r = get_caps(&permitted, &effective, &inheritable);

	if (r < 0)
		return err_errno(e, r, "cannot read the capabilities of %s", p->process);
	if (p->caps & ~permitted)
		return err_set(e, -EPERM,
			       "%s was started without the capabilities it needs (it has %llx and "
			       "needs %llx)",
			       p->process, (unsigned long long)permitted,
			       (unsigned long long)p->caps);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return err_errno(e, -errno, "cannot clear the ambient capabilities");
	bound = !p->privileged_children && (permitted & (1ULL << CAP_SETPCAP));
	if (bound) {
		r = set_caps(permitted); /* makes CAP_SETPCAP effective */
		if (r < 0)
			return err_errno(e, r, "cannot raise the capabilities of %s", p->process);
		r = cut_bounding_set(may_pass_on(p), e);
		if (r < 0)
			return r;
	}
	r = set_caps(p->caps);
	if (r < 0)
		return err_errno(e, r, "cannot drop the capabilities of %s", p->process);
	*ret_bounded = bound;
	return 0;
}

/* Trusts nothing said above: a refactoring that drops one line must not go unnoticed. */
static int verify(const struct profile *p, bool bounded, struct err *e)
{
	uint64_t permitted, effective, inheritable;
	int r = get_caps(&permitted, &effective, &inheritable);

	if (r < 0 || permitted != p->caps || effective != p->caps || inheritable != 0)
		return err_set(e, -EPERM, "%s is not sealed: it has the wrong capabilities",
			       p->process);
	if (prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != (p->dumpable ? 1 : 0))
		return err_set(e, -EPERM, "%s is not sealed: it can be dumped", p->process);
	/* Ambient ones are inheritable, of which there are none: they need no look of their own. */
	for (int cap = 0; bounded; cap++) {
		int in_bounding = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);

		if (in_bounding < 0)
			break;
		if (in_bounding != !!(may_pass_on(p) & (1ULL << cap)))
			return err_set(e, -EPERM, "%s is not sealed: wrong bounding set",
				       p->process);
	}
	if (bounded && prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) != SEALED_BITS)
		return err_set(e, -EPERM, "%s is not sealed: securebits are open", p->process);
	if (p->privileged_children)
		return 0;
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
		return err_set(e, -EPERM, "%s is not sealed: it may gain privileges", p->process);
	if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != SECCOMP_MODE_FILTER)
		return err_set(e, -EPERM, "%s is not sealed: it has no filter", p->process);
	return 0;
}

/* Nobody reads its memory, and no dump of it is written either, should the first be undone. The
 * hard limit stays: the core's children give it to builders, who have upstream's. */
static int keep_memory(const struct profile *p, struct err *e)
{
	struct rlimit core;

	if (prctl(PR_SET_DUMPABLE, p->dumpable ? 1 : 0, 0, 0, 0) < 0)
		return err_errno(e, -errno, "cannot make %s undumpable", p->process);
	if (getrlimit(RLIMIT_CORE, &core) < 0)
		return err_errno(e, -errno, "cannot read the limit of core dumps");
	core.rlim_cur = 0;
	if (setrlimit(RLIMIT_CORE, &core) < 0)
		return err_errno(e, -errno, "cannot forbid core dumps to %s", p->process);
	return 0;
}

int confine_seal(enum confine_profile profile, struct err *e)
{
	const struct profile *p = &confine_seals[profile];
	bool bounded = false;
	int r = keep_memory(p, e);

	r = r ? r : seal_caps(p, &bounded, e);
	if (r < 0)
		return r;
	if (!p->privileged_children) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
			return err_errno(e, -errno, "cannot set no_new_privs for %s", p->process);
		r = confine_wall(p, e);
		if (r < 0)
			return r;
		if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &confine_filters[profile]) < 0)
			return err_errno(
				e, -errno,
				"cannot install the system call filter of %s (a kernel with "
				"CONFIG_SECCOMP_FILTER is needed)",
				p->process);
	}
	return verify(p, bounded, e);
}

const struct sock_fprog *confine_builder_filter(enum confine_builder which, bool i386_sockets)
{
	return &confine_builder_programs[which][i386_sockets];
}
