/* The process that becomes the builder: namespaces, root directory, identity. What it may still do
 * and a last look at itself, before it gives control away, are privileges.c.
 *
 * Nothing foreign runs before exec, and nothing runs after it. Whatever is not as it must be ends
 * the process with a sentence to the supervisor. Linked by airplant-build alone. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "build/supervisor.h"
#include "confine/confine.h"

/* PIDFD_GET_MNT_NAMESPACE; newer than some headers. */
enum { GET_MOUNT_NAMESPACE = _IO(0xFF, 3) };

static int write_own(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : write_full(fd, text, strlen(text));
}

/* A process whose ids have just changed cannot open its own /proc files until it says so. */
static void make_dumpable(void)
{
	(void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* if it failed, writing the maps fails */
}

static int take_slot_id(const struct build *b, struct err *e)
{
	/* In mode single the kernel does not let us, and the groups stay, unmapped. A build for kvm
	 * keeps them: the one that opens the device cannot be named in here. */
	if (!b->s.kvm && setgroups(0, NULL) < 0 && errno != EPERM)
		return err_errno(e, -errno, "setgroups failed");
	if (setresgid(0, 0, 0) < 0)
		return err_errno(e, -errno, "setgid failed");
	if (setresuid(0, 0, 0) < 0)
		return err_errno(e, -errno, "setuid failed");
	make_dumpable();
	return 0;
}

/* The daemon's session keyring would be the builder's as well. Kernels without keys, and
 * containers whose filter forbids them to the builder too, have nothing to leave. */
static int leave_keyring(struct err *e)
{
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS &&
	    errno != EPERM)
		return err_errno(e, -errno, "leaving the daemon's session keyring");
	return 0;
}

/* The kernel remembers the limit at which a user namespace was made, and never has more processes
 * in it (from Linux 5.14 on); the builder itself sees the limit it would have seen anyway. Called
 * before and, with the same `old`, after that. */
static int limit_procs(uint64_t max_procs, struct rlimit *old)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NPROC, old) < 0)
		return -errno;
	limit = *old;
	if (max_procs && max_procs < limit.rlim_cur)
		limit.rlim_cur = (rlim_t)max_procs;
	return setrlimit(RLIMIT_NPROC, &limit) < 0 ? -errno : 0;
}

static int unlimit_procs(const struct rlimit *old)
{
	return setrlimit(RLIMIT_NPROC, old) < 0 ? -errno : 0;
}

/* The inner namespace I: it maps the slot and nothing else. */
static int enter_inner(const struct build *b, const struct identity *id, struct err *e)
{
	struct rlimit procs;
	char text[64];
	int r = limit_procs(b->s.max_procs, &procs);

	if (r == 0 && unshare(CLONE_NEWUSER) < 0)
		r = -errno;
	if (r == 0)
		r = unlimit_procs(&procs);
	if (r < 0)
		return err_errno(e, r, "creating the builder's user namespace");
	make_dumpable();
	r = write_own("/proc/self/setgroups", "deny");
	snprintf(text, sizeof(text), "%u 0 1", id->uid);
	if (r == 0)
		r = write_own("/proc/self/uid_map", text);
	snprintf(text, sizeof(text), "%u 0 1", id->gid);
	if (r == 0)
		r = write_own("/proc/self/gid_map", text);
	if (r < 0)
		return err_errno(e, r, "mapping the builder's id");
	if (setresgid(id->gid, id->gid, id->gid) < 0)
		return err_errno(e, -errno, "setgid failed");
	if (setresuid(id->uid, id->uid, id->uid) < 0)
		return err_errno(e, -errno, "setuid failed");
	return 0;
}

static void set_personality(const struct build *b)
{
	const char *platform = b->s.platform;
	struct utsname u;
	bool is64 = uname(&u) == 0 && !strcmp(u.machine, "x86_64");
	int cur;

	/* As upstream: none of these is worth a failed build. */
	if ((!strcmp(platform, "i686-linux") && is64) || !strcmp(platform, "armv7l-linux") ||
	    !strcmp(platform, "armv6l-linux") || !strcmp(platform, "armv5tel-linux"))
		(void)personality(PER_LINUX32);
	cur = personality(0xffffffff);
	if (b->s.impersonate_linux_26 &&
	    (!strcmp(platform, "i686-linux") || !strcmp(platform, "x86_64-linux")) && cur != -1)
		(void)personality((unsigned long)cur | 0x0020000 /* UNAME26 */);
	cur = personality(0xffffffff);
	if (cur != -1)
		(void)personality((unsigned long)cur | ADDR_NO_RANDOMIZE);
}

