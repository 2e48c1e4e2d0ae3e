/* Makes a filter smaller: the kernel checks, converts and compiles it each time a process installs
 * it, which is each session and each build, so every instruction counts twice.
 *
 * What libseccomp writes is taken apart: for each architecture, and each range of system call
 * numbers that are treated alike, what is left is a graph of tests of arguments. Equal graphs
 * become one; over the ranges a binary search is put. Then both programs are run on the same calls,
 * at and around every number and constant that either of them knows, and must agree.
 *
 * Runs on the machine that builds, on data of ours. Linked by gen-filters alone. */
#include "confine/shrink.h"

#include <err.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { NR = 0, ARCH = 4, NODES = 1 << 15, VALUES = 1 << 13, NO_ARCH = 0x01234567 };

/* Either the end (`op` is BPF_RET, `k` the answer) or a test of a masked word of seccomp_data. */
struct node {
	uint32_t off, mask, k, op;
	int yes, no;
	/* Somebody comes who has not loaded its word. */
	bool needs_load, seen;
	/* Instructions from the end of the new program, where it has been put: with its load,
	 * without. */
	size_t at, body;
};

static struct node nodes[NODES];
static int n_nodes;

static int node(struct node want)
{
	if (want.op != BPF_RET && want.yes == want.no)
		return want.yes;
	for (int i = 0; i < n_nodes; i++) {
		const struct node *n = &nodes[i];

		if (n->off == want.off && n->mask == want.mask && n->k == want.k &&
		    n->op == want.op && n->yes == want.yes && n->no == want.no)
			return i;
	}
	if (n_nodes == NODES)
		errx(1, "a filter is too large");
	nodes[n_nodes] = want;
	return n_nodes++;
}

/* ---- sets of numbers ---- */

struct values {
	uint32_t v[VALUES];
	size_t n;
};

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void add(struct values *s, uint32_t v)
{
	if (s->n == VALUES)
		errx(1, "a filter has too many constants");
	s->v[s->n++] = v;
}

static void sort(struct values *s)
{
	size_t n = 0;

	qsort(s->v, s->n, sizeof(*s->v), by_size);
	for (size_t i = 0; i < s->n; i++)
		if (n == 0 || s->v[n - 1] != s->v[i])
			s->v[n++] = s->v[i];
	s->n = n;
}

/* ---- the search ---- */

/* Values of a word from `from` on, up to the next one's. */
struct run {
	uint32_t from;
	int rest;
};

static bool is_single(const struct run *r, size_t i, size_t n, uint32_t last)
{
	return (i + 1 < n ? r[i + 1].from - 1 : last) == r[i].from;
}

/* A few values that are treated otherwise than all around them are asked for one by one. */
static int few(uint32_t off, const struct run *r, size_t n, uint32_t last)
{
	size_t others = 0;
	int all = is_single(r, 0, n, last) && n > 1 ? r[1].rest : r[0].rest, tree = all;

	for (size_t i = 0; i < n; i++) {
		if (r[i].rest == all)
			continue;
		if (!is_single(r, i, n, last) || ++others > 4)
			return -1;
	}
	for (size_t i = n; i-- > 0;)
		if (r[i].rest != all)
			tree = node((struct node){ .off = off,
						   .mask = ~0U,
						   .k = r[i].from,
						   .op = BPF_JEQ,
						   .yes = r[i].rest,
						   .no = tree });
	return tree;
}

static int search(uint32_t off, const struct run *r, size_t n, uint32_t last)
{
	size_t half = n / 2;
	int tree = few(off, r, n, last), no;

	if (tree >= 0)
		return tree;
	no = search(off, r, half, r[half].from - 1);
	return node((struct node){ .off = off,
				   .mask = ~0U,
				   .k = r[half].from,
				   .op = BPF_JGE,
				   .yes = search(off, r + half, n - half, last),
				   .no = no });
}

/* ---- taking apart ---- */

/* The accumulator: a number, or a word of the arguments under a mask. */
struct accu {
	bool known;
	uint32_t value, off, mask;
};

struct call {
	uint32_t arch, nr;
};

static bool test(uint32_t op, uint32_t a, uint32_t k)
{
	return op == BPF_JEQ   ? a == k
	       : op == BPF_JGT ? a > k
	       : op == BPF_JGE ? a >= k
			       : (a & k) != 0;
}

static struct accu load(const struct call *c, uint32_t off)
{
	if (off == NR || off == ARCH)
		return (struct accu){ .known = true, .value = off == NR ? c->nr : c->arch };
	return (struct accu){ .off = off, .mask = ~0U };
}

/* Is the test's outcome the same for a range of values from its constant on? */
static bool is_range(const struct node *n, uint32_t off)
{
	bool prefix = (n->mask & (~n->mask >> 1)) == 0 && n->mask >> 31;

	return n->op != BPF_RET && n->off == off && n->op != BPF_JSET && prefix &&
	       (n->op == BPF_JEQ || n->mask == ~0U);
}

