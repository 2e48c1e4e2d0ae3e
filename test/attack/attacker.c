/* What a hostile builder tries. Static, since a sandbox has no libraries; one word chooses the attack,
 * and each prints one line per attempt, which the test reads. Runs inside of builds, and (hold, poke)
 * outside of them. Built by attacks.py. */
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/netlink.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *what, long r)
{
	printf("%s: %s\n", what, r < 0 ? strerrorname_np(errno) : "ok");
	fflush(stdout);
}

static void wait_for_file(const char *path)
{
	for (int i = 0; i < 1500 && access(path, F_OK) < 0; i++)
		usleep(20000);
}

static void touch(const char *path)
{
	close(open(path, O_CREAT | O_WRONLY, 0666));
}

/* --- modes: a set-user-ID file, in every way there is ---------------------------------------- */

static char *low; /* below 4 GiB, for 32-bit entries */

static long i386(long nr, long a, long b, long c, long d)
{
	long r;

	__asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
			 : "memory", "r8", "r9", "r10", "r11");
	r = (int)r;
	if (r < 0) {
		errno = (int)-r;
		return -1;
	}
	return r;
}

#define X32 0x40000000
static const char *name; /* of the file in question, in low memory */

static void plain_file(void)
{
	unlink(name);
	close(open(name, O_CREAT | O_WRONLY, 0755));
}

static void judge(const char *how, long r)
{
	struct stat st = { 0 };
	int e = r < 0 ? errno : 0;

	if (lstat(name, &st) < 0)
		st.st_mode = 0;
	printf("%s: %s mode %04o\n", how, e ? strerrorname_np(e) : "ok", st.st_mode & 07777);
	unlink(name);
}

/* fd-based calls of one entry: `base` 0 or X32 */
static void modes_64(const char *entry, long base, mode_t mode)
{
	char how[64];
	int fd;
	struct open_how oh = { .flags = O_CREAT | O_WRONLY | O_EXCL, .mode = mode };
#define TRY(label, make, call)                                                                     \
	do {                                                                                       \
		if (make)                                                                          \
			plain_file();                                                              \
		snprintf(how, sizeof(how), "%s %s %04o", entry, label, mode);                      \
		judge(how, call);                                                                  \
	} while (0)
	long at = (long)AT_FDCWD, n = (long)name;

	TRY("chmod", 1, syscall(base | SYS_chmod, n, mode));
	plain_file();
	fd = open(name, O_RDONLY);
	TRY("fchmod", 0, syscall(base | SYS_fchmod, fd, mode));
	close(fd);
	TRY("fchmodat", 1, syscall(base | SYS_fchmodat, at, n, mode));
	TRY("fchmodat2", 1, syscall(base | 452, at, n, mode, 0));
	plain_file();
	fd = open(name, O_PATH);
	TRY("fchmodat2-fd", 0, syscall(base | 452, fd, "", mode, AT_EMPTY_PATH));
	close(fd);
	plain_file();
	fd = open(name, O_PATH);
	snprintf(low + 512, 64, "/proc/self/fd/%d", fd);
	TRY("chmod-proc", 0, syscall(base | SYS_chmod, low + 512, mode));
	close(fd);
	TRY("creat", 0, syscall(base | SYS_creat, n, mode));
	TRY("open", 0, syscall(base | SYS_open, n, O_CREAT | O_WRONLY, mode));
	TRY("openat", 0, syscall(base | SYS_openat, at, n, O_CREAT | O_WRONLY, mode));
	TRY("mknod", 0, syscall(base | SYS_mknod, n, S_IFREG | mode, 0));
	TRY("mknodat", 0, syscall(base | SYS_mknodat, at, n, S_IFREG | mode, 0));
	fd = (int)syscall(base | SYS_openat, at, ".", O_TMPFILE | O_RDWR, mode);
	snprintf(low + 512, 64, "/proc/self/fd/%d", fd);
	TRY("tmpfile", 0, fd < 0 ? -1 : linkat(AT_FDCWD, low + 512, AT_FDCWD, name, AT_SYMLINK_FOLLOW));
	close(fd);
	TRY("openat2", 0, syscall(base | SYS_openat2, at, n, &oh, sizeof(oh)));
	/* A write through a mapping takes no bit away, unlike write(2). */
	unlink(name);
	oh.flags = O_CREAT | O_RDWR | O_EXCL;
	fd = (int)syscall(base | SYS_openat2, at, n, &oh, sizeof(oh));
	if (fd >= 0) {
		char *m;

		(void)!ftruncate(fd, 4096);
		m = mmap(NULL, 4096, PROT_WRITE | PROT_READ, MAP_SHARED, fd, 0);
		if (m != MAP_FAILED)
			memcpy(m, "#!/bin/sh\n", 10);
	}
	TRY("openat2-mapped", 0, fd);
	close(fd);
}

