/* Every profile is applied in a forked child, which then makes one call; what became of it is
 * compared with the table below. Take a line out of profiles.c and one of these goes red. */
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <cmocka.h>

#include "base/fd.h"
#include "confine/confine.h"

enum { KILLED = -1, FINE = 0 };

static char scratch[] = "/tmp/airplant-confine-XXXXXX";

static int file_path(char *ret, size_t size, const char *name)
{
	return snprintf(ret, size, "%s/%s", scratch, name);
}

/* Root of a fresh user namespace, as sessions and supervisors are when they seal themselves. */
static int write_own(const char *path, const char *line)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : write_full(fd, line, strlen(line));
}

static int become_ns_root(void)
{
	char uids[64], gids[64];
	int r;

	snprintf(uids, sizeof(uids), "0 %u 1\n", getuid());
	snprintf(gids, sizeof(gids), "0 %u 1\n", getgid());
	if (unshare(CLONE_NEWUSER) < 0)
		return -errno;
	r = write_own("/proc/self/setgroups", "deny");
	if (r == 0)
		r = write_own("/proc/self/gid_map", gids);
	return r == 0 ? write_own("/proc/self/uid_map", uids) : r;
}

/* As in the real processes: fd 3 is the channel, fd 4 the spool. */
static void occupy_fds(void)
{
	int dir = open(scratch, O_RDONLY | O_DIRECTORY);

	if (dir < 0 || (dir != 4 && dup2(dir, 4) < 0) || dup2(0, 3) < 0)
		_exit(104);
}

static int seal_or_exit(enum confine_profile p)
{
	occupy_fds();
	_cleanup_err_ struct err e = { 0 };

	if (p != CONFINE_CORE && p != CONFINE_IDS && p != CONFINE_ROOTS && become_ns_root() < 0)
		_exit(101);
	if (confine_seal(p, &e) < 0) {
		fprintf(stderr, "%s\n", err_msg(&e));
		_exit(102);
	}
	return 0;
}

/* 0, the errno, or KILLED. */
static int outcome(void (*setup)(void), long (*call)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		long r;

		setup();
		errno = 0;
		r = call();
		_exit(r < 0 ? errno : 0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status)) {
		assert_int_equal(WTERMSIG(status), SIGSYS);
		return KILLED;
	}
	/* The fixtures end with 101 to 104; EPROTONOSUPPORT is 93 and EAFNOSUPPORT 97. */
	assert_true(WEXITSTATUS(status) < 100);
	return WEXITSTATUS(status);
}

static int fixture_fd = -1;

#define ATTEMPT(name, expr)                                                                        \
	static long name(void)                                                                     \
	{                                                                                          \
		return (long)(expr);                                                               \
	}
ATTEMPT(try_socket, socket(AF_UNIX, SOCK_STREAM, 0))
ATTEMPT(try_socketpair, syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, NULL))
ATTEMPT(try_connect, syscall(SYS_connect, 0, NULL, 0))
ATTEMPT(try_bind, syscall(SYS_bind, 0, NULL, 0))
ATTEMPT(try_exec, execl("/bin/true", "true", NULL))
ATTEMPT(try_execveat, syscall(SYS_execveat, -1, "/bin/true", NULL, NULL, 0))
ATTEMPT(try_clone, syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0))
ATTEMPT(try_fork, syscall(SYS_fork))
ATTEMPT(try_vfork, syscall(SYS_clone3, NULL, 0))
ATTEMPT(try_unshare, unshare(CLONE_NEWNET))
ATTEMPT(try_setns, setns(-1, 0))
ATTEMPT(try_ptrace, syscall(SYS_ptrace, 0, 0, 0, 0))
ATTEMPT(try_vm_read, syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0))
ATTEMPT(try_getfd, syscall(SYS_pidfd_getfd, -1, 0, 0))
ATTEMPT(try_pidfd_open, syscall(SYS_pidfd_open, getppid(), 0))
ATTEMPT(try_kill, kill(getppid(), 0))
ATTEMPT(try_tgkill, syscall(SYS_tgkill, getpid(), getpid(), 0))
ATTEMPT(try_pidfd_kill0,
	syscall(SYS_pidfd_send_signal, fixture_fd, 0, NULL, 0) < 0 && errno != EBADF ? -1 : 0)