static int leaf(int i, uint32_t off, uint32_t value)
{
	while (is_range(&nodes[i], off)) {
		const struct node *n = &nodes[i];

		i = test(n->op, value & n->mask, n->k) ? n->yes : n->no;
	}
	return i;
}

static void edges(int i, uint32_t off, struct values *s)
{
	const struct node *n = &nodes[i];

	if (!is_range(n, off))
		return;
	add(s, n->k);
	add(s, n->op == BPF_JEQ ? (n->k | ~n->mask) + 1 : n->k + 1);
	edges(n->yes, off, s);
	edges(n->no, off, s);
}

/* A cascade of tests of one word (libseccomp spells "is none of these" bit by bit) as a search. */
static int simplify(int i)
{
	uint32_t off = nodes[i].off;
	struct values s = {};
	struct run *runs;
	size_t n = 0;
	int tree;

	if (!is_range(&nodes[i], off))
		return i;
	add(&s, 0);
	edges(i, off, &s);
	sort(&s);
	runs = calloc(s.n, sizeof(*runs));
	if (!runs)
		err(1, "memory");
	for (size_t k = 0; k < s.n; k++) {
		int l = leaf(i, off, s.v[k]);

		if (n == 0 || runs[n - 1].rest != l)
			runs[n++] = (struct run){ s.v[k], l };
	}
	tree = search(off, runs, n, ~0U);
	free(runs);
	return tree;
}

static int rest(const struct program *p, size_t pc, struct accu a, const struct call *c)
{
	for (;; pc++) {
		const struct sock_filter *f = &p->v[pc];
		uint32_t op = BPF_OP(f->code);

		if (f->code == (BPF_LD | BPF_W | BPF_ABS)) {
			a = load(c, f->k);
		} else if (f->code == (BPF_ALU | BPF_AND | BPF_K)) {
			a.value &= f->k;
			a.mask &= f->k;
			a.known = a.known || a.mask == 0;
			if (a.mask == 0)
				a.value = 0;
		} else if (f->code == (BPF_RET | BPF_K)) {
			return node((struct node){ .op = BPF_RET, .k = f->k });
		} else if (f->code == (BPF_JMP | BPF_JA)) {
			pc += f->k;
		} else if (BPF_CLASS(f->code) != BPF_JMP || BPF_SRC(f->code) != BPF_K) {
			errx(1, "a filter has an instruction %#x", f->code);
		} else if (a.known) {
			pc += test(op, a.value, f->k) ? f->jt : f->jf;
		} else {
			struct node n = { .off = a.off, .mask = a.mask, .k = f->k, .op = op };

			n.yes = rest(p, pc + 1 + f->jt, a, c);
			n.no = rest(p, pc + 1 + f->jf, a, c);
			return simplify(node(n));
		}
	}
}

/* Every constant that something is compared with, its neighbours, and both ends: whatever a program
 * does with a number changes at these alone. `masks`: those too. */
static void constants(const struct program *p, bool masks, struct values *s)
{
	add(s, 0);
	add(s, ~0U);
	for (size_t i = 0; i < p->n; i++) {
		const struct sock_filter *f = &p->v[i];
		bool jump = BPF_CLASS(f->code) == BPF_JMP && BPF_OP(f->code) != BPF_JA;

		if (!jump && !(masks && BPF_CLASS(f->code) == BPF_ALU))
			continue;
		add(s, f->k - 1);
		add(s, f->k);
		add(s, f->k + 1);
	}
	sort(s);
}

/* ---- the whole ---- */

static int for_arch(const struct program *p, uint32_t arch, const struct values *numbers)
{
	static struct run runs[VALUES];
	size_t n = 0;

	for (size_t i = 0; i < numbers->n; i++) {
		struct call c = { arch, numbers->v[i] };
		int r = rest(p, 0, (struct accu){ .known = true }, &c);

		if (n == 0 || runs[n - 1].rest != r)
			runs[n++] = (struct run){ numbers->v[i], r };
	}
	return search(NR, runs, n, ~0U);
}

static void arches(const struct program *p, struct values *s)
{
	uint32_t off = ~0U;

	for (size_t i = 0; i < p->n; i++) {
		if (p->v[i].code == (BPF_LD | BPF_W | BPF_ABS))
			off = p->v[i].k;
		else if (off == ARCH && p->v[i].code == (BPF_JMP | BPF_JEQ | BPF_K))
			add(s, p->v[i].k);
	}
	sort(s);
}

/* ---- writing ---- */

/* Backwards, so that what a jump leads to has been written. */
static struct sock_filter out[2 * BPF_MAXINSNS];
static size_t n_out;

static void put(struct sock_filter f)
{
	if (n_out == BPF_MAXINSNS)
		errx(1, "a filter is too large");
	out[n_out++] = f;
}