static void modes_32(mode_t mode)
{
	char how[64];
	const char *entry = "i386";
	long n = (long)name, at = AT_FDCWD;
	int fd;
	struct open_how *oh = (void *)(low + 1024);

	*oh = (struct open_how){ .flags = O_CREAT | O_WRONLY | O_EXCL, .mode = mode };
	TRY("chmod", 1, i386(15, n, mode, 0, 0));
	plain_file();
	fd = open(name, O_RDONLY);
	TRY("fchmod", 0, i386(94, fd, mode, 0, 0));
	close(fd);
	TRY("fchmodat", 1, i386(306, at, n, mode, 0));
	TRY("fchmodat2", 1, i386(452, at, n, mode, 0));
	TRY("creat", 0, i386(8, n, mode, 0, 0));
	TRY("open", 0, i386(5, n, O_CREAT | O_WRONLY, mode, 0));
	TRY("openat", 0, i386(295, at, n, O_CREAT | O_WRONLY, mode));
	TRY("mknod", 0, i386(14, n, S_IFREG | mode, 0, 0));
	TRY("mknodat", 0, i386(297, at, n, S_IFREG | mode, 0));
	TRY("openat2", 0, i386(437, at, n, (long)oh, sizeof(*oh)));
}

/* A tracer that exchanges the call after the tracee made it: the filter must look afterwards. */
static void modes_traced(mode_t mode)
{
	struct user_regs_struct regs;
	int status;
	pid_t pid;

	plain_file();
	pid = fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(syscall(SYS_chmod, name, 0700) < 0 ? errno : 0);
	}
	waitpid(pid, &status, 0);
	ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
	for (int entered = 0;;) {
		if (ptrace(PTRACE_SYSCALL, pid, 0, 0) < 0 || waitpid(pid, &status, 0) < 0 ||
		    WIFEXITED(status) || WIFSIGNALED(status))
			break;
		if (WSTOPSIG(status) != (SIGTRAP | 0x80))
			continue;
		entered = !entered;
		ptrace(PTRACE_GETREGS, pid, 0, &regs);
		if (entered && regs.orig_rax == SYS_chmod) {
			regs.rsi = mode;
			ptrace(PTRACE_SETREGS, pid, 0, &regs);
		}
	}
	errno = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
	judge("ptrace chmod", errno ? -1 : 0);
}

static int modes(char **argv)
{
	static const mode_t all[] = { 04755, 02755, 06711 };

	low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	name = strcpy(low, argv[0]);
	umask(0);
	for (size_t i = 0; i < 3; i++) {
		modes_64("x86_64", 0, all[i]);
		modes_64("x32", X32, all[i]);
		modes_32(all[i]);
		modes_traced(all[i]);
	}
	return 0;
}

