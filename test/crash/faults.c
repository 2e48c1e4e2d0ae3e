/* Lets the N-th step of running processes fail, or kills one there. Called by test_faults.py as
 * root, x86_64 alone.
 *
 *   faults OF CLASS HOW N PID ...
 *
 * OF     the executables whose calls count: "airplant-session,airplant-build", or "all" of ours;
 *        "children" are those that have forked from the first PID and kept its executable
 * CLASS  space    calls that need room on a disk
 *        change   calls that change a file or a directory, these included
 *        fds      calls that make a file descriptor
 * HOW    count    nothing fails
 *        ERRNO    its number: the N-th call fails with it, and is not made
 *        ERRNO+   so does each one after it, until this program ends
 *        kill     the first PID gets SIGKILL instead of the N-th call, whoever makes it
 *        die      whoever makes the N-th call gets SIGKILL instead of it
 *
 * It follows all children. One line says "ready"; then one for each call that counts: its number,
 * the process, the executable, the call, its file; with "HIT" in front where it struck. It ends on
 * SIGTERM, and what it traced goes on. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SPACE = 1, CHANGE = 2, FDS = 4, TRACEES_MAX = 4096 };

static const struct {
	long nr;
	const char *name;
	int classes, fd, path; /* which arguments say the file; -1: none does */
} calls[] = {
	{ SYS_write, "write", SPACE, 0, -1 },
	{ SYS_writev, "writev", SPACE, 0, -1 },
	{ SYS_pwrite64, "pwrite64", SPACE, 0, -1 },
	{ SYS_pwritev, "pwritev", SPACE, 0, -1 },
	{ SYS_ftruncate, "ftruncate", SPACE, 0, -1 },
	{ SYS_fallocate, "fallocate", SPACE, 0, -1 },
	{ SYS_fdatasync, "fdatasync", SPACE, 0, -1 },
	{ SYS_fsync, "fsync", SPACE, 0, -1 },
	{ SYS_syncfs, "syncfs", SPACE, 0, -1 },
	{ SYS_copy_file_range, "copy_file_range", SPACE, 2, -1 },
	{ SYS_open, "open", SPACE | FDS, -1, 0 },
	{ SYS_openat, "openat", SPACE | FDS, -1, 1 },
	{ SYS_mkdir, "mkdir", SPACE, -1, 0 },
	{ SYS_mkdirat, "mkdirat", SPACE, -1, 1 },
	{ SYS_rename, "rename", SPACE, -1, 0 },
	{ SYS_renameat, "renameat", SPACE, -1, 1 },
	{ SYS_renameat2, "renameat2", SPACE, -1, 1 },
	{ SYS_symlink, "symlink", SPACE, -1, 1 },
	{ SYS_symlinkat, "symlinkat", SPACE, -1, 2 },
	{ SYS_link, "link", SPACE, -1, 1 },
	{ SYS_linkat, "linkat", SPACE, -1, 3 },
	{ SYS_setxattr, "setxattr", SPACE, -1, 0 },
	{ SYS_fsetxattr, "fsetxattr", SPACE, 0, -1 },
	{ SYS_unlink, "unlink", CHANGE, -1, 0 },
	{ SYS_unlinkat, "unlinkat", CHANGE, -1, 1 },
	{ SYS_rmdir, "rmdir", CHANGE, -1, 0 },
	{ SYS_chmod, "chmod", CHANGE, -1, 0 },
	{ SYS_fchmod, "fchmod", CHANGE, 0, -1 },
	{ SYS_fchmodat, "fchmodat", CHANGE, -1, 1 },
	{ SYS_chown, "chown", CHANGE, -1, 0 },
	{ SYS_fchown, "fchown", CHANGE, 0, -1 },
	{ SYS_fchownat, "fchownat", CHANGE, -1, 1 },
	{ SYS_utimensat, "utimensat", CHANGE, -1, 1 },
	{ SYS_socket, "socket", FDS, -1, -1 },
	{ SYS_socketpair, "socketpair", FDS, -1, -1 },
	{ SYS_accept4, "accept4", FDS, -1, -1 },
	{ SYS_pipe2, "pipe2", FDS, -1, -1 },
	{ SYS_dup, "dup", FDS, -1, -1 },
	{ SYS_memfd_create, "memfd_create", FDS, -1, -1 },
	{ SYS_epoll_create1, "epoll_create1", FDS, -1, -1 },
	{ SYS_pidfd_open, "pidfd_open", FDS, -1, -1 },
	{ SYS_open_tree, "open_tree", FDS, -1, -1 },
};