ATTEMPT(try_pidfd_stop, syscall(SYS_pidfd_send_signal, fixture_fd, SIGSTOP, NULL, 0))
ATTEMPT(try_mount, syscall(SYS_mount, "none", "/", NULL, 0, NULL))
ATTEMPT(try_open_tree, syscall(SYS_open_tree, AT_FDCWD, "/", 0))
ATTEMPT(try_chroot, chroot("/"))
ATTEMPT(try_setuid, syscall(SYS_setuid, 0))
ATTEMPT(try_setresuid, syscall(SYS_setresuid, -1, -1, -1))
ATTEMPT(try_setresgid, syscall(SYS_setresgid, -1, -1, -1))
ATTEMPT(try_setgroups, syscall(SYS_setgroups, 0, NULL))
ATTEMPT(try_capset, syscall(SYS_capset, NULL, NULL))
ATTEMPT(try_bpf, syscall(SYS_bpf, 0, NULL, 0))
ATTEMPT(try_uring, syscall(SYS_io_uring_setup, 1, NULL))
ATTEMPT(try_keyctl, syscall(SYS_keyctl, 0, 0, 0))
ATTEMPT(try_handle, syscall(SYS_open_by_handle_at, -1, NULL, 0))
ATTEMPT(try_module, syscall(SYS_delete_module, "airplant-no-such-module", 0))
ATTEMPT(try_map_exec,
	(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
		? -1
		: 0)
ATTEMPT(try_protect_exec, mprotect(NULL, 4096, PROT_READ | PROT_EXEC))
ATTEMPT(try_setown, fcntl(0, F_SETOWN, getppid()))
ATTEMPT(try_setsig, fcntl(0, F_SETSIG, SIGKILL))
ATTEMPT(try_chown,
	fchownat(AT_FDCWD, "/nonexistent", 0, 0, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT ? 0
											     : -1)
ATTEMPT(try_setrlimit, syscall(SYS_prlimit64, 0, 7, &(long[2]){ 0, 0 }, NULL))
ATTEMPT(try_set_dumpable, prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
ATTEMPT(try_ioctl, ioctl(0, TIOCSTI, "x"))
ATTEMPT(try_userfaultfd, syscall(SYS_userfaultfd, 0))
ATTEMPT(try_setxattr, syscall(SYS_setxattr, "/nonexistent", "user.a", "b", 1, 0))
ATTEMPT(try_wait, syscall(SYS_wait4, -1, NULL, WNOHANG, NULL) < 0 && errno == ECHILD ? 0 : -1)
#ifdef __x86_64__
/* A call through the x32 entry: the native filter must not take it for its own numbers. */
ATTEMPT(try_x32, syscall(0x40000000 | SYS_getpid))
#endif

/* What a session does all day, in one go: the name of the call that failed is its errno. */
static long try_file_work(void)
{
	char a[128], b[128];
	struct stat st;
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
	int fd;

	file_path(a, sizeof(a), "a");
	file_path(b, sizeof(b), "b");
	fd = open(a, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, "hello", 5) != 5 || pwrite(fd, "j", 1, 0) != 1)
		return -1;
	if (fcntl(fd, F_SETLK, &lock) < 0 || fstat(fd, &st) < 0 || ftruncate(fd, 3) < 0)
		return -1;
	if (fdatasync(fd) < 0 || fchmod(fd, 0444) < 0 || futimens(fd, NULL) < 0)
		return -1;
	if (mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
		return -1;
	if (close(fd) < 0 || renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_NOREPLACE) < 0)
		return -1;
	if (mkdirat(AT_FDCWD, a, 0700) < 0 || chmod(a, 0555) < 0 || lstat(b, &st) < 0)
		return -1;
	if (symlinkat("target", AT_FDCWD, "/nonexistent/x") == 0 || errno != ENOENT)
		return -1;
	if (rm_tree_at(AT_FDCWD, a) < 0 || rm_tree_at(AT_FDCWD, b) < 0)
		return -1;
	fd = memfd_create("x", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	if (fd < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0)
		return -1;
	/* Enough memory to make malloc map, and stdio, which asks for a terminal. */
	free(malloc(8 << 20));
	return fprintf(stdout, " ") == 1 && fflush(stdout) == 0 ? 0 : -1;
}

/* No fd comes in or goes out but over the channel, and the channel stays what it is. */
static struct msghdr no_message;
ATTEMPT(try_recv_other, recvmsg(4, &no_message, MSG_DONTWAIT))
ATTEMPT(try_send_other, sendmsg(4, &no_message, MSG_DONTWAIT))
ATTEMPT(try_recv_channel, recvmsg(3, &no_message, MSG_DONTWAIT) < 0 && errno == ENOTSOCK ? 0 : -1)
ATTEMPT(try_close_channel, syscall(SYS_close, 3))
ATTEMPT(try_close_high, syscall(SYS_close, 0x100000003))
ATTEMPT(try_close_4, syscall(SYS_close, 4) == 0 || errno == EBADF ? 0 : -1)
ATTEMPT(try_dup2, dup2(0, 3))
ATTEMPT(try_dup3, syscall(SYS_dup3, 0, 3, 0))
ATTEMPT(try_close_range, syscall(SYS_close_range, 3, 3, 0))
/* A pointer whose lower half is zero is still a pointer. */
ATTEMPT(try_high_limit, syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, 0x100000000, 0))
ATTEMPT(try_foreign_limit, syscall(SYS_prlimit64, getppid(), RLIMIT_NOFILE, 0, 0))
ATTEMPT(try_suid, syscall(SYS_fchmod, 4, 04755))
ATTEMPT(try_suid_open, syscall(SYS_openat, AT_FDCWD, "/nonexistent/x", O_CREAT | O_WRONLY, 06755))
ATTEMPT(try_world_writable, syscall(SYS_fchmod, 4, 0666))

enum { SKIP = -2 }; /* says nothing about this process */

struct expectation {
	const char *what;
	long (*call)(void);
	int session, supervisor, ids;
};

static const struct expectation expectations[] = {
	{ "file work", try_file_work, FINE, FINE, KILLED },
	{ "recvmsg elsewhere", try_recv_other, KILLED, KILLED, ENOTSOCK },
	{ "sendmsg elsewhere", try_send_other, KILLED, KILLED, ENOTSOCK },
	{ "recvmsg on the channel", try_recv_channel, FINE, FINE, SKIP },
	{ "close the channel", try_close_channel, KILLED, KILLED, SKIP },
	{ "close with high bits", try_close_high, KILLED, KILLED, SKIP },
	{ "close another", try_close_4, FINE, FINE, SKIP },
	{ "dup2", try_dup2, KILLED, KILLED, KILLED },
	{ "dup3", try_dup3, KILLED, KILLED, KILLED },
	{ "close_range", try_close_range, KILLED, KILLED, KILLED },
	{ "prlimit high pointer", try_high_limit, KILLED, KILLED, KILLED },
	{ "prlimit of the parent", try_foreign_limit, KILLED, KILLED, KILLED },
	{ "chmod setuid", try_suid, KILLED, KILLED, KILLED },
	{ "open setuid", try_suid_open, KILLED, KILLED, SKIP },
	{ "chmod 0666", try_world_writable, KILLED, KILLED, KILLED },
	{ "socket", try_socket, KILLED, KILLED, KILLED },
	{ "socketpair", try_socketpair, KILLED, KILLED, KILLED },
	{ "connect", try_connect, KILLED, KILLED, KILLED },
	{ "bind", try_bind, KILLED, KILLED, KILLED },
	{ "execve", try_exec, KILLED, KILLED, KILLED },
	{ "execveat", try_execveat, KILLED, KILLED, KILLED },
	{ "clone", try_clone, KILLED, KILLED, KILLED },
	{ "fork", try_fork, KILLED, KILLED, KILLED },
	{ "clone3", try_vfork, KILLED, KILLED, KILLED },
	{ "unshare", try_unshare, KILLED, KILLED, KILLED },
	{ "setns", try_setns, KILLED, KILLED, KILLED },
	{ "ptrace", try_ptrace, KILLED, KILLED, KILLED },
	{ "process_vm_readv", try_vm_read, KILLED, KILLED, KILLED },
	{ "pidfd_getfd", try_getfd, KILLED, KILLED, KILLED },
	{ "pidfd_open", try_pidfd_open, KILLED, KILLED, KILLED },
	{ "kill", try_kill, KILLED, KILLED, KILLED },
	{ "tgkill", try_tgkill, KILLED, KILLED, KILLED },
	{ "pidfd signal 0", try_pidfd_kill0, KILLED, FINE, FINE },
	{ "pidfd SIGSTOP", try_pidfd_stop, KILLED, EBADF, KILLED },
	{ "mount", try_mount, KILLED, KILLED, KILLED },
	{ "open_tree", try_open_tree, KILLED, KILLED, KILLED },
	{ "chroot", try_chroot, KILLED, KILLED, KILLED },
	{ "setuid", try_setuid, KILLED, KILLED, KILLED },
	{ "setresuid", try_setresuid, KILLED, KILLED, KILLED },
	{ "setresgid", try_setresgid, KILLED, KILLED, KILLED },
	{ "setgroups", try_setgroups, KILLED, KILLED, KILLED },
	{ "capset", try_capset, KILLED, KILLED, KILLED },
	{ "bpf", try_bpf, KILLED, KILLED, KILLED },
	{ "io_uring", try_uring, KILLED, KILLED, KILLED },
	{ "keyctl", try_keyctl, KILLED, KILLED, KILLED },
	{ "open_by_handle_at", try_handle, KILLED, KILLED, KILLED },
	{ "delete_module", try_module, KILLED, KILLED, KILLED },
	{ "mmap PROT_EXEC", try_map_exec, KILLED, KILLED, KILLED },
	{ "mprotect PROT_EXEC", try_protect_exec, KILLED, KILLED, KILLED },
	{ "F_SETOWN", try_setown, KILLED, KILLED, KILLED },
	{ "F_SETSIG", try_setsig, KILLED, KILLED, KILLED },
	{ "chown", try_chown, KILLED, FINE, KILLED },
	{ "wait4", try_wait, KILLED, FINE, KILLED },
	{ "prlimit", try_setrlimit, KILLED, KILLED, KILLED },
	{ "PR_SET_DUMPABLE", try_set_dumpable, KILLED, KILLED, KILLED },
	{ "ioctl TIOCSTI", try_ioctl, ENOTTY, ENOTTY, KILLED },
	{ "userfaultfd", try_userfaultfd, KILLED, KILLED, KILLED },
	{ "setxattr", try_setxattr, KILLED, KILLED, KILLED },
#ifdef __x86_64__
	{ "x32 getpid", try_x32, KILLED, KILLED, KILLED },
#endif
};

static void as_session(void)
{
	seal_or_exit(CONFINE_SESSION);
}

static void as_supervisor(void)
{
	seal_or_exit(CONFINE_SUPERVISOR);
}

static void as_cleaner(void)
{
	seal_or_exit(CONFINE_CLEANER);
}

static void as_core(void)
{
	seal_or_exit(CONFINE_CORE);
}

static void as_ids(void)
{
	seal_or_exit(CONFINE_IDS);
}

/* The builder's filter is tried as root of a namespace, so that no other refusal hides it. */
static void filtered(enum confine_builder which, bool i386_sockets)
{
	if (become_ns_root() < 0 || unshare(CLONE_NEWNS) < 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0,
		    confine_builder_filter(which, i386_sockets)) < 0)
		_exit(103);
}

static void as_builder(void)
{
	filtered(CONFINE_BUILDER_PLAIN, false);
}

static void as_i686_builder(void)
{
	filtered(CONFINE_BUILDER_PLAIN, true);
}

static void as_nested_builder(void)
{
	filtered(CONFINE_BUILDER_NESTED, false);
}

static void check(const char *who, const char *what, int got, int want)
{
	if (got != want)
		fail_msg("%s: %s: got %d, want %d", who, what, got, want);
}

ATTEMPT(try_open_read, open("/proc/self/status", O_RDONLY | O_NOFOLLOW))
ATTEMPT(try_open_path, open("/", O_PATH | O_DIRECTORY))
ATTEMPT(try_open_write, open("/proc/self/comm", O_WRONLY))
ATTEMPT(try_open_rdwr, open("/proc/self/mem", O_RDWR))
ATTEMPT(try_open_creat, open("/nonexistent/file", O_RDONLY | O_CREAT, 0600))
ATTEMPT(try_open_tmpfile, open("/tmp", O_TMPFILE, 0600))
ATTEMPT(try_open_trunc, open("/nonexistent", O_RDONLY | O_TRUNC))
ATTEMPT(try_openat2, syscall(SYS_openat2, AT_FDCWD, "/", NULL, 0))
ATTEMPT(try_kcmp, syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0))
ATTEMPT(try_stop_parent, kill(getppid(), SIGSTOP))