/* Leaves a set-user-ID file, by the one way that the filter cannot see. */
static int plant(char **argv)
{
	struct open_how oh = { .flags = O_CREAT | O_RDWR | O_EXCL, .mode = 06755 };
	struct stat st;
	int fd;

	umask(0);
	fd = (int)syscall(SYS_openat2, AT_FDCWD, argv[0], &oh, sizeof(oh));
	if (fd < 0)
		return 1;
	fstat(fd, &st);
	printf("planted with mode %04o\n", st.st_mode & 07777);
	(void)!write(fd, "x", 1);
	fstat(fd, &st);
	printf("with something in it: mode %04o\n", st.st_mode & 07777);
	unlink(argv[0]);
	close((int)syscall(SYS_openat2, AT_FDCWD, argv[0], &oh, sizeof(oh)));
	return 0;
}

static int whoami(char **argv)
{
	(void)argv;
	printf("uid %u euid %u\n", getuid(), geteuid());
	return 0;
}

/* --- descriptors over sockets ------------------------------------------------------------------ */

static int address(const char *path, struct sockaddr_un *a)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	strncpy(a->sun_path, path, sizeof(a->sun_path) - 1);
	if (path[0] == '@')
		a->sun_path[0] = 0;
	return (int)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + (path[0] != '@'));
}

/* send PATH FILE FLAGS: FLAGS "rw", "r", "dir", "map" */
static int send_fd(char **argv)
{
	struct sockaddr_un a;
	socklen_t len = (socklen_t)address(argv[0], &a);
	int flags = !strcmp(argv[2], "rw") ? O_RDWR | O_CREAT : !strcmp(argv[2], "dir") ? O_DIRECTORY : O_RDONLY;
	int s = socket(AF_UNIX, SOCK_STREAM, 0), fd = open(argv[1], flags, 0644), r = -1;
	char c = 'x', control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &c, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	for (int i = 0; i < 100 && r < 0; i++) {
		r = connect(s, (void *)&a, len);
		if (r < 0)
			usleep(argv[3] ? 20000 : 1);
	}
	say("connect", r);
	if (r < 0)
		return 0;
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &fd, sizeof(int));
	say("send", fd < 0 ? -1 : sendmsg(s, &m, 0));
	(void)!read(s, &c, 1);
	return 0;
}

/* hold SOCKET GO KIND: takes a descriptor, lets its sender end, waits for GO and writes to it */
static int hold(char **argv)
{
	struct sockaddr_un a;
	socklen_t len = (socklen_t)address(argv[0], &a);
	int s = socket(AF_UNIX, SOCK_STREAM, 0), fd = -1, c, reopened;
	char x, control[CMSG_SPACE(sizeof(int))], proc[64], *map = MAP_FAILED;
	struct iovec iov = { &x, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };

	unlink(argv[0]);
	umask(0);
	if (bind(s, (void *)&a, len) < 0 || listen(s, 5) < 0)
		return 1;
	printf("listening\n");
	fflush(stdout);
	c = accept(s, NULL, NULL);
	if (recvmsg(c, &m, 0) <= 0 || !CMSG_FIRSTHDR(&m))
		return 2;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	if (!strcmp(argv[2], "map")) { /* keep the mapping alone */
		map = mmap(NULL, 6, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		say("map", map == MAP_FAILED ? -1 : 0);
		close(fd);
		fd = -1;
	}
	(void)!write(c, "x", 1);
	printf("held\n");
	fflush(stdout);
	wait_for_file(argv[1]);
	if (map != MAP_FAILED) {
		memcpy(map, "evil!\n", 6);
		say("mapped", msync(map, 6, MS_SYNC));
	}
	if (fd >= 0) {
		say("fchmod", fchmod(fd, 0755));
		say("write", pwrite(fd, "evil!\n", 6, 0));
		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
		reopened = open(proc, O_RDWR);
		say("reopen", reopened);
		if (reopened >= 0)
			say("rewrite", pwrite(reopened, "evil!\n", 6, 0));
		say("create", openat(fd, "evil", O_CREAT | O_WRONLY, 0644));
		say("unlink", unlinkat(fd, "file", 0));
	}
	return 0;
}

/* --- reach: everything that might be outside ---------------------------------------------------- */

static long opens(const char *path, int flags)
{
	int fd = open(path, flags);

	if (fd >= 0)
		close(fd);
	return fd;
}

static void reach_processes(void)
{
	char path[64];

	for (int pid = 2; pid < 5000; pid++)
		if (pid != getpid() && kill(pid, 0) == 0)
			printf("sees process %d\n", pid);
	say("kill -1", kill(-1, SIGCONT)); /* everybody but itself and the first: nobody */
	for (const char *const *f = (const char *const[]){ "root", "cwd", "exe", "ns/user", NULL }; *f; f++) {
		char to[256] = "";

		snprintf(path, sizeof(path), "/proc/1/%s", *f);
		(void)!readlink(path, to, sizeof(to) - 1);
		printf("/proc/1/%s is %s\n", *f, to);
	}
	say("open /proc/1/root/etc/shadow", opens("/proc/1/root/etc/shadow", O_RDONLY));
	say("oom_score_adj -1000", ({ int fd = open("/proc/self/oom_score_adj", O_WRONLY); fd < 0 ? -1 : write(fd, "-1000", 5); }));
	say("nice -20", setpriority(PRIO_PROCESS, 0, -20));
	say("real-time", sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ 50 }));
	say("hard nofile up", ({ struct rlimit l = { 1 << 30, 1 << 30 }; setrlimit(RLIMIT_NOFILE, &l); }));
	say("uid 0", setresuid(0, 0, 0));
	say("uid 1", setresuid(1, 1, 1));
	say("gid 0", setresgid(0, 0, 0));
	say("setgroups", syscall(SYS_setgroups, 1, (gid_t[]){ 0 }));
	say("securebits", prctl(PR_SET_SECUREBITS, 0));
	say("chroot", chroot("/tmp"));
	say("sethostname", sethostname("x", 1));
	say("settimeofday", settimeofday(&(struct timeval){ 0 }, NULL));
	say("pidfd of 0", syscall(SYS_pidfd_open, 0, 0));
}

