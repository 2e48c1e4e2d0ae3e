/* Build-time only: compiles the tables of profiles.c and builder.c with libseccomp and prints
 * constant BPF programs as C. `gen-filters [ARCH] > filters.c`. Never installed, never run on a
 * user's machine.
 */
#include <err.h>
#include <errno.h>
#include <linux/audit.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/macro.h"
#include "confine/rules.h"
#include "confine/shrink.h"

static uint32_t action(int answer)
{
	if (answer == ANSWER_ALLOW)
		return SCMP_ACT_ALLOW;
	if (answer == ANSWER_KILL)
		return SCMP_ACT_KILL_PROCESS;
	if (answer == ANSWER_NOTHING_DONE)
		return SCMP_ACT_ERRNO(0);
	return SCMP_ACT_ERRNO((uint32_t)answer);
}

static void add_rule(scmp_filter_ctx ctx, const struct profile *p, int answer, const struct call *c,
		     const struct scmp_arg_cmp *cmp, unsigned int n)
{
	int nr = seccomp_syscall_resolve_name(c->name);
	int r;

	if (nr == __NR_SCMP_ERROR)
		errx(1, "%s: libseccomp does not know the system call '%s'", p->process, c->name);
	r = seccomp_rule_add_array(ctx, action(answer), nr, n, cmp);
	if (r < 0)
		errx(1, "%s: rule for '%s': %s", p->process, c->name, strerror(-r));
}

static bool any_begins(const struct call *c, unsigned int bit, uint64_t begin)
{
	for (unsigned int i = 0; i < c->none_of.n; i++)
		if ((uint64_t)c->none_of.v[i] >> bit == begin)
			return true;
	return false;
}

/* "None of these values" as bit patterns, the one comparison that ignores the upper half of the
 * register: where a value's neighbour at some bit leads to no value, all behind it is outside. */
static void add_none_of(scmp_filter_ctx ctx, const struct profile *p, int answer,
			const struct call *c, struct scmp_arg_cmp *cmp, unsigned int n)
{
	for (unsigned int bit = c->is_pointer ? 64 : 32; bit-- > 0;) {
		uint64_t mask = (c->is_pointer ? ~0ULL : INT) & ~0ULL << bit;

		for (unsigned int i = 0; i < c->none_of.n; i++) {
			uint64_t begin = (uint64_t)c->none_of.v[i] >> bit ^ 1;
			bool seen = any_begins(c, bit, begin);

			for (unsigned int j = 0; j < i; j++)
				seen |= ((uint64_t)c->none_of.v[j] >> bit ^ 1) == begin;
			if (seen)
				continue;
			cmp[n] = SCMP_CMP64(c->other, SCMP_CMP_MASKED_EQ, mask, begin << bit);
			add_rule(ctx, p, answer, c, cmp, n + 1);
		}
	}
}

