/* Who may do what: the one table of profiles, and the groups of system calls it is made of.
 * Read the table at the end first. It states intentions only: gen-filters.c compiles it at build
 * time, seal.c applies it. Linked by the generator and by print-profiles; nothing here does anything.
 */
#include "confine/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* clang-format off */
/* Whatever a C program does without touching anything but itself. Nothing becomes executable. */
static const struct call own_memory[] = {
	LACKS("mmap", 2, PROT_EXEC), LACKS("mprotect", 2, PROT_EXEC), CALL("munmap"),
	CALL("mremap"), CALL("brk"), CALL("madvise"), CALL("msync"), CALL("futex"),
	CALL("rseq"), CALL("exit"), CALL("exit_group"), CALL("restart_syscall"),
	CALL("rt_sigreturn"), CALL("rt_sigaction"), CALL("rt_sigprocmask"),
	CALL("rt_sigpending"), CALL("rt_sigtimedwait"), CALL("rt_sigsuspend"),
	CALL("sigaltstack"), CALL("clock_gettime"), CALL("clock_getres"),
	CALL("clock_nanosleep"), CALL("gettimeofday"), CALL("time"), CALL("nanosleep"),
	CALL("sched_yield"), CALL("getrandom"),
	END,
};

/* Looking at itself: also what confine_seal needs in order to check what it did. */
static const struct call look_at_self[] = {
	CALL("getpid"), CALL("gettid"), CALL("getppid"), CALL("getuid"), CALL("geteuid"),
	CALL("getgid"), CALL("getegid"), CALL("capget"), IS("prctl", 0, PR_GET_DUMPABLE),
	IS("prctl", 0, PR_GET_NO_NEW_PRIVS), IS("prctl", 0, PR_GET_SECUREBITS),
	IS("prctl", 0, PR_GET_SECCOMP), IS("prctl", 0, PR_CAPBSET_READ),
	{ "prctl", 2, { { 0, INT, PR_CAP_AMBIENT }, { 1, INT, PR_CAP_AMBIENT_IS_SET } } },
	END,
};

/* Bytes in and out of what is open already, and waiting for them. No fd comes in this way.
 *
 * fcntl goes by command: F_SETOWN with F_SETSIG would be a kill(2) by another name. Locks are those
 * that SQLite takes, which have a process to blame (store/blocked.c): not flock, not F_OFD_SETLK. */
static const struct call open_files[] = {
	CALL("read"), CALL("write"), CALL("readv"), CALL("writev"), CALL("pread64"),
	CALL("pwrite64"), CALL("preadv"), CALL("pwritev"), CALL("lseek"), CALL("dup"),
	CALL("pipe2"), CALL("poll"), CALL("ppoll"), CALL("select"), CALL("pselect6"),
	CALL("epoll_create1"), CALL("epoll_ctl"), CALL("epoll_wait"), CALL("epoll_pwait"),
	CALL("eventfd2"), CALL("signalfd4"), CALL("timerfd_create"), CALL("timerfd_settime"),
	CALL("timerfd_gettime"), CALL("recvfrom"), CALL("sendto"), CALL("shutdown"),
	CALL("getsockopt"), IS("fcntl", 1, F_DUPFD), IS("fcntl", 1, F_DUPFD_CLOEXEC),
	IS("fcntl", 1, F_GETFD), IS("fcntl", 1, F_SETFD), IS("fcntl", 1, F_GETFL),
	IS("fcntl", 1, F_SETFL), IS("fcntl", 1, F_GETLK), IS("fcntl", 1, F_SETLK),
	IS("fcntl", 1, F_SETLKW), IS("fcntl", 1, F_ADD_SEALS), IS("fcntl", 1, F_GET_SEALS),
	IS("fcntl", 1, F_SETPIPE_SZ), IS("fcntl", 1, F_GETPIPE_SZ),
	CALL("fstat"), CALL("fstatfs"), CALL("memfd_create"),
	END,
};