static int set_stdio(struct build *b, struct err *e)
{
	int null;

	if (setsid() < 0)
		return err_errno(e, -errno, "creating a new session");
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		return err_errno(e, -errno, "cannot open '/dev/null'");
	if (dup2(null, 0) < 0 || dup2(b->slave, 1) < 0 || dup2(b->slave, 2) < 0)
		return err_errno(e, -errno, "connecting standard input and output");
	/* The way back to the supervisor and the lease are the only other fds that are left: while
	 * this process has the slot's id and nobody else watches it, the slot is not free. */
	if (b->status_fd != 3) {
		if (dup3(b->status_fd, 3, O_CLOEXEC) < 0)
			return err_errno(e, -errno, "keeping the way back to the supervisor");
		b->status_fd = 3;
	}
	if (b->lease_fd >= 0 && b->lease_fd != 4) {
		if (dup3(b->lease_fd, 4, O_CLOEXEC) < 0)
			return err_errno(e, -errno, "keeping the lease of the build's ids");
		b->lease_fd = 4;
	}
	if (syscall(SYS_close_range, b->lease_fd >= 0 ? 5U : 4U, ~0U, 0U) < 0)
		return err_errno(e, -errno, "closing all other file descriptors");
	return 0;
}

static void reset_process(void)
{
	struct rlimit core;
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL); /* SIGKILL and SIGSTOP refuse */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(022);
	if (getrlimit(RLIMIT_CORE, &core) == 0) {
		core.rlim_cur = core.rlim_max ? 1 : 0; /* see core_limit in confine/builder.c */
		(void)setrlimit(RLIMIT_CORE, &core);
	}
}

int child_become_slot(const struct build *b, struct err *e)
{
	int r = take_slot_id(b, e);

	reset_process();
	return r < 0 ? r : leave_keyring(e);
}