static void as_roots(void)
{
	seal_or_exit(CONFINE_ROOTS);
}

/* The tracer of roots: what the broker may not, it may not either, with few exceptions. */
static void test_roots(void **state)
{
	static const struct {
		const char *what;
		long (*call)(void);
		int want;
	} rows[] = {
		{ "open to read", try_open_read, FINE },
		{ "open as a path", try_open_path, FINE },
		{ "open to write", try_open_write, KILLED },
		{ "open to read and write", try_open_rdwr, KILLED },
		{ "open O_CREAT", try_open_creat, KILLED },
		{ "open O_TMPFILE", try_open_tmpfile, KILLED },
		{ "open O_TRUNC", try_open_trunc, KILLED },
		{ "openat2", try_openat2, KILLED },
		{ "kcmp", try_kcmp, KILLED },
		{ "stop the parent", try_stop_parent, KILLED },
		{ "socketpair", try_socketpair, EFAULT },
		{ "wait4", try_wait, FINE },
	};

	(void)state;
	if (getuid() != 0)
		return; /* nobody else can give it its capabilities */
	for (size_t i = 0; i < ELEMENTS(rows); i++)
		check("roots", rows[i].what, outcome(as_roots, rows[i].call), rows[i].want);
	for (size_t i = 0; i < ELEMENTS(expectations); i++) {
		const struct expectation *x = &expectations[i];

		if (x->ids != SKIP && x->call != try_socketpair && x->call != try_wait)
			check("roots", x->what, outcome(as_roots, x->call), KILLED);
	}
}