static void add_call(scmp_filter_ctx ctx, const struct profile *p, int answer, const struct call *c)
{
	struct scmp_arg_cmp cmp[ELEMENTS(c->conds) + 1];

	for (unsigned int i = 0; i < c->n_conds; i++)
		cmp[i] = SCMP_CMP64(c->conds[i].arg, SCMP_CMP_MASKED_EQ, c->conds[i].mask,
				    c->conds[i].value);
	if (c->none_of.n > 0)
		add_none_of(ctx, p, answer, c, cmp, c->n_conds);
	else
		add_rule(ctx, p, answer, c, cmp, c->n_conds);
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

static struct program program; /* the one that is being made */

static void put_insn(struct program *to, struct sock_filter f)
{
	if (to->n == BPF_MAXINSNS)
		errx(1, "a filter has too many instructions");
	to->v[to->n++] = f;
}

static void put_program(struct program *to, scmp_filter_ctx ctx, const char *process)
{
	int fd = memfd_create("filter", MFD_CLOEXEC);
	size_t before = to->n;
	struct sock_filter f;
	int r;

	if (fd < 0)
		err(1, "memfd_create");
	r = seccomp_export_bpf(ctx, fd);
	if (r < 0)
		errx(1, "%s: export: %s", process, strerror(-r));
	if (lseek(fd, 0, SEEK_SET) < 0)
		err(1, "lseek");
	while (read(fd, &f, sizeof(f)) == (ssize_t)sizeof(f))
		put_insn(to, f);
	close(fd);
	if (to->n == before)
		errx(1, "%s: the filter is empty", process);
}

static void print_program(struct program *p, const char *process)
{
	shrink(p, process);
	for (size_t i = 0; i < p->n; i++)
		printf("\t{ 0x%02x, %u, %u, 0x%08x },\n", p->v[i].code, p->v[i].jt, p->v[i].jf,
		       p->v[i].k);
	p->n = 0;
}

/* In front of a builder's rules come those that libseccomp cannot express. In these, jumps go to
 * the next instruction or over one `return`. */
static void put_load(struct program *to, size_t offset)
{
	put_insn(to, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}
static void put_jump(struct program *to, uint16_t test, uint32_t k, uint8_t yes, uint8_t no)
{
	put_insn(to, (struct sock_filter)BPF_JUMP(BPF_JMP | test | BPF_K, k, yes, no));
}
static void put_return(struct program *to, uint32_t k)
{
	put_insn(to, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, k));
}

/* What nobody has reviewed yet does not exist: a policy that allows by default would otherwise be
 * undone by the next kernel, as fchmodat2 once did. The whole of x32 lies above, too (its numbers
 * have bit 30). -1 is what a tracer writes to skip a call. 32-bit ARM has private calls. */
static void put_number_gate(struct program *to, const struct profile *p, uint32_t arch)
{
	enum { ARM_PRIVATE = 0x0f0000 };

	put_load(to, offsetof(struct seccomp_data, nr));
	put_jump(to, BPF_JEQ, ~0U, 0, 1);
	put_return(to, SECCOMP_RET_ALLOW);
	if (arch == SCMP_ARCH_AARCH64) {
		put_jump(to, BPF_JGE, ARM_PRIVATE + 0x100, 1, 0);
		put_jump(to, BPF_JGE, ARM_PRIVATE, 2, 0);
	}
	put_jump(to, BPF_JGT, p->newest, 0, 1);
	put_return(to, SECCOMP_RET_ERRNO | ENOSYS);
	for (const struct numbers *n = p->numbers; n->first; n++) {
		put_jump(to, BPF_JGT, n->last, 2, 0);
		put_jump(to, BPF_JGE, n->first, 0, 1);
		put_return(to, action(n->answer));
	}
}

/* socketcall(2) of i386: libseccomp would take the arguments behind its pointer for arguments. */
static void put_socketcall_gate(struct program *to, bool open)
{
	enum { NR = 102, SOCKET = 1, SOCKETPAIR = 8 };
	uint8_t rest = open ? 3 : 7;

	put_jump(to, BPF_JEQ, NR, 0, rest);
	put_load(to, offsetof(struct seccomp_data, arch));
	put_jump(to, BPF_JEQ, AUDIT_ARCH_I386, 0, (uint8_t)(rest - 2));
	if (!open) {
		put_load(to, offsetof(struct seccomp_data, args[0]));
		put_jump(to, BPF_JEQ, SOCKET, 1, 0);
		put_jump(to, BPF_JEQ, SOCKETPAIR, 0, 1);
		put_return(to, SECCOMP_RET_ERRNO | EAFNOSUPPORT);
	}
	put_return(to, SECCOMP_RET_ALLOW);
}

/* The rules name arguments by their place; these have clone's flags in another one. */
static void check_reviewed(uint32_t arch)
{
	if (arch != SCMP_ARCH_X86_64 && arch != SCMP_ARCH_AARCH64 && arch != SCMP_ARCH_X86 &&
	    arch != SCMP_ARCH_ARM && arch != SCMP_ARCH_RISCV64 && arch != SCMP_ARCH_PPC64LE)
		errx(1, "nobody has reviewed the builder's filter for this architecture");
}

static scmp_filter_ctx compile(const struct profile *p, uint32_t arch, int bad_arch)
{
	scmp_filter_ctx ctx = seccomp_init(action(p->otherwise));

	if (!ctx)
		errx(1, "seccomp_init failed");
	if (seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, action(bad_arch)))
		errx(1, "%s: cannot set the action for unknown architectures", p->process);
	/* A tree, not a list: the kernel runs the program once for every system call number when it
	 * is installed, with interrupts off, and each session installs it. */
	if (seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2))
		errx(1, "%s: cannot have the filter sorted", p->process);
	add_arches(ctx, p, arch);
	for (const struct rule *r = p->rules; r->calls; r++)
		for (const struct call *c = r->calls; c->name; c++)
			add_call(ctx, p, r->answer, c);
	return ctx;
}

