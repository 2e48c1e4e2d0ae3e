/* Build-time only: compiles the table of profiles.c with libseccomp and prints constant BPF
 * programs as C. `gen-filters [ARCH] > filters.c`. Never installed, never run on a user's machine.
 */
#include <err.h>
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/macro.h"
#include "confine/profiles.h"

/* System calls got the same number on every architecture from 424 on; x32 adds a bit. 512 to 547
 * are x32's own, and 32-bit ARM has private ones far above. */
enum {
	X32_BIT = 0x40000000,
	UNIFIED_END = 512,
	NR_SETXATTRAT = 463, /* setxattrat, getxattrat, listxattrat, removexattrat: Linux 6.13 */
	NR_REMOVEXATTRAT = 466,
	NR_REVIEWED = 469, /* file_setattr, Linux 6.17: the newest one that was looked at */
};

static uint32_t action(int answer)
{
	if (answer == ANSWER_ALLOW)
		return SCMP_ACT_ALLOW;
	if (answer == ANSWER_KILL)
		return SCMP_ACT_KILL_PROCESS;
	return SCMP_ACT_ERRNO((uint32_t)answer);
}

static void add_call(scmp_filter_ctx ctx, const struct profile *p, int answer, const struct call *c)
{
	int nr = seccomp_syscall_resolve_name(c->name);
	struct scmp_arg_cmp cmp[ELEMENTS(c->conds)];
	int r;

	if (nr == __NR_SCMP_ERROR)
		errx(1, "%s: libseccomp does not know the system call '%s'", p->process, c->name);
	for (unsigned int i = 0; i < c->n_conds; i++)
		cmp[i] = SCMP_CMP64(c->conds[i].arg, SCMP_CMP_MASKED_EQ, c->conds[i].mask,
				    c->conds[i].value);
	r = seccomp_rule_add_array(ctx, action(answer), nr, c->n_conds, cmp);
	if (r < 0)
		errx(1, "%s: rule for '%s': %s", p->process, c->name, strerror(-r));
}

static void add_arches(scmp_filter_ctx ctx, const struct profile *p, uint32_t arch)
{
	static const struct {
		uint32_t native, foreign;
	} pairs[] = {
		{ SCMP_ARCH_X86_64, SCMP_ARCH_X86 },
		{ SCMP_ARCH_X86_64, SCMP_ARCH_X32 },
		{ SCMP_ARCH_AARCH64, SCMP_ARCH_ARM },
	};
	int r = 0;

	if (arch != seccomp_arch_native()) {
		r = seccomp_arch_add(ctx, arch);
		if (r == 0)
			r = seccomp_arch_remove(ctx, SCMP_ARCH_NATIVE);
	}
	for (size_t i = 0; r == 0 && p->foreign_arches && i < ELEMENTS(pairs); i++)
		if (pairs[i].native == arch)
			r = seccomp_arch_add(ctx, pairs[i].foreign);
	if (r < 0)
		errx(1, "%s: architectures: %s", p->process, strerror(-r));
}

static void print_insn(struct sock_filter f)
{
	printf("\t{ 0x%02x, %u, %u, 0x%08x },\n", f.code, f.jt, f.jf, f.k);
}

static size_t print_program(scmp_filter_ctx ctx, const char *process)
{
	int fd = memfd_create("filter", MFD_CLOEXEC);
	struct sock_filter f;
	size_t n = 0;
	int r;

	if (fd < 0)
		err(1, "memfd_create");
	r = seccomp_export_bpf(ctx, fd);
	if (r < 0)
		errx(1, "%s: export: %s", process, strerror(-r));
	if (lseek(fd, 0, SEEK_SET) < 0)
		err(1, "lseek");
	while (read(fd, &f, sizeof(f)) == (ssize_t)sizeof(f)) {
		print_insn(f);
		n++;
	}
	close(fd);
	if (n == 0 || n > BPF_MAXINSNS - 16)
		errx(1, "%s: the filter has %zu instructions", process, n);
	return n;
}

/* In front of the builder's filter, by number, since libseccomp knows neither ranges nor these
 * names: what nobody has reviewed yet does not exist (a policy that allows by default would
 * otherwise be undone by the next kernel, as fchmodat2 once did), and the *xattrat calls get the
 * errno of their elders. */
static void print_number_gate(void)
{
	const struct sock_filter gate[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (uint32_t)~X32_BIT),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, UNIFIED_END, 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, NR_REVIEWED, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, NR_REMOVEXATTRAT, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, NR_SETXATTRAT, 1, 2),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTSUP),
	};

	for (size_t i = 0; i < ELEMENTS(gate); i++)
		print_insn(gate[i]);
}

static void print_filter(const char *name, const struct profile *p, uint32_t arch, bool builder)
{
	scmp_filter_ctx ctx = seccomp_init(action(p->otherwise));

	if (!ctx)
		errx(1, "seccomp_init failed");
	/* A foreign ABI without rules: our own processes never use one. The core's filter is not
	 * the place to decide about builders. */
	if (seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH,
			     action(builder ? ANSWER_KILL : p->otherwise)))
		errx(1, "%s: cannot set the action for unknown architectures", p->process);
	/* A tree, not a list: the kernel runs the program once for every system call number when it
	 * is installed, with interrupts off, and each session installs it. */
	if (seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2))
		errx(1, "%s: cannot have the filter sorted", p->process);
	add_arches(ctx, p, arch);
	for (const struct rule *r = p->rules; r->calls; r++)
		for (const struct call *c = r->calls; c->name; c++)
			add_call(ctx, p, r->answer, c);
	printf("\n/* %s */\nstatic const struct sock_filter %s[] = {\n", p->process, name);
	if (builder)
		print_number_gate();
	(void)print_program(ctx, p->process);
	printf("};\n");
	seccomp_release(ctx);
}

int main(int argc, char **argv)
{
	uint32_t arch = argc > 1 ? seccomp_arch_resolve_name(argv[1]) : seccomp_arch_native();

	if (arch == 0)
		errx(1, "libseccomp does not know the architecture '%s'", argv[1]);
	printf("/* Generated from profiles.c by gen-filters.c. */\n"
	       "#include \"confine/profiles.h\"\n");
	for (int i = 0; i < N_PROFILES; i++) {
		char name[16];

		snprintf(name, sizeof(name), "filter_%d", i);
		if (!confine_profiles[i].privileged_children)
			print_filter(name, &confine_profiles[i], arch, false);
	}
	print_filter("filter_builder", &confine_builder, arch, true);
	printf("\n#define PROGRAM(f) { sizeof(f) / sizeof((f)[0]), (struct sock_filter *)(f) }\n"
	       "const struct sock_fprog confine_filters[N_PROFILES] = {\n");
	for (int i = 0; i < N_PROFILES; i++)
		if (!confine_profiles[i].privileged_children)
			printf("\t[%d] = PROGRAM(filter_%d),\n", i, i);
	printf("};\nconst struct sock_fprog confine_builder_program = PROGRAM(filter_builder);\n");
	if (fflush(stdout) || ferror(stdout))
		err(1, "writing the filters");
	return 0;
}