static void test_profiles(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTS(expectations); i++) {
		const struct expectation *x = &expectations[i];

		check("session", x->what, outcome(as_session, x->call), x->session);
		check("supervisor", x->what, outcome(as_supervisor, x->call), x->supervisor);
		if (getuid() == 0 && x->ids != SKIP)
			check("ids", x->what, outcome(as_ids, x->call), x->ids);
	}
}

static long in_own_ns(void)
{
	return unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS);
}

static long run_true(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		execl("/bin/true", "true", NULL);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -1;
}

ATTEMPT(try_look, syscall(SYS_openat, AT_FDCWD, "/nonexistent", O_RDONLY | O_DIRECTORY))
ATTEMPT(try_unlink, syscall(SYS_unlinkat, AT_FDCWD, "/nonexistent", 0))
ATTEMPT(try_make_file, syscall(SYS_openat, AT_FDCWD, "/nonexistent/x", O_CREAT | O_RDONLY, 0400))
ATTEMPT(try_write_open, syscall(SYS_openat, AT_FDCWD, "/nonexistent/x", O_WRONLY))
ATTEMPT(try_make_dir, syscall(SYS_mkdirat, AT_FDCWD, "/nonexistent/x", 0700))
ATTEMPT(try_link, syscall(SYS_linkat, AT_FDCWD, "/nonexistent/x", AT_FDCWD, "/nonexistent/y", 0))
ATTEMPT(try_symlink, syscall(SYS_symlinkat, "x", AT_FDCWD, "/nonexistent/y"))
ATTEMPT(try_chmod, syscall(SYS_fchmodat, AT_FDCWD, "/nonexistent", 0700))
ATTEMPT(try_read, syscall(SYS_read, 4, NULL, 0))