static struct tracee {
	pid_t pid;
	int fails; /* the errno of the call it is in, 0: none */
	char exe[64];
	bool counts;
} tracees[TRACEES_MAX];

static struct {
	const char *of;
	int class, error;
	bool stays, kill, die;
	long at, n;
	pid_t victim;
} o;

static volatile sig_atomic_t over;

static void on_term(int sig)
{
	(void)sig;
	over = 1;
}

static struct tracee *tracee_of(pid_t pid)
{
	struct tracee *unused = NULL;

	for (size_t i = 0; i < TRACEES_MAX; i++) {
		if (tracees[i].pid == pid)
			return &tracees[i];
		if (!tracees[i].pid && !unused)
			unused = &tracees[i];
	}
	if (!unused)
		errx(1, "too many processes");
	*unused = (struct tracee){ .pid = pid };
	return unused;
}

/* False: not one of ours. */
static bool identify(struct tracee *t)
{
	char link[32], path[512];
	const char *base;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/%d/exe", t->pid);
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = 0;
	base = strrchr(path, '/');
	snprintf(t->exe, sizeof(t->exe), "%.60s", base ? base + 1 : path);
	t->counts = !strcmp(o.of, "all") || strstr(o.of, t->exe) ||
		    (strstr(o.of, "children") && t->pid != o.victim);
	return !strncmp(t->exe, "airplant", 8);
}

static void file_of(pid_t pid, size_t i, const __uint64_t *args, char ret[512])
{
	struct iovec here = { ret, 511 }, there;
	char link[64];
	ssize_t n = 0;

	if (calls[i].fd >= 0) {
		snprintf(link, sizeof(link), "/proc/%d/fd/%d", pid, (int)args[calls[i].fd]);
		n = readlink(link, ret, 511);
	} else if (calls[i].path >= 0) {
		there = (struct iovec){ (void *)(uintptr_t)args[calls[i].path], 511 };
		n = process_vm_readv(pid, &here, 1, &there, 1, 0);
		if (n < 0) { /* the end of its stack */
			there.iov_len = 4096 - (args[calls[i].path] & 4095);
			there.iov_len = there.iov_len > 511 ? 511 : there.iov_len;
			n = process_vm_readv(pid, &here, 1, &there, 1, 0);
		}
	}
	ret[n > 0 ? n : 0] = 0;
}

static bool is_elsewhere(const char *path)
{
	return !strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5) ||
	       !strncmp(path, "/dev/", 5) || strstr(path, "daemon.log") || !strcmp(path, "proc") ||
	       !strcmp(path, "sys");
}

static bool counts(size_t i, const __uint64_t *args, const char *file)
{
	bool opens = calls[i].nr == SYS_openat || calls[i].nr == SYS_open;
	uint64_t flags = args[calls[i].nr == SYS_open ? 1 : 2];

	if (o.class == FDS)
		return calls[i].classes & FDS;
	if (!(calls[i].classes & (o.class == SPACE ? SPACE : SPACE | CHANGE)))
		return false;
	if (opens && !(flags & O_CREAT))
		return false;
	if (calls[i].fd >= 0 && file[0] != '/')
		return false; /* a socket, a pipe */
	return !is_elsewhere(file);
}

/* The call becomes one that every filter lets through and that does nothing. */
static void take_away(struct tracee *t)
{
	struct user_regs_struct r;

	if (ptrace(PTRACE_GETREGS, t->pid, 0, &r) < 0)
		return;
	r.orig_rax = SYS_close;
	r.rdi = ~0ULL;
	(void)ptrace(PTRACE_SETREGS, t->pid, 0, &r);
	t->fails = o.error;
}