/* The supervisor's fd lies in the supervisor's mount namespace, where the child cannot mount. */
int child_reopen_scratch(struct build *b, struct err *e)
{
	int fd = open(b->s.scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_errno(e, -errno, "opening '%s'", b->s.scratch);
	close(b->top);
	b->top = fd;
	return 0;
}

/* Waits for the supervisor's word. */
static bool hears(int fd, char word)
{
	char c = 0;
	ssize_t n;

	do
		n = read(fd, &c, 1);
	while (n < 0 && errno == EINTR);
	return n == 1 && c == word;
}

/* The supervisor of a build with a daemon of its own opens this process's mount namespace now
 * (show_start). The kernel allows it only while this process is dumpable, and each change of its
 * ids ends that. */
static int let_be_opened(const struct build *b, struct err *e)
{
	if (!b->s.recursive ||
	    (write_full(b->status_fd, "N", 1) == 0 && hears(b->status_fd, 'N')))
		return 0;
	return err_set(e, -ESRCH, "the supervisor did not open the builder's mount namespace");
}

/* The last steps, in the builder's root and with its ids. */
static int settle(struct build *b, const struct identity *id, struct err *e)
{
	int r;

	set_personality(b);
	/* Cleared by the change of ids before. A supervisor that died meanwhile is noticed by the
	 * caller, when the way back is gone. A builder may clear it again: then the core, which has
	 * its pidfd, ends it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return err_errno(e, -errno, "setting death signal");
	r = privileges_drop(b, e);
	return r < 0 ? r : privileges_check(b, id, e);
}

/* Here, where the build's own cgroup is the one that becomes its root. */
static int leave_cgroups(struct err *e)
{
	return unshare(CLONE_NEWCGROUP) < 0
		       ? err_errno(e, -errno, "creating the builder's cgroup namespace")
		       : 0;
}

static int prepare(struct build *b, struct err *e)
{
	bool sandbox = b->s.sandbox == SANDBOX_ON;
	struct identity id = { (unsigned int)b->s.uid, (unsigned int)b->s.gid };
	int r;

	if (!sandbox && b->ids.mode == IDS_SINGLE)
		id = (struct identity){ (unsigned int)b->host_uid, (unsigned int)b->host_gid };
	r = child_become_slot(b, e);
	if (r == 0)
		r = let_be_opened(b, e);
	if (r == 0 && sandbox)
		r = leave_cgroups(e);
	if (r == 0)
		r = child_reopen_scratch(b, e);
	if (r == 0)
		r = root_scratch(b, e);
	if (r == 0)
		r = sandbox ? root_enter(b, e) : host_enter(b, e);
	if (r == 0)
		r = set_stdio(b, e);
	if (r == 0)
		r = enter_inner(b, &id, e);
	return r < 0 ? r : settle(b, &id, e);
}

/* Born in I, which maps nothing yet. */
static int prepare_range(struct build *b, struct err *e)
{
	const struct identity id = { 0, 0 };
	int r = hears(b->status_fd, 'M') ? 0
					 : err_set(e, -ESRCH, "the supervisor did not map its ids");

	if (r == 0)
		r = child_become_slot(b, e);
	if (r == 0)
		r = let_be_opened(b, e);
	if (r == 0)
		r = leave_cgroups(e);
	if (r == 0)
		r = root_finish(b, e);
	if (r == 0)
		r = set_stdio(b, e);
	return r < 0 ? r : settle(b, &id, e);
}

/* argv or environment as exec wants it. */
static char **vector(struct arena *a, size_t n)
{
	return arena_array(a, n + 1, sizeof(char *));
}

static _noreturn_ void run_builder(struct build *b)
{
	const char *builder = b->s.builder, *slash = strrchr(builder, '/');
	char **argv, **envp;

	if (!strncmp(builder, "builtin:", 8))
		_exit(builtin_run(b));
	argv = vector(&b->arena, b->s.args.n + 1);
	envp = vector(&b->arena, b->s.env.n);
	if (!argv || !envp)
		goto fail;
	argv[0] = (char *)(uintptr_t)(slash ? slash + 1 : builder);
	for (size_t i = 0; i < b->s.args.n; i++)
		argv[i + 1] = b->s.args.v[i];
	for (size_t i = 0; i < b->s.env.n; i++) {
		envp[i] = arena_printf(&b->arena, "%s=%s", b->s.env.v[i].name, b->s.env.v[i].value);
		if (!envp[i])
			goto fail;
	}
	execve(builder, argv, envp);
fail:
	dprintf(2, C_RED "error:" C_NORMAL " executing " Q_ARG ": %s\n", builder, strerror(errno));
	_exit(1);
}

static _noreturn_ void child_main(struct build *b)
{
	struct err e = { 0 };

	if ((is_range(b) ? prepare_range(b, &e) : prepare(b, &e)) < 0) {
		const char *text = err_msg(&e);

		(void)write_full(b->status_fd, text,
				 strlen(text)); /* or it is gone, and we are too */
		_exit(1);
	}
	/* Fails when the supervisor died before the death signal was set, or dies before the core
	 * knows this process. */
	if (write_full(b->status_fd, "S", 1) < 0 || !hears(b->status_fd, 'G'))
		_exit(1);
	close_fdp(&b->status_fd);
	close_fdp(&b->lease_fd);
	run_builder(b);
}

static uint64_t clone_flags(const struct build *b)
{
	uint64_t flags = CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWNS;

	/* Else its network namespace is the supervisor's own: see ns_warm() and net_start(). */
	if (is_range(b))
		flags |= CLONE_NEWUSER | (b->s.fixed ? 0 : CLONE_NEWNET);
	if (is_range(b) || (b->s.sandbox == SANDBOX_ON && !b->warm))
		flags |= CLONE_NEWIPC | CLONE_NEWUTS;
	return flags | (b->cgroup >= 0 ? CLONE_INTO_CGROUP : 0);
}

/* The pid in the parent; the child does not return. */
static long clone_builder(struct build *b, int pair[2], int *ret_pidfd)
{
	struct clone_args args = {
		.flags = clone_flags(b),
		.pidfd = (uint64_t)(uintptr_t)ret_pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = b->cgroup >= 0 ? (uint64_t)b->cgroup : 0,
	};
	struct rlimit procs = { 0 };
	long pid = is_range(b) ? limit_procs(b->s.max_procs, &procs) : 0;

	if (pid == 0) {
		pid = syscall(SYS_clone3, &args, sizeof(args));
		pid = pid < 0 ? -errno : pid;
	}
	if (is_range(b) && unlimit_procs(&procs) < 0 && pid == 0)
		_exit(1); /* more than it should have: the supervisor reads the end */
	if (pid == 0) {
		close(pair[0]);
		b->status_fd = pair[1];
		child_main(b);
	}
	return pid;
}

int child_start(struct build *b, struct err *e)
{
	int pair[2], pidfd = -1, r = 0;
	long pid;

	if (is_range(b)) {
		r = range_root(b, e);
		if (r == 0)
			r = cgroup_delegate(b, e);
		if (r < 0)
			return r;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(e, -errno, "creating a socket pair");
	pid = clone_builder(b, pair, &pidfd);
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		char why[512];

		confine_explain_namespaces((int)clone_flags(b), why, sizeof(why));
		return err_errno(e, (int)pid, "a build cannot be isolated: %s", why);
	}
	b->status_fd = pair[0];
	b->pid = (pid_t)pid;
	b->pidfd = pidfd;
	close_fdp(&b->slave);
	if (is_range(b)) {
		r = range_map(b, e);
		if (r == 0)
			r = range_leave(b, e);
		if (r < 0)
			child_end(b);
	}
	/* Older kernels cannot: then the builder's end takes as long as its unmounting. */
	if (r == 0)
		b->mounts_fd = ioctl(pidfd, GET_MOUNT_NAMESPACE, 0);
	return r;
}

void child_end(struct build *b)
{
	if (b->pidfd < 0)
		return;
	(void)syscall(SYS_pidfd_send_signal, b->pidfd, SIGKILL, NULL,
		      0); /* or it is dead already */
	while (wait4(b->pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
		;
	close_fdp(&b->pidfd);
}