/* Whatever kills a supervisor kills a cleaner, and much more. */
static void test_cleaner(void **state)
{
	static const struct {
		const char *what;
		long (*call)(void);
		int want;
	} rows[] = {
		{ "look", try_look, ENOENT },
		{ "unlink", try_unlink, ENOENT },
		{ "make a file", try_make_file, KILLED },
		{ "open for writing", try_write_open, KILLED },
		{ "make a directory", try_make_dir, KILLED },
		{ "link", try_link, KILLED },
		{ "symlink", try_symlink, KILLED },
		{ "chown", try_chown, KILLED },
		{ "wait4", try_wait, KILLED },
		{ "a signal by pidfd", try_pidfd_kill0, KILLED },
		{ "receive", try_recv_channel, KILLED },
		{ "read", try_read, KILLED },
		{ "chmod", try_chmod, EPERM },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++)
		check("cleaner", rows[i].what, outcome(as_cleaner, rows[i].call), rows[i].want);
	for (size_t i = 0; i < ELEMENTS(expectations); i++) {
		const struct expectation *x = &expectations[i];

		if (x->supervisor == KILLED && !strstr(x->what, "chmod") &&
		    !strstr(x->what, "close"))
			check("cleaner", x->what, outcome(as_cleaner, x->call), KILLED);
	}
}

/* The second wall. A kernel without Landlock is imitated by a filter that hides it. */
static char elsewhere[] = "/tmp/airplant-confine-elsewhere";
ATTEMPT(try_write_elsewhere, open(elsewhere, O_CREAT | O_WRONLY, 0600))
ATTEMPT(try_write_spool, openat(4, "in-spool", O_CREAT | O_WRONLY, 0600))
ATTEMPT(try_read_elsewhere, open("/etc/passwd", O_RDONLY))

static void without_landlock(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0 /* the number */),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_landlock_create_ruleset, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog hide = { ELEMENTS(code), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &hide) < 0)
		_exit(103);
	as_session();
}

static void test_wall(void **state)
{
	bool walls = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) >= 2;

	(void)state;
	if (!walls)
		print_message("THIS KERNEL HAS NO LANDLOCK: only its absence is tested\n");
	check("session", "write outside of the spool", outcome(as_session, try_write_elsewhere),
	      walls ? EACCES : FINE);
	check("session", "write in the spool", outcome(as_session, try_write_spool), FINE);
	check("session", "read", outcome(as_session, try_read_elsewhere), FINE);
	check("supervisor", "write", outcome(as_supervisor, try_write_elsewhere), FINE);
	check("no Landlock", "write", outcome(without_landlock, try_write_elsewhere), FINE);
	unlink(elsewhere);
	(void)rm_tree_at(AT_FDCWD, scratch);
	assert_int_equal(mkdir(scratch, 0700), 0);
}

static void test_core(void **state)
{
	(void)state;
	check("core", "run a program", outcome(as_core, run_true), FINE);
	check("core", "namespaces", outcome(as_core, in_own_ns), FINE);
	check("core", "file work", outcome(as_core, try_file_work), FINE);
	check("core", "delete_module", outcome(as_core, try_module), EPERM);
	check("core", "bpf", outcome(as_core, try_bpf), EPERM);
	check("core", "open_by_handle_at", outcome(as_core, try_handle), EPERM);
	check("core", "io_uring", outcome(as_core, try_uring), ENOSYS);
	check("core", "mount", outcome(as_core, try_mount), EPERM);
}

/* Paths of the builder's attempts. */
static const char *p_file, *p_new;