static void reach_namespaces(void)
{
	static const struct { const char *what; int flag; } flags[] = {
		{ "NEWUSER", CLONE_NEWUSER }, { "NEWNS", CLONE_NEWNS }, { "NEWPID", CLONE_NEWPID },
		{ "NEWNET", CLONE_NEWNET }, { "NEWIPC", CLONE_NEWIPC }, { "NEWUTS", CLONE_NEWUTS },
		{ "NEWCGROUP", CLONE_NEWCGROUP }, { "NEWTIME", 0x80 } };
	static const char *const kinds[] = { "user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time" };
	char what[64];
	int fd;

	for (size_t i = 0; i < 8; i++) {
		snprintf(what, sizeof(what), "unshare %s", flags[i].what);
		say(what, unshare(flags[i].flag));
		snprintf(what, sizeof(what), "/proc/self/ns/%s", kinds[i]);
		fd = open(what, O_RDONLY);
		snprintf(what, sizeof(what), "setns %s", kinds[i]);
		say(what, setns(fd, 0));
		snprintf(what, sizeof(what), "parent of %s", kinds[i]);
		say(what, ioctl(fd, _IO(0xb7, 2)));
		snprintf(what, sizeof(what), "owner of %s", kinds[i]);
		fd = ioctl(fd, _IO(0xb7, 1));
		/* Its own user namespace is no news. */
		if (fd >= 0) {
			struct stat a, b;

			fstat(fd, &a);
			stat("/proc/self/ns/user", &b);
			if (a.st_ino == b.st_ino)
				errno = EPERM, fd = -1;
		}
		say(what, fd);
	}
	say("clone NEWUSER", ({ long r = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0); if (r == 0) _exit(0); r; }));
	say("clone3", syscall(SYS_clone3, &(uint64_t[11]){ CLONE_NEWUSER, 0, 0, 0, SIGCHLD }, 88));
	say("mount", mount("x", "/tmp", "tmpfs", 0, ""));
	say("remount", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
	say("umount", umount2("/proc", MNT_DETACH));
	say("pivot_root", syscall(SYS_pivot_root, ".", "."));
	say("open_tree", syscall(428, AT_FDCWD, "/", 1));
	say("fsopen", syscall(430, "tmpfs", 0));
	say("fsopen x32", syscall(X32 | 430, "tmpfs", 0));
	say("statmount", syscall(457, NULL, NULL, 0, 0));
	say("newest call", syscall(480, 0, 0, 0));
}