/* Messages with fds go over the channel to the core, which is fd 3 and stays fd 3: closing it, or
 * putting something else in its place, is refused. A client could otherwise send its session an
 * fd of the machine's root directory, or be sent the fd of a spool. "Not 3" is spelled in bits,
 * since garbage above them would fool a comparison. */
#define NOT_3(name)                                                                                \
	LACKS(name, 0, 1), LACKS(name, 0, 2), HAS(name, 0, 1 << 2), HAS(name, 0, 1 << 3),          \
		HAS(name, 0, 1 << 4), HAS(name, 0, 1 << 5), HAS(name, 0, 1 << 6),                  \
		HAS(name, 0, 1 << 7), HAS(name, 0, 1 << 8), HAS(name, 0, 1 << 9),                  \
		HAS(name, 0, 1 << 10), HAS(name, 0, 1 << 11), HAS(name, 0, 1 << 12),               \
		HAS(name, 0, 1 << 13), HAS(name, 0, 1 << 14), HAS(name, 0, 1 << 15)
static const struct call channel[] = {
	IS("recvmsg", 0, 3), IS("sendmsg", 0, 3),
	NOT_3("close"),
	END,
};

/* A file tree: what unpacking, hashing and deleting one takes. Which tree, the jail decides. */
static const struct call file_tree[] = {
	CALL("getdents64"), CALL("newfstatat"), CALL("stat"), CALL("lstat"), CALL("statx"),
	CALL("statfs"), CALL("access"), CALL("faccessat"), CALL("faccessat2"),
	CALL("readlink"), CALL("readlinkat"), CALL("getcwd"), CALL("fchdir"), CALL("umask"),
	CALL("unlink"), CALL("unlinkat"), CALL("rmdir"), CALL("rename"), CALL("renameat"),
	CALL("renameat2"), CALL("symlink"), CALL("symlinkat"), CALL("utimensat"),
	CALL("ftruncate"), CALL("fallocate"), CALL("fadvise64"), CALL("fsync"),
	CALL("fdatasync"), CALL("syncfs"), CALL("sendfile"),
	CALL("sync_file_range"), CALL("copy_file_range"), END,
};

/* The calls that give a mode, without the bits that no store object has: set-user-ID, set-group-ID,
 * sticky, and writing by anybody but the owner. libc passes a mode of 0 to open where no file is
 * made. */
#define PLAIN(name, arg) LACKS(name, arg, 07022)
static const struct call plain_modes[] = {
	PLAIN("open", 2),     PLAIN("openat", 3),    PLAIN("mkdir", 1),
	PLAIN("mkdirat", 2),  PLAIN("chmod", 1),     PLAIN("fchmod", 1),
	PLAIN("fchmodat", 2), PLAIN("fchmodat2", 2), END,
};

/* Deleting a tree, and saying so. No call that makes a file or changes one. */
static const struct call delete_trees[] = {
	CALL("getdents64"), CALL("newfstatat"), CALL("statx"), CALL("fstat"), CALL("unlinkat"),
	CALL("renameat2"), CALL("lseek"), CALL("close"), CALL("write"), CALL("writev"),
	LACKS("openat", 2, O_CREAT | (O_TMPFILE & ~O_DIRECTORY) | O_WRONLY | O_RDWR),
	IS("fcntl", 1, F_GETFL), IS("fcntl", 1, F_SETFD), IS("sendmsg", 0, 3),
	IS("getpriority", 0, PRIO_USER),
	END,
};

/* rm_tree.c tries them where a directory forbids something to its owner; a capability does that. */
static const struct call change_modes[] = { CALL("chmod"), CALL("fchmodat"), CALL("fchmodat2"), END };

/* The same for a process that has none: modes that open a directory to its owner. */
#define OWNERS(name, arg) LACKS(name, arg, 07077)
static const struct call owners_modes[] = {
	OWNERS("chmod", 1), OWNERS("fchmodat", 2), OWNERS("fchmodat2", 2), END,
};

