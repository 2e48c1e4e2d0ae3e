/* What a builder may ask the kernel: the tables for any program at all.
 *
 * By default a call is allowed, as upstream has it, or nothing would build; with upstream's errnos
 * where upstream refuses something (feature row D16), EPERM for what takes a privilege, and ENOSYS
 * for what a program can do without on an older kernel. Calls that nobody has looked at do not
 * exist. Read the tables at the end first. Data only; compiled into filters at build time. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "confine/rules.h"

/* clang-format off */
/* Every call that can make a file with a set-user-ID or set-group-ID bit. The flags of open are
 * looked at too: without O_CREAT and O_TMPFILE its mode is garbage. openat2 hides its mode behind
 * a pointer; that such a file never leaves the build is the supervisor's work. */
#define SUID_MODE(name, arg) HAS(name, arg, S_ISUID), HAS(name, arg, S_ISGID)
#define SUID_OPEN(name, flags)                                                                     \
	HAS2(name, flags, O_CREAT, flags + 1, S_ISUID),                                            \
		HAS2(name, flags, O_CREAT, flags + 1, S_ISGID),                                    \
		HAS2(name, flags, (O_TMPFILE & ~O_DIRECTORY), flags + 1, S_ISUID),                 \
		HAS2(name, flags, (O_TMPFILE & ~O_DIRECTORY), flags + 1, S_ISGID)
static const struct call make_suid[] = {
	SUID_MODE("chmod", 1),	  SUID_MODE("fchmod", 1),
	SUID_MODE("fchmodat", 2), SUID_MODE("fchmodat2", 2),
	SUID_MODE("creat", 1),	  SUID_MODE("mknod", 1),
	SUID_MODE("mknodat", 2),  SUID_OPEN("open", 1),
	SUID_OPEN("openat", 2),	  END,
};

/* ACLs and other attributes would outlive canonicalisation. The *at forms of Linux 6.13 are
 * refused by number, below. */
static const struct call xattrs[] = {
	CALL("getxattr"), CALL("lgetxattr"), CALL("fgetxattr"), CALL("setxattr"),
	CALL("lsetxattr"), CALL("fsetxattr"), CALL("listxattr"), CALL("llistxattr"),
	CALL("flistxattr"), CALL("removexattr"), CALL("lremovexattr"), CALL("fremovexattr"),
	END,
};

/* A way round every filter: its operations are not system calls. */
static const struct call io_uring[] = {
	CALL("io_uring_setup"), CALL("io_uring_enter"), CALL("io_uring_register"),
	END,
};

/* What only root of the whole machine may do, or what looks at the machine and not at the build:
 * most of it the kernel refuses anyway. That is no reason to let its code be reached. */
static const struct call machine[] = {
	CALL("kexec_load"), CALL("kexec_file_load"), CALL("init_module"), CALL("finit_module"),
	CALL("delete_module"), CALL("swapon"), CALL("swapoff"), CALL("acct"), CALL("iopl"),
	CALL("ioperm"), CALL("quotactl"), CALL("quotactl_fd"),
	CALL("open_by_handle_at"), CALL("syslog"), CALL("bpf"), CALL("perf_event_open"),
	CALL("userfaultfd"), CALL("settimeofday"), CALL("clock_settime"), CALL("clock_settime64"),
	END,
};

/* Inside a pid namespace it ends that namespace; only root of it may. */
static const struct call reboots[] = { CALL("reboot"), END };

/* Keys are counted and found by uid, across namespaces. */
static const struct call keyrings[] = {
	CALL("keyctl"), CALL("add_key"), CALL("request_key"),
	END,
};

/* Upstream lets a builder raise the limit of its core dumps. They would be the machine's: where
 * kernel.core_pattern names a program, the kernel starts it, as root, for every limit but 1, also
 * for 0. So the limit is 1 (child.c), and setting it has no effect, as it has none with upstream on
 * such a machine. Where both are asked for, the old limit is not told. */
static const struct call core_limit[] = {
	IS("setrlimit", 0, RLIMIT_CORE), IS_WITH_POINTER("prlimit64", 1, RLIMIT_CORE, 2),
	END,
};

/* Typing into a terminal that somebody else reads. The kernel looks at 32 bits of the command. */
static const struct call terminals[] = {
	IS("ioctl", 1, 0x5412 /* TIOCSTI */), IS("ioctl", 1, 0x541c /* TIOCLINUX */),
	END,
};

/* Families that leave the network namespace (vsock reaches the hypervisor), or whose code no build
 * needs. A kernel without them answers the same. */
#define FAMILIES AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
static const struct call families[] = {
	NONE_OF("socket", 0, FAMILIES), NONE_OF("socketpair", 0, FAMILIES),
	END,
};
/* Containers also set up their own network. */
static const struct call container_families[] = {
	NONE_OF("socket", 0, FAMILIES, AF_PACKET), NONE_OF("socketpair", 0, FAMILIES),
	END,
};
/* Of netlink, what tells addresses and routes. */
static const struct call netlinks[] = {
	IS_BUT_NOT_0("socket", 0, AF_NETLINK, 2),
	END,
};