static void reach_machine(void)
{
	static const struct { const char *what; long nr; } calls[] = {
		{ "syslog", SYS_syslog }, { "bpf", SYS_bpf }, { "perf_event_open", SYS_perf_event_open },
		{ "userfaultfd", SYS_userfaultfd }, { "io_uring_setup", 425 }, { "keyctl", SYS_keyctl },
		{ "add_key", SYS_add_key }, { "request_key", SYS_request_key }, { "iopl", SYS_iopl },
		{ "acct", SYS_acct }, { "swapon", SYS_swapon }, { "reboot", SYS_reboot },
		{ "init_module", SYS_init_module }, { "kexec_load", SYS_kexec_load }, { "quotactl", SYS_quotactl },
		{ "open_by_handle_at", SYS_open_by_handle_at }, { "fanotify_init", SYS_fanotify_init },
		{ "clock_settime", SYS_clock_settime }, { "lookup_dcookie", 212 }, { "vhangup", SYS_vhangup } };
	static const char *const files[] = {
		"/dev/kmsg", "/dev/mem", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/vsock", "/dev/sda", "/dev/vda",
		"/dev/console", "/dev/tty0", "/dev/mqueue", "/proc/kcore", "/proc/sysrq-trigger",
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward",
		"/proc/sys/kernel/ns_last_pid", "/proc/sys/fs/binfmt_misc/register", "/proc/self/setgroups",
		"/sys/kernel", "/sys/fs/cgroup" };

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		say(calls[i].what, syscall(calls[i].nr, 3, 0, 0, 0, 0, 0));
	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
		say(files[i], opens(files[i], strstr(files[i], "/proc/") ? O_WRONLY : O_RDONLY));
	say("map again", ({ int fd = open("/proc/self/uid_map", O_WRONLY); write(fd, "0 0 1", 5); }));
	say("map a group again", ({ int fd = open("/proc/self/gid_map", O_WRONLY); write(fd, "0 0 1", 5); }));
	say("session keyring", syscall(SYS_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3, 1));
	say("key", syscall(SYS_add_key, "user", "airplant-attack", "x", 1, -2));
	say("TIOCSTI", ioctl(1, 0x5412, "x"));
	say("TIOCSTI with high bits", syscall(SYS_ioctl, 1, 0x100005412UL, "x"));
	say("TIOCLINUX", ioctl(1, 0x541c, "\3"));
	say("terminal", ioctl(1, 0x540e /* TIOCSCTTY */, 1) < 0 ? opens("/dev/tty", O_RDWR) : -(errno = EPERM, 1));
	say("immutable", ({ int fd = open("flagged", O_CREAT | O_RDWR, 0644); long f = 0x10; ioctl(fd, 0x40086602, &f); }));
	say("append", ({ int fd = open("flagged", O_CREAT | O_RDWR, 0644); long f = 0x20; ioctl(fd, 0x40086602, &f); }));
}

static void reach_sockets(void)
{
	static const struct { const char *what; int family, type, protocol; } s[] = {
		{ "vsock", 40, SOCK_STREAM, 0 }, { "alg", 38, SOCK_SEQPACKET, 0 }, { "packet", 17, SOCK_RAW, 0 },
		{ "key", 15, SOCK_RAW, 2 }, { "raw", AF_INET, SOCK_RAW, 1 }, { "bluetooth", 31, SOCK_RAW, 1 },
		{ "tipc", 30, SOCK_RDM, 0 }, { "can", 29, SOCK_RAW, 1 }, { "smc", 43, SOCK_STREAM, 0 },
		{ "xdp", 44, SOCK_RAW, 0 }, { "rds", 21, SOCK_SEQPACKET, 0 }, { "qipcrtr", 42, SOCK_DGRAM, 0 } };
	char what[32];

	for (size_t i = 0; i < sizeof(s) / sizeof(*s); i++)
		say(s[i].what, socket(s[i].family, s[i].type, s[i].protocol));
	say("x32 vsock", syscall(X32 | SYS_socket, 40, SOCK_STREAM, 0));
	for (int p = 1; p < 23; p++) {
		snprintf(what, sizeof(what), "netlink %d", p);
		say(what, socket(AF_NETLINK, SOCK_RAW, p));
	}
}