/* A foreign ABI without rules: our own processes never use one. The core's filter is not the place
 * to decide about builders. */
static void print_filter(int i, uint32_t arch)
{
	const struct profile *p = &confine_profiles[i];
	scmp_filter_ctx ctx = compile(p, arch, p->otherwise);

	printf("\n/* %s */\nstatic const struct sock_filter filter_%d[] = {\n", p->process, i);
	put_program(&program, ctx, p->process);
	print_program(&program, p->process);
	printf("};\n");
	seccomp_release(ctx);
}

static void print_builder(int i, bool i386_sockets, uint32_t arch)
{
	const struct profile *p = &confine_builders[i];
	scmp_filter_ctx ctx = compile(p, arch, ANSWER_KILL);

	printf("\n/* %s */\nstatic const struct sock_filter builder_%d_%d[] = {\n", p->process, i,
	       i386_sockets);
	put_number_gate(&program, p, arch);
	if (arch == SCMP_ARCH_X86_64 || arch == SCMP_ARCH_X86)
		put_socketcall_gate(&program, i386_sockets);
	put_program(&program, ctx, p->process);
	print_program(&program, p->process);
	printf("};\n");
	seccomp_release(ctx);
}

static void print_index(void)
{
	printf("\n#define PROGRAM(f) { sizeof(f) / sizeof((f)[0]), (struct sock_filter *)(f) }\n"
	       "const struct sock_fprog confine_filters[N_PROFILES] = {\n");
	for (int i = 0; i < N_PROFILES; i++)
		if (!confine_profiles[i].privileged_children)
			printf("\t[%d] = PROGRAM(filter_%d),\n", i, i);
	printf("};\nconst struct sock_fprog confine_builder_programs[N_BUILDERS][2] = {\n");
	for (int i = 0; i < N_BUILDERS; i++)
		printf("\t{ PROGRAM(builder_%d_0), PROGRAM(builder_%d_1) },\n", i, i);
	printf("};\n");
}

static void print_text(const char *name, const char *text)
{
	if (text)
		printf(", .%s = \"%s\"", name, text);
}

/* What seal.c needs of a line. The rules stay here: as data of every process, whose pointers are
 * set at its start, they would cost each of them more memory than all else that it writes to. */
static void print_seal(int i)
{
	const struct profile *p = &confine_profiles[i];

	printf("\t[%d] = { .caps = %#llxULL, .passes_no_caps_on = %d, .dumpable = %d,\n", i,
	       (unsigned long long)p->caps, p->passes_no_caps_on, p->dumpable);
	printf("\t\t.privileged_children = %d, .signals = %d, .n_places = %zu, .places = {",
	       p->privileged_children, p->signals, p->n_places);
	for (size_t k = 0; k < p->n_places; k++) {
		const struct place *at = &p->places[k];

		printf(" { .fd = %d, .work = %d, .optional = %d", at->fd, at->work, at->optional);
		print_text("path", at->path);
		printf(" },");
	}
	printf(" }");
	print_text("process", p->process);
	printf(" },\n");
}

static void print_seals(void)
{
	printf("const struct profile confine_seals[N_PROFILES] = {\n");
	for (int i = 0; i < N_PROFILES; i++)
		print_seal(i);
	printf("};\n");
}

int main(int argc, char **argv)
{
	uint32_t arch = argc > 1 ? seccomp_arch_resolve_name(argv[1]) : seccomp_arch_native();

	if (arch == 0)
		errx(1, "libseccomp does not know the architecture '%s'", argv[1]);
	check_reviewed(arch);
	printf("/* Generated from profiles.c and builder.c by gen-filters.c. */\n"
	       "#include \"confine/profiles.h\"\n");
	for (int i = 0; i < N_PROFILES; i++)
		if (!confine_profiles[i].privileged_children)
			print_filter(i, arch);
	for (int i = 0; i < 2 * N_BUILDERS; i++)
		print_builder(i / 2, i % 2, arch);
	print_index();
	print_seals();
	if (fflush(stdout) || ferror(stdout))
		err(1, "writing the filters");
	return 0;
}