/* Root of a namespace of one's own reaches the parts of the kernel that have had the most holes;
 * and all of this is of use to that root alone. */
static const struct call namespaces[] = {
	HAS("clone", 0, CLONE_NEWUSER), HAS("unshare", 0, CLONE_NEWUSER), CALL("setns"),
	CALL("mount"), CALL("umount"), CALL("umount2"), CALL("pivot_root"),
	END,
};
/* The same doors under newer names, which programs can do without. clone3 hides its flags behind
 * a pointer; libraries fall back to clone. */
static const struct call newer_namespaces[] = {
	CALL("clone3"), CALL("open_tree"), CALL("move_mount"), CALL("fsopen"),
	CALL("fsconfig"), CALL("fsmount"), CALL("fspick"), CALL("mount_setattr"),
	END,
};
/* clang-format on */

enum {
	NR_STATMOUNT = 457, /* statmount, listmount: Linux 6.8 */
	NR_LISTMOUNT = 458,
	NR_SETXATTRAT = 463, /* setxattrat, getxattrat, listxattrat, removexattrat: Linux 6.13 */
	NR_REMOVEXATTRAT = 466,
	NR_OPEN_TREE_ATTR = 467, /* Linux 6.15 */
	NR_NEWEST = 469,	 /* file_setattr, Linux 6.17: the newest one that was looked at */
};

static const struct numbers plain_numbers[] = {
	{ NR_STATMOUNT, NR_LISTMOUNT, ENOSYS },
	{ NR_SETXATTRAT, NR_REMOVEXATTRAT, ENOTSUP },
	{ NR_OPEN_TREE_ATTR, NR_OPEN_TREE_ATTR, ENOSYS },
	{ 0 },
};
static const struct numbers nested_numbers[] = {
	{ NR_SETXATTRAT, NR_REMOVEXATTRAT, ENOTSUP },
	{ 0 },
};
static const struct numbers range_numbers[] = { { 0 } };

/* Left open with intent: ptrace, process_vm_*, pidfd_getfd (a build's own processes; debuggers are
 * tested in builds), chroot and set*id (they need what a builder lacks), personality and
 * openat2 (as upstream; what the latter hides is the supervisor's work), landlock and seccomp. */
const struct profile confine_builders[N_BUILDERS] = {
	[CONFINE_BUILDER_PLAIN] = {
		.process = "builder",
		.foreign_arches = true,
		.otherwise = ANSWER_ALLOW,
		.newest = NR_NEWEST,
		.numbers = plain_numbers,
		.rules = {
			{ EPERM, make_suid },
			{ ENOTSUP, xattrs },
			{ ENOSYS, io_uring },
			{ EPERM, machine },
			{ EPERM, reboots },
			{ EPERM, keyrings },
			{ EPERM, terminals },
			{ ANSWER_NOTHING_DONE, core_limit },
			{ EAFNOSUPPORT, families },
			{ EPROTONOSUPPORT, netlinks },
			{ EPERM, namespaces },
			{ ENOSYS, newer_namespaces },
		},
	},
	[CONFINE_BUILDER_NESTED] = {
		.process = "builder of containers",
		.foreign_arches = true,
		.otherwise = ANSWER_ALLOW,
		.newest = NR_NEWEST,
		.numbers = nested_numbers,
		.rules = {
			{ EPERM, make_suid },
			{ ENOTSUP, xattrs },
			{ ENOSYS, io_uring },
			{ EPERM, machine },
			{ EPERM, reboots },
			{ EPERM, keyrings },
			{ EPERM, terminals },
			{ ANSWER_NOTHING_DONE, core_limit },
			{ EAFNOSUPPORT, container_families },
		},
	},
	/* A build that unpacks and boots whole systems. Their trees have set-user-ID files, file
	 * capabilities and ACLs, which name ids of this build's namespace alone: nobody outside
	 * comes past the 0700 directory they lie in, the kernel honours such bits neither on
	 * its nosuid mounts nor from another mount namespace, and outputs lose them before
	 * they leave. What concerns the machine stays shut, as for everybody. */
	[CONFINE_BUILDER_RANGE] = {
		.process = "builder that is root of its ids",
		.foreign_arches = true,
		.otherwise = ANSWER_ALLOW,
		.newest = NR_NEWEST,
		.numbers = range_numbers,
		.rules = {
			{ ENOSYS, io_uring },
			{ EPERM, machine },
			{ EPERM, keyrings },
			{ EPERM, terminals },
			{ ANSWER_NOTHING_DONE, core_limit },
			{ EAFNOSUPPORT, container_families },
		},
	},
};