static int reach(char **argv)
{
	(void)argv;
	reach_processes();
	reach_namespaces();
	reach_machine();
	reach_sockets();
	return 0;
}

/* --- ipc: leave something for, or find something of, another build ------------------------------ */

static int ipc(char **argv)
{
	bool leave = !strcmp(argv[0], "leave");
	int flags = leave ? IPC_CREAT | 0666 : 0;
	struct sockaddr_un a;
	socklen_t len = (socklen_t)address("@airplant-attack", &a);
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	struct { long attr[8]; } mq = { { 0, 10, 64 } };

	umask(0);
	say("shm", shmget(0x41504c41, 4096, flags));
	say("msg", msgget(0x41504c41, flags));
	say("sem", semget(0x41504c41, 1, flags));
	say("mq", syscall(SYS_mq_open, "airplant-attack", leave ? O_CREAT | O_RDWR : O_RDWR, 0666, leave ? &mq : NULL));
	say("dev-shm", open("/dev/shm/airplant-attack", leave ? O_CREAT | O_RDWR : O_RDWR, 0666));
	say("tmp", open("/tmp/airplant-attack", leave ? O_CREAT | O_RDWR : O_RDWR, 0666));
	say("abstract", leave ? bind(s, (void *)&a, len) : connect(s, (void *)&a, len));
	if (leave)
		listen(s, 1);
	if (argv[1]) {
		touch(argv[1]);
		wait_for_file(argv[2]);
	}
	return 0;
}

/* --- outlive: processes that do not want to end -------------------------------------------------- */

static void last_word(const char *path)
{
	/* Alive as long as it appends. */
	for (;;) {
		int fd = open(path, O_CREAT | O_WRONLY | O_APPEND, 0666);

		(void)!write(fd, ".", 1);
		close(fd);
		usleep(20000);
	}
}

static int outlive(char **argv)
{
	static const int from[] = { SIGHUP, SIGTERM, SIGINT, SIGQUIT, SIGPIPE, SIGUSR1 };
	pid_t pid;

	umask(0);
	for (size_t i = 0; i < 6; i++)
		signal(from[i], SIG_IGN);
	prctl(PR_SET_PDEATHSIG, 0);
	if (fork() == 0) { /* the daemon's way */
		setsid();
		if (fork() == 0) {
			close(0);
			close(1);
			close(2);
			last_word(argv[0]);
		}
		_exit(0);
	}
	if (fork() == 0) { /* stopped */
		raise(SIGSTOP);
		last_word(argv[0]);
	}
	pid = fork();
	if (pid == 0) { /* traced and stopped, by one that is stopped itself */
		pid_t tracee = fork();

		if (tracee == 0)
			last_word(argv[0]);
		ptrace(PTRACE_SEIZE, tracee, 0, 0);
		ptrace(PTRACE_INTERRUPT, tracee, 0, 0);
		raise(SIGSTOP);
		_exit(0);
	}
	if (fork() == 0) { /* waits for a child that shares its memory: not for signals */
		if (vfork() == 0) {
			usleep(100000000);
			_exit(0);
		}
		_exit(0);
	}
	if (unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0) {
		printf("nested\n");
		if (fork() == 0) {
			setsid();
			last_word(argv[0]);
		}
	}
	wait_for_file(argv[0]);
	usleep(100000);
	printf("leaving\n");
	return argv[1] ? atoi(argv[1]) : 0;
}