/* What libraries ask about the machine; a limit may be read, not set. */
static const struct call machine[] = {
	CALL("uname"), CALL("sysinfo"), CALL("sched_getaffinity"), CALL("getrusage"),
	CALL("times"),
	/* All 64 bits of the pointer, and only of itself: prlimit reaches every process of the uid.
	 */
	{ "prlimit64", 2, { { 0, INT, 0 }, { 2, ~0ULL, 0 } } },
	END,
};

/* Asked by stdio ("is this a terminal?") and by SQLite; the answer is "no". */
static const struct call terminals[] = { CALL("ioctl"), END };

/* Making a builder's outputs ours: owner, names, leftovers of ACLs. No attribute is ever set.
 * openat2 hides its mode behind a pointer; the kernel takes set-user-ID bits away at the first
 * write of a process without CAP_FSETID, so at worst there is an empty file with such a bit. A lease
 * tells whether somebody else has a file open (nar/tree_canon.c). */
static const struct call take_over[] = {
	IS("fcntl", 1, F_SETLEASE),
	CALL("openat2"), CALL("fchown"), CALL("fchownat"), CALL("lchown"), CALL("link"),
	CALL("linkat"), CALL("listxattr"), CALL("llistxattr"), CALL("flistxattr"),
	CALL("getxattr"), CALL("lgetxattr"), CALL("fgetxattr"),
	CALL("removexattr"), CALL("lremovexattr"), CALL("fremovexattr"), END,
};

/* What it takes to become a session: one clone that ends in an execve (the porter's own flags, not
 * one more), the view as root directory, no capability; then the start of the C library, and the
 * session's own seal. The session's own filter takes all of it away again. */
static const struct call start_sessions[] = {
	CALL("open_tree"), CALL("execveat"), CALL("chroot"), CALL("chdir"), CALL("capset"),
	CALL("dup2"), CALL("close"), CALL("recvmsg"), CALL("sendmsg"),
	{ "clone", 1, { { 0, ~0ULL, CLONE_VM | CLONE_VFORK | CLONE_PARENT | CLONE_PIDFD | SIGCHLD } } },
	IS("prctl", 0, PR_SET_PDEATHSIG), IS("prctl", 0, PR_SET_DUMPABLE),
	IS("prctl", 0, PR_SET_NO_NEW_PRIVS), IS("prctl", 0, PR_CAP_AMBIENT),
	CALL("mmap"), CALL("mprotect"), CALL("arch_prctl"), CALL("set_tid_address"),
	CALL("set_robust_list"), CALL("prlimit64"), CALL("setrlimit"), CALL("getrlimit"),
	CALL("landlock_create_ruleset"), CALL("landlock_add_rule"),
	CALL("landlock_restrict_self"), CALL("seccomp"),
	END,
};

/* Showing a builder one path more: a mount of this process's own namespace is copied, made read-only,
 * and put into the builder's, which it goes to and comes back from. No file is opened but as a place,
 * none is made but empty ones to mount on. */
static const struct call show_paths[] = {
	CALL("open_tree"), CALL("mount_setattr"), CALL("move_mount"), IS("setns", 1, CLONE_NEWNS),
	CALL("newfstatat"), CALL("fstat"), CALL("readlinkat"), CALL("symlinkat"), CALL("openat2"),
	PLAIN("mkdirat", 2), { "mknodat", 1, { { 2, INT, S_IFREG | 0444 } } },
	CALL("recvmsg"), CALL("sendmsg"), CALL("write"), CALL("close"), CALL("poll"), CALL("pread64"),
	IS("fcntl", 1, F_GET_SEALS),
	END,
};

/* Its one child, by pidfd. Signals by number (kill, tgkill) stay forbidden. */
static const struct call the_builder[] = {
	CALL("wait4"), CALL("waitid"), CALL("pidfd_send_signal"),
	END,
};