static void on_entry(struct tracee *t, uint64_t nr, const __uint64_t *args)
{
	char file[512] = "";
	bool hit;
	size_t i = 0;

	while (i < sizeof(calls) / sizeof(*calls) && calls[i].nr != (long)nr)
		i++;
	if (!t->counts || i == sizeof(calls) / sizeof(*calls))
		return;
	file_of(t->pid, i, args, file);
	if (!counts(i, args, file))
		return;
	o.n++;
	hit = o.stays ? o.n >= o.at : o.n == o.at;
	hit = hit && (o.error || o.kill || o.die);
	printf("%s%ld %d %s %s %s\n", hit ? "HIT " : "", o.n, t->pid, t->exe, calls[i].name, file);
	if (hit && o.error)
		take_away(t);
	else if (hit)
		(void)kill(o.die ? t->pid : o.victim, SIGKILL);
}

static void on_exit_of_call(struct tracee *t)
{
	struct user_regs_struct r;

	if (!t->fails || ptrace(PTRACE_GETREGS, t->pid, 0, &r) < 0)
		return;
	r.rax = (uint64_t) - (int64_t)t->fails;
	t->fails = 0;
	(void)ptrace(PTRACE_SETREGS, t->pid, 0, &r);
}

static void on_call(struct tracee *t)
{
	struct __ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, t->pid, sizeof(info), &info) <= 0)
		return;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
		on_entry(t, info.entry.nr, info.entry.args);
	else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
		on_exit_of_call(t);
}

static void on_stop(struct tracee *t, int status)
{
	int sig = WSTOPSIG(status), event = status >> 16;

	if (!t->exe[0] || event == PTRACE_EVENT_EXEC) {
		if (!identify(t) && event == PTRACE_EVENT_EXEC) {
			(void)ptrace(PTRACE_DETACH, t->pid, 0, 0);
			t->pid = 0;
			return;
		}
	}
	if (sig == (SIGTRAP | 0x80))
		on_call(t);
	if (event == PTRACE_EVENT_STOP && sig != SIGTRAP)
		(void)ptrace(PTRACE_LISTEN, t->pid, 0, 0);
	else
		(void)ptrace(PTRACE_SYSCALL, t->pid, 0,
			     event || sig == (SIGTRAP | 0x80) || sig == SIGTRAP ? 0 : sig);
}

static int seize(pid_t pid)
{
	const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
			     PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;

	if (ptrace(PTRACE_SEIZE, pid, 0, options) == 0 && ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0)
		return tracee_of(pid)->pid == pid;
	if (errno != ESRCH && errno != EPERM) /* it has ended; it is ending */
		warn("cannot trace %d", pid);
	return 0;
}

static void parse(char **argv)
{
	const char *how = argv[3];

	o.of = argv[1];
	o.class = !strcmp(argv[2], "space") ? SPACE : !strcmp(argv[2], "change") ? CHANGE : FDS;
	o.error = atoi(how);
	o.stays = strchr(how, '+');
	o.kill = !strcmp(how, "kill");
	o.die = !strcmp(how, "die");
	o.at = atol(argv[4]);
	o.victim = atoi(argv[5]);
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_term };
	int waiting = 0, status;
	pid_t pid;

	if (argc < 6)
		errx(2, "usage: faults OF space|change|fds count|ERRNO|ERRNO+|kill|die N PID ...");
	parse(argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	(void)sigaction(SIGTERM, &sa, NULL);
	for (int i = 5; i < argc; i++)
		waiting += seize(atoi(argv[i]));
	while (!over && (pid = waitpid(-1, &status, __WALL)) > 0) {
		struct tracee *t = tracee_of(pid);

		if (!WIFSTOPPED(status)) {
			t->pid = 0;
			continue;
		}
		on_stop(t, status);
		if (waiting > 0 && --waiting == 0)
			puts("ready");
	}
	return 0;
}