/* --- small ones ------------------------------------------------------------------------------------ */

/* Bits of maps that the kernel must refuse, in a user namespace of its own (nested-sandboxes). */
static int map_ids(char **argv)
{
	static const char *const lines[] = { "0 0 1", "0 1 1", "0 101 1", "0 1001 1", "0 65536 1", "0 0 65536", "0 1 4294967294" };
	int gate[2], done[2];
	char path[64], c;
	pid_t pid;

	(void)argv;
	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		(void)!pipe(gate);
		(void)!pipe(done);
		pid = fork();
		if (pid == 0) {
			c = unshare(CLONE_NEWUSER) == 0 ? 'y' : 'n';
			(void)!write(done[1], &c, 1);
			(void)!read(gate[0], &c, 1);
			_exit(0);
		}
		(void)!read(done[0], &c, 1);
		for (int g = 0; g < 2; g++) {
			snprintf(path, sizeof(path), "/proc/%d/%s", pid, g ? "gid_map" : "uid_map");
			int fd = open(path, O_WRONLY);

			printf("%s %s: %s %s\n", g ? "gid" : "uid", lines[i], c == 'y' ? "unshared" : "not",
			       fd < 0 || write(fd, lines[i], strlen(lines[i])) < 0 ? strerrorname_np(errno) : "MAPPED");
			close(fd);
		}
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	return 0;
}

static int deep(char **argv)
{
	char long_name[200];

	memset(long_name, 'd', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = 0;
	if (mkdir(argv[0], 0755) < 0 || chdir(argv[0]) < 0)
		return 1;
	for (int i = 0; i < atoi(argv[1]); i++) {
		touch("file");
		if (mkdir(long_name, 0755) < 0 || chdir(long_name) < 0)
			return 1;
	}
	if (argv[2])
		chmod(".", 0);
	return 0;
}

/* Names that are all a file system allows. */
static int names(char **argv)
{
	char n255[256];
	const char *all[] = { "new\nline", "\xff\xfe\x80", "...", "..x", "-rf", " ", "\x1b[31m", "a\\b", "*", n255 };

	memset(n255, '\xe4', 255);
	n255[255] = 0;
	if (mkdir(argv[0], 0755) < 0 || chdir(argv[0]) < 0)
		return 1;
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		int fd = open(all[i], O_CREAT | O_WRONLY, 0644);

		if (fd < 0 || write(fd, all[i], strlen(all[i])) < 0)
			return 1;
		close(fd);
	}
	return 0;
}

static int sparse(char **argv)
{
	int fd = open(argv[0], O_CREAT | O_WRONLY, 0644);

	return ftruncate(fd, atoll(argv[1])) < 0;
}

/* Until nothing goes any more: descriptors, inodes of a directory, bytes of a file. */
static int exhaust(char **argv)
{
	char path[512];
	long n = 0;

	if (!strcmp(argv[0], "fds"))
		for (; open("/dev/null", O_RDONLY) >= 0; n++)
			;
	else if (!strcmp(argv[0], "pipes"))
		for (int p[2]; pipe(p) == 0; n++)
			;
	else if (!strcmp(argv[0], "inodes"))
		for (;; n++) {
			int fd;

			snprintf(path, sizeof(path), "%s/%ld", argv[1], n);
			fd = open(path, O_CREAT | O_WRONLY, 0644);
			if (fd < 0)
				break;
			close(fd);
		}
	else {
		static char block[1 << 20];
		int fd = open(argv[1], O_CREAT | O_WRONLY, 0644);

		memset(block, 'x', sizeof(block));
		while (write(fd, block, sizeof(block)) > 0)
			n++;
	}
	printf("%s: %s\n", argv[0], strerrorname_np(errno));
	return atoi(argv[2] ? argv[2] : "1");
}