/* The broker's whole life: accept, receive, look at a process, write its maps, answer. */
static const struct call lease_ids[] = {
	CALL("read"), CALL("write"), CALL("lseek"), CALL("close"), CALL("poll"), CALL("ppoll"),
	CALL("accept4"), CALL("recvmsg"), CALL("sendmsg"),
	IS("getsockopt", 2, SO_PEERCRED),
	CALL("openat"), CALL("fstat"), CALL("newfstatat"), CALL("fstatfs"), CALL("flock"),
	CALL("fdatasync"), IS("getpriority", 0, PRIO_USER),
	IS("ioctl", 1, NS_GET_PARENT), IS("ioctl", 1, NS_GET_OWNER_UID),
	IS("pidfd_send_signal", 1, 0), IS("pidfd_send_signal", 1, SIGKILL),
	END,
};

/* The tracer's whole life: accept, make a reader of its own kind (fork, with glibc's flags alone) and
 * end it, look without writing, answer. No path can be opened but for reading, and no file handle,
 * which CAP_DAC_READ_SEARCH would open anywhere. */
static const struct call trace_roots[] = {
	LACKS("openat", 2, O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & ~O_DIRECTORY)),
	CALL("getdents64"), CALL("readlinkat"), CALL("newfstatat"), CALL("fstat"), CALL("lseek"),
	IS("fcntl", 1, F_GETFL), IS("fcntl", 1, F_SETFD), CALL("read"), CALL("write"),
	CALL("close"), CALL("poll"),
	CALL("ppoll"), CALL("accept4"), CALL("sendto"), CALL("recvfrom"),
	IS("getsockopt", 2, SO_PEERCRED), IS("setsockopt", 2, SO_SNDTIMEO),
	IS("socketpair", 0, AF_UNIX), CALL("set_robust_list"), CALL("wait4"),
	{ "clone", 1, { { 0, ~0ULL, CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD } } },
	IS("kill", 1, SIGKILL), IS("prctl", 0, PR_SET_PDEATHSIG),
	CALL("landlock_restrict_self"), IS("flock", 1, LOCK_SH | LOCK_NB),
	IS("ioctl", 1, NS_GET_PARENT), IS("ioctl", 1, NS_GET_OWNER_UID),
	END,
};

/* The core's filter lives on in supervisors, builders and whatever they start. So it names only
 * what the kernel refuses to all of those anyway (a capability in the machine's own namespace),
 * with the errno the kernel gives: a build cannot tell that it is there. io_uring is refused to
 * builders as well (builder.c); it is a way round every filter. */
static const struct call machine_root[] = {
	CALL("kexec_load"), CALL("kexec_file_load"), CALL("init_module"), CALL("finit_module"),
	CALL("delete_module"), CALL("swapon"), CALL("swapoff"), CALL("acct"), CALL("iopl"),
	CALL("ioperm"), CALL("settimeofday"), CALL("clock_settime"), CALL("open_by_handle_at"),
	CALL("bpf"),
	END,
};

static const struct call io_uring[] = {
	CALL("io_uring_setup"), CALL("io_uring_enter"), CALL("io_uring_register"),
	END,
};

/* What no library needs that looks a name up. */
static const struct call other_programs[] = {
	CALL("execve"), CALL("execveat"), CALL("ptrace"), CALL("process_vm_readv"),
	CALL("process_vm_writev"), CALL("pidfd_getfd"), CALL("unshare"), CALL("setns"), CALL("mount"),
	CALL("kill"), CALL("tkill"), CALL("pidfd_send_signal"), CALL("chmod"), CALL("fchmod"),
	CALL("fchmodat"), CALL("fchmodat2"), CALL("utimensat"), CALL("setxattr"), CALL("lsetxattr"),
	CALL("fsetxattr"),
	END,
};

/* clang-format on */

#define CAP(name) (1ULL << CAP_##name)
#define JAIL	  (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