ATTEMPT(b_chmod_plain, chmod(p_file, 01750))
ATTEMPT(b_chmod_suid, syscall(SYS_chmod, p_file, 04755))
ATTEMPT(b_chmod_sgid, syscall(SYS_chmod, p_file, 02755))
ATTEMPT(b_fchmod, fchmod(fixture_fd, 04755))
ATTEMPT(b_fchmodat, syscall(SYS_fchmodat, AT_FDCWD, p_file, 06755))
ATTEMPT(b_fchmodat2, syscall(452, AT_FDCWD, p_file, 02755, 0))
ATTEMPT(b_open_suid, open(p_new, O_CREAT | O_WRONLY, 04755))
ATTEMPT(b_open2_suid, syscall(SYS_open, p_new, O_CREAT | O_WRONLY, 02755))
ATTEMPT(b_tmpfile_suid, open(scratch, O_TMPFILE | O_WRONLY, 04755))
ATTEMPT(b_open_garbage, syscall(SYS_openat, AT_FDCWD, p_file, O_RDONLY, 06777))
ATTEMPT(b_open_high, syscall(SYS_openat, AT_FDCWD, p_new, O_CREAT, 04755 | 1ULL << 40))
ATTEMPT(b_creat_suid, syscall(SYS_creat, p_new, 04755))
ATTEMPT(b_mknod_suid, syscall(SYS_mknod, p_new, S_IFREG | 04755, 0))
ATTEMPT(b_mknodat_suid, syscall(SYS_mknodat, AT_FDCWD, p_new, S_IFREG | 02755, 0))
ATTEMPT(b_getxattr, syscall(SYS_getxattr, p_file, "user.a", NULL, 0))
ATTEMPT(b_lgetxattr, syscall(SYS_lgetxattr, p_file, "user.a", NULL, 0))
ATTEMPT(b_fsetxattr, syscall(SYS_fsetxattr, fixture_fd, "user.a", "b", 1, 0))
ATTEMPT(b_setxattr, syscall(SYS_setxattr, p_file, "user.a", "b", 1, 0))
ATTEMPT(b_listxattr, syscall(SYS_listxattr, p_file, NULL, 0))
ATTEMPT(b_removexattr, syscall(SYS_lremovexattr, p_file, "user.a"))
ATTEMPT(b_setxattrat, syscall(463, AT_FDCWD, p_file, 0, "user.a", NULL, 0))
ATTEMPT(b_removexattrat, syscall(466, AT_FDCWD, p_file, 0, "user.a"))
ATTEMPT(b_last_reviewed, syscall(469, -1, NULL, NULL, 0, 1 << 30) < 0 && errno == EPERM ? -1 : 0)
ATTEMPT(b_next, syscall(470, 0, 0, 0, 0))
ATTEMPT(b_511, syscall(511, 0, 0, 0, 0))
ATTEMPT(b_openat2, syscall(SYS_openat2, AT_FDCWD, p_file, &(uint64_t[3]){ O_RDONLY, 0, 0 }, 24))
ATTEMPT(b_newuser, syscall(SYS_unshare, CLONE_NEWUSER))
ATTEMPT(b_clone_newuser, syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0))
ATTEMPT(b_perf, syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0))
ATTEMPT(b_add_key, syscall(SYS_add_key, "user", "x", "y", 1, -3))
ATTEMPT(b_request_key, syscall(SYS_request_key, "user", "x", NULL, 0))
ATTEMPT(b_syslog, syscall(SYS_syslog, 10, NULL, 0))
ATTEMPT(b_sti_high, syscall(SYS_ioctl, 0, 0x700005412ULL, "x"))
ATTEMPT(b_linux_console, ioctl(0, TIOCLINUX, "\x01"))
ATTEMPT(b_other_ioctl, ioctl(0, TCGETS, NULL) < 0 && errno != EPERM ? 0 : -1)
ATTEMPT(b_umount, syscall(SYS_umount2, "/nonexistent", 0))
ATTEMPT(b_fsopen, syscall(SYS_fsopen, "tmpfs", 0))
ATTEMPT(b_statmount, syscall(457, NULL, NULL, 0, 0))
ATTEMPT(b_open_tree_attr, syscall(467, -1, "/", 0, NULL, 0))
ATTEMPT(b_unix, socket(AF_UNIX, SOCK_STREAM, 0) < 0)
ATTEMPT(b_inet6, syscall(SYS_socket, AF_INET6 | 1ULL << 40, SOCK_DGRAM, 0) < 0 &&
				 errno == EAFNOSUPPORT && access("/proc/net/if_inet6", F_OK) == 0
			 ? -1
			 : 0)
ATTEMPT(b_vsock, syscall(SYS_socket, 40 | 1ULL << 40, SOCK_STREAM, 0))
ATTEMPT(b_alg, socket(AF_ALG, SOCK_SEQPACKET, 0))
ATTEMPT(b_packet, socket(AF_PACKET, SOCK_DGRAM, 0))
ATTEMPT(b_family_64, socket(64 + AF_UNIX, SOCK_STREAM, 0))
ATTEMPT(b_route, socket(AF_NETLINK, SOCK_RAW, 0))
ATTEMPT(b_generic_netlink, socket(AF_NETLINK, SOCK_RAW, 16))
ATTEMPT(b_pair, socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){ 0, 0 }))
ATTEMPT(b_tipc_pair, syscall(SYS_socketpair, 30, SOCK_STREAM, 0, NULL))
ATTEMPT(b_skipped, syscall(-1) < 0 && errno == ENOSYS ? 0 : -1)
ATTEMPT(b_ptrace, syscall(SYS_ptrace, 0 /* PTRACE_TRACEME */, 0, 0, 0))

struct builder_expectation {
	const char *what;
	long (*call)(void);
	int want;
};

static const struct builder_expectation builder_expectations[] = {
	{ "chmod 01750", b_chmod_plain, FINE },
	{ "chmod 04755", b_chmod_suid, EPERM },
	{ "chmod 02755", b_chmod_sgid, EPERM },
	{ "fchmod 04755", b_fchmod, EPERM },
	{ "fchmodat 06755", b_fchmodat, EPERM },
	{ "fchmodat2 02755", b_fchmodat2, EPERM },
	{ "openat O_CREAT 04755", b_open_suid, EPERM },
	{ "open O_CREAT 02755", b_open2_suid, EPERM },
	{ "O_TMPFILE 04755", b_tmpfile_suid, EPERM },
	{ "mode without O_CREAT", b_open_garbage, FINE },
	{ "mode with high bits", b_open_high, EPERM },
	{ "creat", b_creat_suid, EPERM },
	{ "mknod", b_mknod_suid, EPERM },
	{ "mknodat", b_mknodat_suid, EPERM },
	{ "getxattr", b_getxattr, ENOTSUP },
	{ "lgetxattr", b_lgetxattr, ENOTSUP },
	{ "fsetxattr", b_fsetxattr, ENOTSUP },
	{ "setxattr", b_setxattr, ENOTSUP },
	{ "listxattr", b_listxattr, ENOTSUP },
	{ "lremovexattr", b_removexattr, ENOTSUP },
	{ "setxattrat", b_setxattrat, ENOTSUP },
	{ "removexattrat", b_removexattrat, ENOTSUP },
	{ "the last reviewed call", b_last_reviewed, FINE },
	{ "the first unknown call", b_next, ENOSYS },
	{ "call 511", b_511, ENOSYS },
	{ "openat2", b_openat2, FINE },
	{ "ptrace", b_ptrace, FINE },
	{ "io_uring", try_uring, ENOSYS },
	{ "file work", try_file_work, FINE },
	{ "a program", run_true, FINE },
	{ "delete_module", try_module, EPERM },
	{ "bpf", try_bpf, EPERM },
	{ "open_by_handle_at", try_handle, EPERM },
	{ "userfaultfd", try_userfaultfd, EPERM },
	{ "perf_event_open", b_perf, EPERM },
	{ "keyctl", try_keyctl, EPERM },
	{ "add_key", b_add_key, EPERM },
	{ "request_key", b_request_key, EPERM },
	{ "syslog", b_syslog, EPERM },
	{ "TIOCSTI", try_ioctl, EPERM },
	{ "TIOCSTI with high bits", b_sti_high, EPERM },
	{ "TIOCLINUX", b_linux_console, EPERM },
	{ "another ioctl", b_other_ioctl, FINE },
	{ "a unix socket", b_unix, FINE },
	{ "an IPv6 socket with high bits", b_inet6, FINE },
	{ "a route socket", b_route, FINE },
	{ "a pair of sockets", b_pair, FINE },
	{ "vsock with high bits", b_vsock, EAFNOSUPPORT },
	{ "AF_ALG", b_alg, EAFNOSUPPORT },
	{ "a family not yet known", b_family_64, EAFNOSUPPORT },
	{ "a pair of TIPC sockets", b_tipc_pair, EAFNOSUPPORT },
	{ "a call skipped by a tracer", b_skipped, FINE },
	{ "another namespace", try_unshare, FINE },
};

