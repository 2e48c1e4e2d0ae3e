/* Asks a builder's filter about every system call of every entry of the kernel, from inside a
 * build, without making one: a second filter on top hands each call to a listener, which answers in
 * the kernel's place. A refusal of the first filter outranks that, so exit, fork and reboot are
 * safe to try, and the answers are the same on every kernel.
 *
 * Prints a line "ENTRY NUMBER ANSWER ANSWER" for each call that is not allowed with all arguments 0
 * and with all bits of all arguments set. Compiled by test_syscalls.py. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAST = 520, ALLOWED = 4000, KILLED = 4001, X32_BIT = 0x40000000 };

struct job {
	long nr, args;
	int entry;
};
static const char *const entries[] = { "x86_64", "x32", "i386" };
enum { N_JOBS = 3 * (LAST + 1) * 2 };

static struct shared {
	volatile int listener, next;
	volatile int answer[N_JOBS];
} * shared;

/* What a uprobe's trampoline calls; newer kernels do not show it to filters. */
static bool is_probe(const struct job *j)
{
	return j->entry == 0 && (j->nr == 335 || j->nr == 336);
}

static struct job job(int i)
{
	struct job j = { .entry = i / 2 / (LAST + 1), .args = i % 2 ? -1 : 0 };

	j.nr = i / 2 % (LAST + 1);
	return j;
}

static long call64(long nr, long v)
{
	register long r10 __asm__("r10") = v, r8 __asm__("r8") = v, r9 __asm__("r9") = v;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(nr), "D"(v), "S"(v), "d"(v), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}

static long call32(long nr, long v)
{
	long r;

	__asm__ volatile("push %%rbp\n\tmov %%rdi, %%rbp\n\tint $0x80\n\tpop %%rbp"
			 : "=a"(r)
			 : "a"(nr), "b"(v), "c"(v), "d"(v), "S"(v), "D"(v)
			 : "r8", "r9", "r10", "r11", "memory");
	return (int)r;
}

static void asker(void)
{
	struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
	struct sock_fprog program = { 1, &all };
	int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			      SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);

	if (fd < 0)
		_exit(1);
	/* From here on no library call, and nothing that is not part of the sweep. */
	shared->listener = fd;
	while (shared->next < N_JOBS) {
		int i = shared->next;
		struct job j = job(i);

		if (is_probe(&j)) {
			shared->answer[i] = ALLOWED;
			shared->next = i + 1;
			continue;
		}
		shared->next = i + 1; /* when this one kills, the next asker goes on behind it */
		shared->answer[i] = KILLED;
		shared->answer[i] = (int)-(j.entry == 2	  ? call32(j.nr, j.args)
					   : j.entry == 1 ? call64(j.nr | X32_BIT, j.args)
							  : call64(j.nr, j.args));
	}
	for (;;)
		;
}

static void answer(int listener)
{
	struct seccomp_notif n = { 0 };
	struct seccomp_notif_resp r = { .error = -ALLOWED };

	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n) < 0)
		return; /* it is gone */
	r.id = n.id;
	(void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r);
}

/* Shares its fds with one asker until that has ended. */
static void serve(void)
{
	pid_t pid;

	shared->listener = -1;
	pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid == 0)
		asker();
	while (pid > 0 && waitpid(pid, NULL, WNOHANG) == 0) {
		struct pollfd p = { .fd = shared->listener, .events = POLLIN };

		if (p.fd >= 0 && poll(&p, 1, 20) > 0 && (p.revents & POLLIN))
			answer(p.fd);
		if (shared->next == N_JOBS && shared->answer[N_JOBS - 1] != KILLED)
			kill(pid, SIGKILL);
	}
	if (shared->listener >= 0)
		close(shared->listener);
}

static const char *name(int answer)
{
	return answer == ALLOWED ? "allow" : answer == KILLED ? "killed" : strerrorname_np(answer);
}

int main(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return 1;
	while (shared->next < N_JOBS) {
		int before = shared->next;

		serve();
		if (shared->next == before)
			return 1; /* no listener: an older kernel than 5.0 */
	}
	for (int i = 0; i < N_JOBS; i += 2) {
		int a = shared->answer[i], b = shared->answer[i + 1];

		if (a != ALLOWED || b != ALLOWED)
			printf("%s %ld %s %s\n", entries[job(i).entry], job(i).nr, name(a),
			       name(b));
	}
	return fflush(stdout) ? 1 : 0;
}