/* ---------------------------------------------------------------------------------------------
 * The table. No process below may execute a program, create a process or a socket, attach to
 * another process, mount, or change its ids, unless its line says otherwise. Each calls
 * confine_seal() before it reads a foreign byte, and that looks at what it has done; builders, in
 * builder.c, are looked at by privileges_check(). test_seals.py compares this table with what the
 * kernel says of running processes.
 * --------------------------------------------------------------------------------------------- */
const struct profile confine_profiles[N_PROFILES] = {
	/* Reads what clients send. Its jail shows the store and the database read-only. */
	[CONFINE_SESSION] = {
		.process = "airplant-session",
		.starter = "airplant-porter",
		.namespaces = JAIL,
		.places = { { .path = "/" }, { .fd = 4 /* its spool */, .work = true } },
		.n_places = 2,
		.otherwise = ANSWER_KILL,
		.rules = {
			{ ANSWER_ALLOW, own_memory },
			{ ANSWER_ALLOW, look_at_self },
			{ ANSWER_ALLOW, machine },
			{ ANSWER_ALLOW, open_files },
			{ ANSWER_ALLOW, channel },
			{ ANSWER_ALLOW, file_tree },
			{ ANSWER_ALLOW, plain_modes },
			{ ENOTTY, terminals },
		},
	},
	/* Reads what a builder leaves behind. The capabilities count in its own namespace alone. */
	[CONFINE_SUPERVISOR] = {
		.process = "airplant-build",
		.starter = "airplantd",
		.namespaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET, /* a spare has more */
		.caps = CAP(CHOWN) | CAP(FOWNER) | CAP(DAC_OVERRIDE) | CAP(DAC_READ_SEARCH) |
			CAP(KILL),
		.places = { { .path = "/" /* the scratch */, .work = true },
			    { .fd = CONFINE_CGROUP_FD, .work = true, .optional = true } },
		.n_places = 2,
		.signals = true, /* its builder */
		.otherwise = ANSWER_KILL,
		.rules = {
			{ ANSWER_ALLOW, own_memory },
			{ ANSWER_ALLOW, look_at_self },
			{ ANSWER_ALLOW, machine },
			{ ANSWER_ALLOW, open_files },
			{ ANSWER_ALLOW, channel },
			{ ANSWER_ALLOW, file_tree },
			{ ANSWER_ALLOW, plain_modes },
			{ ANSWER_ALLOW, take_over },
			{ ANSWER_ALLOW, the_builder },
			{ ENOTTY, terminals },
		},
	},
	/* Starts sessions and supervisors, which need namespaces: no allowlist is possible. */
	[CONFINE_CORE] = {
		.process = "airplantd",
		.foreign_arches = true,
		.otherwise = ANSWER_ALLOW,
		.rules = {
			{ EPERM, machine_root },
			{ ENOSYS, io_uring },
		},
	},
	/* Writes id maps. */
	[CONFINE_IDS] = {
		.process = "airplant-ids",
		.caps = CAP(SETUID) | CAP(SETGID),
		.otherwise = ANSWER_KILL,
		.rules = {
			{ ANSWER_ALLOW, own_memory },
			{ ANSWER_ALLOW, look_at_self },
			{ ANSWER_ALLOW, lease_ids },
		},
	},
	/* Reads what processes and homes hold: links, maps, environments. */
	[CONFINE_ROOTS] = {
		.process = "airplant-roots",
		.caps = CAP(DAC_READ_SEARCH) | CAP(SYS_PTRACE),
		.otherwise = ANSWER_KILL,
		.rules = {
			{ ANSWER_ALLOW, own_memory },
			{ ANSWER_ALLOW, look_at_self },
			{ ANSWER_ALLOW, trace_roots },
		},
	},
	/* The same as an ordinary user, who sees his own processes. */
	[CONFINE_ROOTS_OWN] = {
		.process = "airplant-roots",
		.otherwise = ANSWER_KILL,
		.rules = {
			{ ANSWER_ALLOW, own_memory },
			{ ANSWER_ALLOW, look_at_self },
			{ ANSWER_ALLOW, trace_roots },
		},
	},
	/* As CONFINE_CORE, where ids come from newuidmap, a set-user-ID program: it could not work
	 * under no_new_privs, and without that an unprivileged process may not install a filter. */
	[CONFINE_CORE_SUBID] = {
		.process = "airplantd",
		.privileged_children = true,
		.otherwise = ANSWER_ALLOW,
	},
	/* Reads names that a build left behind, and deletes them. */
	[CONFINE_CLEANER] = {
		.process = "airplant-build clean",
		.starter = "airplantd",
		.namespaces = JAIL | CLONE_NEWCGROUP,
		.caps = CAP(FOWNER) | CAP(DAC_OVERRIDE),
		.places = { { .path = "/" /* the directory */, .work = true } },
		.n_places = 1,
		.otherwise = ANSWER_KILL,
		.rules = {
			{ ANSWER_ALLOW, own_memory },
			{ ANSWER_ALLOW, look_at_self },
			{ ANSWER_ALLOW, delete_trees },
			{ EPERM, change_modes },
			{ ENOTTY, terminals },
		},
	},
	/* Hears of sessions from the core, by names of spools. A session has this filter as well,
	 * so it allows what one does. The capabilities count in the jail's namespace alone. */
	[CONFINE_PORTER] = {
		.process = "airplant-porter",
		.starter = "airplantd",
		.namespaces = JAIL,
		.caps = CAP(SYS_ADMIN) | CAP(SYS_CHROOT),
		.passes_no_caps_on = true,
		.otherwise = ANSWER_KILL,
		.rules = {
			{ ANSWER_ALLOW, own_memory },
			{ ANSWER_ALLOW, look_at_self },
			{ ANSWER_ALLOW, machine },
			{ ANSWER_ALLOW, open_files },
			{ ANSWER_ALLOW, file_tree },
			{ ANSWER_ALLOW, plain_modes },
			{ ANSWER_ALLOW, start_sessions },
			{ ENOTTY, terminals },
		},
	},
	/* A child of a supervisor that takes base names from the core, and reads nothing of the builder's. Its
	 * root directory is the store; the capabilities count in the build's namespace alone. */
	[CONFINE_SHOWER] = {
		.process = "airplant-build show",
		.starter = "airplantd",
		.namespaces = JAIL, /* fewer for a build without a sandbox, or with a network */
		.caps = CAP(SYS_ADMIN) | CAP(SYS_CHROOT),
		.otherwise = ANSWER_KILL,
		.rules = {
			{ ANSWER_ALLOW, own_memory },
			{ ANSWER_ALLOW, look_at_self },
			{ ANSWER_ALLOW, show_paths },
		},
	},
	/* A child of the core that reads and removes names which clients and builders chose. */
	[CONFINE_DELETER] = {
		.process = "airplantd (deleting)",
		.starter = "airplantd",
		.places = { { .fd = 3, .work = true } },
		.n_places = 1,
		.otherwise = ANSWER_KILL,
		.rules = {
			{ ANSWER_ALLOW, own_memory },
			{ ANSWER_ALLOW, look_at_self },
			{ ANSWER_ALLOW, delete_trees },
			{ ANSWER_ALLOW, owners_modes },
			{ ENOTTY, terminals },
		},
	},
	/* Whatever a module of NSS does: opens files, runs code of libraries, talks to servers. It
	 * writes no file, and where there is no Landlock the filter leaves it its user's rights. */
	[CONFINE_NAMES] = {
		.process = "airplantd (names)",
		.starter = "airplantd",
		.places = { { .path = "/" } },
		.n_places = 1,
		.network = true,
		.foreign_arches = true,
		.otherwise = ANSWER_ALLOW,
		.rules = {
			{ EPERM, machine_root },
			{ ENOSYS, io_uring },
			{ EPERM, other_programs },
		},
	},
};