/* poke PID UID: what a user of the machine who has the build's uid may do to its first process */
static int poke(char **argv)
{
	pid_t pid = atoi(argv[0]);
	uid_t uid = (uid_t)atoi(argv[1]);
	char path[64];
	struct iovec l = { path, 8 }, r = { (void *)0x400000, 8 };
	int pidfd;

	if (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return 1;
	say("ptrace", ptrace(PTRACE_SEIZE, pid, 0, 0));
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	say("pidfd_getfd", syscall(SYS_pidfd_getfd, pidfd, 1, 0));
	say("process_vm_readv", process_vm_readv(pid, &l, 1, &r, 1, 0));
	say("process_madvise", syscall(440, pidfd, &r, 1, MADV_COLD, 0));
	say("setns", setns(pidfd, CLONE_NEWNS));
	for (const char *const *f = (const char *const[]){ "mem", "maps", "environ", "root/etc", "cwd/.", "fd/0", "fdinfo/0", "ns/mnt", "stack", "io", NULL }; *f; f++) {
		snprintf(path, sizeof(path), "/proc/%d/%s", pid, *f);
		say(*f, ({ int fd = open(path, O_RDONLY); char c; fd < 0 ? -1 : strchr(*f, '/') ? 0 : read(fd, &c, 1); }));
	}
	say("prlimit", ({ struct rlimit o; prlimit(pid, RLIMIT_NOFILE, NULL, &o); }));
	say("kill", kill(pid, SIGCONT));
	return 0;
}

static int writes_map(char **argv) /* a core, where somebody wants one */
{
	struct rlimit l;

	(void)argv;
	/* With 0 the kernel would start a handler that is a program; with 1 alone it does not. */
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, RLIM_INFINITY });
	prlimit(0, RLIMIT_CORE, &(struct rlimit){ 0, RLIM_INFINITY }, NULL);
	i386(75, RLIMIT_CORE, (long)mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0), 0, 0);
	getrlimit(RLIMIT_CORE, &l);
	printf("core limit %ld %ld\n", (long)l.rlim_cur, (long)l.rlim_max);
	return 0;
}

static int hog_line(char **argv)
{
	static char block[1 << 20];

	memset(block, 'x', sizeof(block));
	for (long left = atol(argv[0]); left > 0; left--)
		if (write(1, block, sizeof(block)) < 0)
			return 1;
	return 0;
}

static int link_to(char **argv)
{
	say("link", linkat(AT_FDCWD, argv[0], AT_FDCWD, argv[1], 0));
	int fd = open(argv[0], O_PATH);
	char proc[64];

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	say("link of fd", linkat(AT_FDCWD, proc, AT_FDCWD, argv[1], AT_SYMLINK_FOLLOW));
	say("link of empty", linkat(fd, "", AT_FDCWD, argv[1], AT_EMPTY_PATH));
	say("rename", rename(argv[0], argv[1]));
	say("chmod", chmod(argv[0], 0777));
	say("utime", utimensat(AT_FDCWD, argv[0], NULL, 0));
	say("write", opens(argv[0], O_WRONLY));
	say("chown", chown(argv[0], getuid(), getgid()));
	say("unlink", unlink(argv[0]));
	return 0;
}

int main(int argc, char **argv)
{
	static const struct { const char *name; int (*f)(char **); } all[] = {
		{ "modes", modes }, { "plant", plant }, { "whoami", whoami }, { "send", send_fd }, { "hold", hold },
		{ "reach", reach }, { "ipc", ipc }, { "outlive", outlive }, { "map-ids", map_ids }, { "deep", deep },
		{ "names", names }, { "sparse", sparse }, { "exhaust", exhaust }, { "poke", poke },
		{ "core", writes_map }, { "line", hog_line }, { "link", link_to } };

	for (size_t i = 0; argc > 1 && i < sizeof(all) / sizeof(*all); i++)
		if (!strcmp(argv[1], all[i].name))
			return all[i].f(argv + 2);
	printf("uid %u euid %u\n", getuid(), geteuid());
	return argc > 1 ? 3 : 0;
}
