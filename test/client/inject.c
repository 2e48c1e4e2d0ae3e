/* Makes a running process do one system call, as if it had been taken over; or prints its filters.
 * Called by test_seals.py as root, x86_64 alone.
 *
 *   inject PID call NUMBER [ARGUMENT ...]   prints "0", the result, "-ERRNO" or "killed SIGNAL"
 *   inject PID filters                      prints each filter's program in hex, the oldest first
 *
 * An argument is a number, or "s:TEXT", or "z:N" (N zero bytes): then it is the address of that, on
 * the process' stack. The process goes on afterwards, unless the call has ended it. */
#include <err.h>
#include <errno.h>
#include <linux/filter.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#ifndef PTRACE_SECCOMP_GET_FILTER
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif

enum { RED_ZONE = 256, SCRATCH = 2048, WORD = 8 };

static int wait_stop(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, __WALL) < 0)
		err(1, "waitpid");
	if (WIFSIGNALED(status)) {
		printf("killed %d\n", WTERMSIG(status));
		exit(0);
	}
	if (WIFEXITED(status)) {
		printf("exited %d\n", WEXITSTATUS(status));
		exit(0);
	}
	return WSTOPSIG(status);
}

static void poke(pid_t pid, uint64_t at, const void *bytes, size_t n)
{
	for (size_t i = 0; i < n; i += WORD) {
		uint64_t word = 0;

		memcpy(&word, (const char *)bytes + i, n - i < WORD ? n - i : WORD);
		if (ptrace(PTRACE_POKEDATA, pid, at + i, word) < 0)
			err(1, "PTRACE_POKEDATA");
	}
}

static uint64_t argument(pid_t pid, const char *text, uint64_t *at)
{
	static const char zeros[512];
	uint64_t here = *at;
	size_t n;

	if (strncmp(text, "s:", 2) && strncmp(text, "z:", 2))
		return strtoull(text, NULL, 0);
	n = *text == 's' ? strlen(text + 2) + 1 : strtoul(text + 2, NULL, 0);
	if (n > sizeof(zeros))
		errx(1, "too long");
	poke(pid, here, *text == 's' ? text + 2 : zeros, n);
	*at += (n + 15) / 16 * 16;
	return here;
}

static void call(pid_t pid, char **args, int n)
{
	static const uint8_t code[WORD] = { 0x0f, 0x05, 0xcc }; /* syscall; int3 */
	struct user_regs_struct saved, r;
	uint64_t v[7] = { 0 }, at, text;
	unsigned char below[SCRATCH];

	if (ptrace(PTRACE_GETREGS, pid, 0, &saved) < 0)
		err(1, "PTRACE_GETREGS");
	at = (saved.rsp - RED_ZONE - SCRATCH) & ~15ULL;
	for (size_t i = 0; i < sizeof(below); i += WORD) {
		uint64_t word = (uint64_t)ptrace(PTRACE_PEEKDATA, pid, at + i, 0);

		memcpy(below + i, &word, WORD);
	}
	text = at;
	for (int i = 0; i < n && i < 7; i++)
		v[i] = argument(pid, args[i], &text);
	text = (uint64_t)ptrace(PTRACE_PEEKDATA, pid, saved.rip, 0);
	poke(pid, saved.rip, code, WORD);
	r = saved;
	r.orig_rax = ~0ULL; /* no restart of what it waited in */
	r.rax = v[0];
	r.rdi = v[1], r.rsi = v[2], r.rdx = v[3], r.r10 = v[4], r.r8 = v[5], r.r9 = v[6];
	if (ptrace(PTRACE_SETREGS, pid, 0, &r) < 0)
		err(1, "PTRACE_SETREGS");
	do
		if (ptrace(PTRACE_CONT, pid, 0, 0) < 0)
			err(1, "PTRACE_CONT");
	while (wait_stop(pid) != SIGTRAP);
	if (ptrace(PTRACE_GETREGS, pid, 0, &r) < 0)
		err(1, "PTRACE_GETREGS");
	printf("%lld\n", (long long)r.rax);
	poke(pid, saved.rip, &text, WORD);
	poke(pid, at, below, sizeof(below));
	if (ptrace(PTRACE_SETREGS, pid, 0, &saved) < 0)
		err(1, "PTRACE_SETREGS");
}

static void filters(pid_t pid)
{
	static struct sock_filter f[BPF_MAXINSNS];
	long n;

	for (uintptr_t i = 0; (n = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, i, f)) >= 0; i++) {
		for (size_t b = 0; b < (size_t)n * sizeof(*f); b++)
			printf("%02x", ((unsigned char *)f)[b]);
		putchar('\n');
	}
	if (errno != ENOENT)
		err(1, "PTRACE_SECCOMP_GET_FILTER (CONFIG_CHECKPOINT_RESTORE)");
}

int main(int argc, char **argv)
{
	pid_t pid = argc > 2 ? atoi(argv[1]) : 0;

	if (!pid)
		errx(2, "usage: inject PID call NUMBER [ARGUMENT ...] | inject PID filters");
	if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0)
		err(1, "PTRACE_SEIZE");
	(void)wait_stop(pid);
	if (!strcmp(argv[2], "filters"))
		filters(pid);
	else
		call(pid, argv + 3, argc - 3);
	if (ptrace(PTRACE_DETACH, pid, 0, 0) < 0)
		err(1, "PTRACE_DETACH");
	return 0;
}