/* What differs between a builder and one that may have sandboxes of its own. */
static const struct {
	const char *what;
	long (*call)(void);
	int plain, nested;
} nesting[] = {
	{ "unshare a user namespace", b_newuser, EPERM, FINE },
	{ "clone a user namespace", b_clone_newuser, EPERM, FINE },
	{ "setns", try_setns, EPERM, EBADF },
	{ "mount", try_mount, EPERM, EINVAL },
	{ "umount2", b_umount, EPERM, ENOENT },
	{ "clone3", try_vfork, ENOSYS, EINVAL },
	{ "fsopen", b_fsopen, ENOSYS, FINE },
	{ "statmount", b_statmount, ENOSYS, SKIP },
	{ "open_tree_attr", b_open_tree_attr, ENOSYS, SKIP },
	{ "AF_PACKET", b_packet, EAFNOSUPPORT, EPERM },
	{ "generic netlink", b_generic_netlink, EPROTONOSUPPORT, FINE },
};

static void test_builder(void **state)
{
	char file[128], fresh[128];

	(void)state;
	file_path(file, sizeof(file), "file");
	file_path(fresh, sizeof(fresh), "fresh");
	p_file = file;
	p_new = fresh;
	fixture_fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	assert_true(fixture_fd >= 0);
	for (size_t i = 0; i < ELEMENTS(builder_expectations); i++) {
		const struct builder_expectation *x = &builder_expectations[i];

		check("builder", x->what, outcome(as_builder, x->call), x->want);
		if (x->want == EPERM)
			assert_int_equal(access(fresh, F_OK), -1);
	}
	for (size_t i = 0; i < ELEMENTS(nesting); i++) {
		check("builder", nesting[i].what, outcome(as_builder, nesting[i].call),
		      nesting[i].plain);
		if (nesting[i].nested != SKIP) /* newer than some kernels */
			check("builder with sandboxes", nesting[i].what,
			      outcome(as_nested_builder, nesting[i].call), nesting[i].nested);
	}
	close(fixture_fd);
	fixture_fd = -1;
	unlink(file);
}

#ifdef __x86_64__
/* int 0x80: the 32-bit table, as an i686 builder sees it. */
static long call32(long nr, long a, long b)
{
	long r;

	__asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(0) : "memory");
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}
ATTEMPT(b32_getpid, call32(20, 0, 0))
ATTEMPT(b32_fchmod, call32(94, fixture_fd, 04755))
ATTEMPT(b32_fchmod_plain, call32(94, fixture_fd, 0755))
ATTEMPT(b32_uring, call32(425, 0, 0))
ATTEMPT(b32_fgetxattr, call32(231, fixture_fd, 0))
ATTEMPT(b32_unknown, call32(490, 0, 0))
ATTEMPT(b32_newuser, call32(310, CLONE_NEWUSER, 0))
ATTEMPT(b32_vsock, call32(359, 40, SOCK_STREAM))
ATTEMPT(b32_unix, call32(359, AF_UNIX, SOCK_STREAM))
/* Its arguments lie at an address that a 64-bit process' stack cannot have. */
ATTEMPT(b32_socketcall, call32(102, 1 /* SOCKET */, 0))
ATTEMPT(b32_socketcall_pair, call32(102, 8 /* SOCKETPAIR */, 0))
ATTEMPT(b32_socketcall_shutdown, call32(102, 13 /* SHUTDOWN */, 0))
ATTEMPT(b_x32, syscall(0x40000000 | SYS_getpid))