static bool has_loaded(const struct node *from, const struct node *n)
{
	return n->op != BPF_RET && from->off == n->off && from->mask == n->mask;
}

static void see_loads(int i)
{
	struct node *n = &nodes[i];
	int next[] = { n->yes, n->no };

	if (n->seen || n->op == BPF_RET)
		return;
	n->seen = true;
	for (size_t k = 0; k < 2; k++) {
		if (!has_loaded(n, &nodes[next[k]]))
			nodes[next[k]].needs_load = true;
		see_loads(next[k]);
	}
}

static size_t *entry(struct node *n, const struct node *from)
{
	return has_loaded(from, n) ? &n->body : &n->at;
}

/* What is too far for a jump is written again, or a jump to it: others will want that too. */
static void bring_near(struct node *n, const struct node *from)
{
	size_t *to = entry(n, from), far = n_out - *to;

	if (far < 250)
		return;
	put(n->op == BPF_RET ? (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, n->k)
			     : (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JA, (uint32_t)far, 0, 0));
	*to = n_out;
}

static void write_node(int i)
{
	struct node *n = &nodes[i];

	if (n->body)
		return;
	if (n->op == BPF_RET) {
		put((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, n->k));
		n->at = n->body = n_out;
		return;
	}
	write_node(n->yes);
	write_node(n->no);
	/* The second may push the first one further away by one. */
	bring_near(&nodes[n->yes], n);
	bring_near(&nodes[n->no], n);
	put((struct sock_filter)BPF_JUMP(BPF_JMP | n->op | BPF_K, n->k,
					 (uint8_t)(n_out - *entry(&nodes[n->yes], n)),
					 (uint8_t)(n_out - *entry(&nodes[n->no], n))));
	n->at = n->body = n_out;
	if (!n->needs_load)
		return;
	if (n->mask != ~0U)
		put((struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, n->mask));
	put((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, n->off));
	n->at = n_out;
}

static void write_all(int root, struct program *ret)
{
	n_out = 0;
	nodes[root].needs_load = true;
	see_loads(root);
	write_node(root);
	if (nodes[root].at != n_out)
		errx(1, "a filter does not begin at its beginning");
	ret->n = n_out;
	for (size_t i = 0; i < n_out; i++)
		ret->v[i] = out[n_out - 1 - i];
}

/* ---- comparing ---- */

static uint32_t answer(const struct program *p, const struct seccomp_data *d)
{
	uint32_t a = 0;

	for (size_t pc = 0; pc < p->n; pc++) {
		const struct sock_filter *f = &p->v[pc];

		switch (f->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			memcpy(&a, (const char *)d + f->k, sizeof(a));
			break;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= f->k;
			break;
		case BPF_RET | BPF_K:
			return f->k;
		case BPF_JMP | BPF_JA:
			pc += f->k;
			break;
		default:
			pc += test(BPF_OP(f->code), a, f->k) ? f->jt : f->jf;
		}
	}
	errx(1, "a filter has no end");
}

/* Words of the arguments: mostly one of the constants, or next to one. */
static void make_up(struct seccomp_data *d, const struct values *words)
{
	static uint64_t state = 88172645463325252ULL; /* xorshift: the same at each build */
	uint32_t w[12];

	for (size_t i = 0; i < 12; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		w[i] = state % 4 == 0 ? 0 : words->v[(state >> 8) % words->n];
	}
	memcpy(d->args, w, sizeof(w));
}

static void compare(const struct program *old, const struct program *new, const char *process)
{
	enum { ROUNDS = 60 };
	struct values numbers = {}, words = {}, arch = {};

	constants(old, false, &numbers);
	constants(old, true, &words);
	arches(old, &arch);
	add(&arch, NO_ARCH);
	for (size_t i = 0; i < arch.n; i++)
		for (size_t k = 0; k < numbers.n * ROUNDS; k++) {
			struct seccomp_data d = { .arch = arch.v[i],
						  .nr = (int)numbers.v[k / ROUNDS] };

			make_up(&d, &words);
			if (answer(old, &d) != answer(new, &d))
				errx(1, "%s: the smaller filter gives another answer to call %d",
				     process, d.nr);
		}
}

void shrink(struct program *p, const char *process)
{
	static struct program smaller;
	struct values numbers = {}, arch = {};
	int root;

	n_nodes = 0;
	constants(p, false, &numbers);
	arches(p, &arch);
	root = for_arch(p, NO_ARCH, &numbers);
	for (size_t i = arch.n; i-- > 0;)
		root = node((struct node){ .off = ARCH,
					   .mask = ~0U,
					   .k = arch.v[i],
					   .op = BPF_JEQ,
					   .yes = for_arch(p, arch.v[i], &numbers),
					   .no = root });
	write_all(root, &smaller);
	compare(p, &smaller, process);
	if (smaller.n < p->n)
		*p = smaller;
}