static void test_builder_i686(void **state)
{
	char file[128];

	(void)state;
	if (call32(20, 0, 0) != getpid())
		skip(); /* this kernel has no 32-bit entry */
	file_path(file, sizeof(file), "file");
	fixture_fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	check("i686", "getpid", outcome(as_builder, b32_getpid), FINE);
	check("i686", "fchmod 0755", outcome(as_builder, b32_fchmod_plain), FINE);
	check("i686", "fchmod 04755", outcome(as_builder, b32_fchmod), EPERM);
	check("i686", "fgetxattr", outcome(as_builder, b32_fgetxattr), ENOTSUP);
	check("i686", "io_uring", outcome(as_builder, b32_uring), ENOSYS);
	check("i686", "unknown", outcome(as_builder, b32_unknown), ENOSYS);
	check("i686", "user namespace", outcome(as_builder, b32_newuser), EPERM);
	check("i686", "vsock", outcome(as_builder, b32_vsock), EAFNOSUPPORT);
	check("i686", "unix", outcome(as_builder, b32_unix), FINE);
	check("i686", "socketcall", outcome(as_builder, b32_socketcall), EAFNOSUPPORT);
	check("i686", "its pair", outcome(as_builder, b32_socketcall_pair), EAFNOSUPPORT);
	check("i686", "its shutdown", outcome(as_builder, b32_socketcall_shutdown), EFAULT);
	check("i686 platform", "socketcall", outcome(as_i686_builder, b32_socketcall), EFAULT);
	check("i686 platform", "vsock", outcome(as_i686_builder, b32_vsock), EAFNOSUPPORT);
	check("x32", "getpid", outcome(as_builder, b_x32), ENOSYS);
	check("session", "32-bit getpid", outcome(as_session, b32_getpid), KILLED);
	check("core", "32-bit getpid", outcome(as_core, b32_getpid), FINE);
	close(fixture_fd);
	fixture_fd = -1;
	unlink(file);
}
#endif

/* The state after the seal, read by someone else: the kernel's own words in /proc. */
static void status_of(enum confine_profile p, char *ret, size_t size)
{
	int ready[2];
	char path[64], c;
	_cleanup_close_ int fd = -1;
	pid_t pid;
	ssize_t n;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		/* Out of the way of what the seal finds at 3 and 4. */
		int say = fcntl(ready[1], F_DUPFD, 10);

		close(ready[1]);
		seal_or_exit(p);
		(void)!write(say, "x", 1);
		for (;;)
			sleep(60); /* which every profile may */
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	fd = open(path, O_RDONLY);
	n = read(fd, ret, size - 1);
	assert_true(n > 0);
	ret[n] = 0;
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(ready[0]);
}

static void has_line(const char *status, const char *key, const char *value)
{
	char want[64];

	snprintf(want, sizeof(want), "%s:\t%s\n", key, value);
	if (!strstr(status, want))
		fail_msg("no '%s' in:\n%s", want, status);
}

static void test_status(void **state)
{
	static const struct {
		enum confine_profile p;
		const char *caps;
		bool root_only;
	} rows[] = {
		{ CONFINE_SESSION, "0000000000000000", false },
		{ CONFINE_SUPERVISOR, "000000000000002f", false },
		{ CONFINE_CLEANER, "000000000000000a", false },
		{ CONFINE_CORE, "0000000000000000", false },
		{ CONFINE_IDS, "00000000000000c0", true },
		{ CONFINE_ROOTS, "0000000000080004", true },
	};
	char status[8192];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		if (rows[i].root_only && getuid() != 0)
			continue;
		status_of(rows[i].p, status, sizeof(status));
		has_line(status, "CapInh", "0000000000000000");
		has_line(status, "CapPrm", rows[i].caps);
		has_line(status, "CapEff", rows[i].caps);
		if (rows[i].p != CONFINE_CORE || getuid() == 0)
			has_line(status, "CapBnd", rows[i].caps);
		has_line(status, "CapAmb", "0000000000000000");
		has_line(status, "NoNewPrivs", "1");
		has_line(status, "Seccomp", "2");
	}
}

/* Without the capabilities it needs, a profile refuses and says so. */
static void test_missing_caps(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	if (pid == 0) {
		_cleanup_err_ struct err e = { 0 };
		struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
		struct __user_cap_data_struct d[2] = { { 0 }, { 0 } };

		if (syscall(SYS_capset, &h, d) < 0)
			_exit(1);
		if (confine_seal(CONFINE_IDS, &e) != -EPERM || !strstr(err_msg(&e), "c0"))
			_exit(2);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_subid(void **state)
{
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		_cleanup_err_ struct err e = { 0 };

		if (confine_seal(CONFINE_CORE_SUBID, &e) < 0)
			_exit(1);
		if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 0 ||
		    prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0)
			_exit(2);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static int make_scratch(void **state)
{
	(void)state;
	return mkdtemp(scratch) ? 0 : -1;
}

static int drop_scratch(void **state)
{
	(void)state;
	return rm_tree_at(AT_FDCWD, scratch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_profiles),     cmocka_unit_test(test_roots),
		cmocka_unit_test(test_cleaner),	     cmocka_unit_test(test_wall),
		cmocka_unit_test(test_core),	     cmocka_unit_test(test_builder),
#ifdef __x86_64__
		cmocka_unit_test(test_builder_i686),
#endif
		cmocka_unit_test(test_status),	     cmocka_unit_test(test_missing_caps),
		cmocka_unit_test(test_subid),
	};

	return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
