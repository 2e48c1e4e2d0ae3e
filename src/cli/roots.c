/* airplant roots PATH: which roots keep a store path, and over which references. It asks the daemon
 * for all roots, then walks from the path to what refers to it, breadth first: so the chain told
 * for each root is a shortest one. Linked by airplant. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/cli.h"
#include "cli/daemon.h"
#include "conf/conf.h"
#include "path/path.h"
#include "wire/info.h"
#include "wire/limits.h"

enum { ALIVE = 0, DEAD = 1, FAILED = 2 };
enum { SHOWN = 10, NAMES_MAX = 1 << 24 };

/* Why `base` is kept by the node before it. */
enum edge { EDGE_NONE, EDGE_REFERS, EDGE_DERIVER, EDGE_OUTPUT };
static const char *const edge_words[] = {
	[EDGE_REFERS] = "which refers to",
	[EDGE_DERIVER] = "which was built from (keep-derivations)",
	[EDGE_OUTPUT] = "which has the output (keep-outputs)",
};

struct node {
	char *base;
	size_t towards; /* the node it keeps */
	enum edge edge;
};

struct root {
	const char *name;
	struct root *next; /* of the same path */
};

struct search {
	struct daemon d;
	struct arena a;
	struct smap roots, seen; /* base -> first struct root; base -> anything */
	struct node *v;
	size_t n, cap, shown, found, censored;
	bool keep_derivations, keep_outputs, all;
};

/* ---- the path that is meant ---- */

static int resolve(const struct cli_dirs *dirs, const char *arg, struct store_path *ret,
		   struct err *e)
{
	char target[PATH_MAX], real[PATH_MAX];
	size_t len = strlen(dirs->store);
	ssize_t n;

	if (!strncmp(arg, dirs->store, len) && arg[len] == '/')
		return store_path_of_subpath(dirs->store, arg, ret, e);
	/* A result: the path it names, not what that leads to. */
	n = readlink(arg, target, sizeof(target) - 1);
	if (n > 0) {
		target[n] = 0;
		if (!strncmp(target, dirs->store, len) && target[len] == '/')
			return store_path_of_subpath(dirs->store, target, ret, e);
	}
	if (!realpath(arg, real))
		return err_errno(e, -errno, "'%s'", arg);
	return store_path_of_subpath(dirs->store, real, ret, e);
}

/* ---- what the daemon says ---- */

static void begin(struct search *s, uint64_t op, const char *base)
{
	wire_put_u64(&s->d.out, op);
	if (base)
		wire_put_path(&s->d.out, base);
}

static int take_root(struct search *s, const char *name, const char *base)
{
	struct root *root = arena_alloc(&s->a, sizeof(*root));

	if (!root)
		return -ENOMEM;
	*root = (struct root){ .name = name, .next = smap_get(&s->roots, base) };
	return smap_put(&s->roots, base, root);
}

static int ask_roots(struct search *s, struct err *e)
{
	struct store_path p;
	uint64_t n;
	char *name;
	int r;

	begin(s, OP_FIND_ROOTS, NULL);
	r = daemon_ask(&s->d, e);
	r = r ? r : wire_number(&s->d.in, NAMES_MAX, &n);
	for (uint64_t i = 0; r == 0 && i < n; i++) {
		r = wire_str(&s->d.in, &s->a, WIRE_PATH_MAX * 2, &name);
		r = r ? r : wire_path(&s->d.in, s->d.store_dir, &s->a, &p);
		if (r == 0 && take_root(s, name, p.base) < 0)
			r = err_set(e, -ENOMEM, "out of memory");
	}
	return r;
}

static int ask_paths(struct search *s, enum wire_op op, const char *base, struct strv *ret,
		     struct err *e)
{
	int r;

	begin(s, op, base);
	r = daemon_ask(&s->d, e);
	return r ? r : wire_paths(&s->d.in, s->d.store_dir, &s->a, ret);
}

/* Positive: it is not valid. */
static int ask_info(struct search *s, const char *base, struct wire_info *ret, struct err *e)
{
	uint64_t valid;
	int r;

	begin(s, OP_QUERY_PATH_INFO, base);
	r = daemon_ask(&s->d, e);
	r = r ? r : wire_number(&s->d.in, 1, &valid);
	if (r)
		return r < 0 ? r : -EPROTO;
	if (!valid)
		return 1;
	r = wire_get_info(&s->d.in, s->d.store_dir, &s->a, ret);
	return r > 0 ? -EPROTO : r;
}

/* ---- the walk ---- */

static int visit(struct search *s, const char *base, size_t towards, enum edge edge)
{
	if (smap_has(&s->seen, base))
		return 0;
	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 256;
		struct node *v = reallocarray(s->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		s->v = v;
		s->cap = cap;
	}
	s->v[s->n] = (struct node){ .base = arena_strdup(&s->a, base),
				    .towards = towards,
				    .edge = edge };
	if (!s->v[s->n].base)
		return -ENOMEM;
	s->n++;
	return smap_put(&s->seen, base, s);
}

static int visit_all(struct search *s, const struct strv *bases, size_t towards, enum edge edge)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < bases->n; i++)
		r = visit(s, bases->v[i], towards, edge);
	return r;
}

/* Outputs that were built from this derivation keep it. */
static int outputs_of(struct search *s, size_t i, struct err *e)
{
	struct strv outputs = {};
	uint64_t n;
	char *name, *base;
	int r;

	begin(s, OP_QUERY_DERIVATION_OUTPUT_MAP, s->v[i].base);
	r = daemon_ask(&s->d, e);
	r = r ? r : wire_number(&s->d.in, NAMES_MAX, &n);
	for (uint64_t k = 0; r == 0 && k < n; k++) {
		r = wire_str(&s->d.in, &s->a, WIRE_PATH_MAX, &name);
		r = r ? r : wire_opt_path(&s->d.in, s->d.store_dir, &s->a, &base);
		if (r == 0 && *base && strv_add_arena(&outputs, &s->a, base) < 0)
			r = -ENOMEM;
	}
	for (size_t k = 0; r == 0 && k < outputs.n; k++) {
		struct wire_info info;

		r = ask_info(s, outputs.v[k], &info, e);
		if (r == 0 && !strcmp(info.deriver, s->v[i].base))
			r = visit(s, outputs.v[k], i, EDGE_DERIVER);
		else if (r > 0)
			r = 0;
	}
	return r;
}

static int expand(struct search *s, size_t i, struct err *e)
{
	bool is_drv = strlen(s->v[i].base) > 4 &&
		      !strcmp(s->v[i].base + strlen(s->v[i].base) - 4, ".drv");
	struct strv list;
	int r = ask_paths(s, OP_QUERY_REFERRERS, s->v[i].base, &list, e);

	r = r ? r : visit_all(s, &list, i, EDGE_REFERS);
	if (r == 0 && is_drv && s->keep_derivations)
		r = outputs_of(s, i, e);
	if (r == 0 && !is_drv && s->keep_outputs) {
		r = ask_paths(s, OP_QUERY_VALID_DERIVERS, s->v[i].base, &list, e);
		r = r ? r : visit_all(s, &list, i, EDGE_OUTPUT);
	}
	return r;
}

/* ---- what is printed ---- */

static void print_owner(const char *path, const char *before)
{
	struct stat st;
	const struct passwd *pw;

	if (lstat(path, &st) < 0)
		return;
	pw = getpwuid(st.st_uid);
	if (pw)
		printf("%s%s", before, pw->pw_name);
	else
		printf("%suid %u", before, st.st_uid);
}

static void print_process(const char *pid, int len, const char *what)
{
	_cleanup_free_ char *comm = NULL, *proc = NULL;
	char path[64];
	int dir;

	printf("process %.*s", len, pid);
	snprintf(path, sizeof(path), "/proc/%.*s", len, pid);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir >= 0 && read_file_at(dir, "comm", 64, &comm, NULL) == 0)
		printf(" (%.*s", (int)strcspn(comm, "\n"), comm);
	else
		printf(" (");
	close_fdp(&dir);
	print_owner(path, comm ? " of " : "of ");
	printf(") %s", what);
}

static void print_name(const char *name)
{
	int len = name[0] == '{' ? (int)strspn(name + 6, "0123456789") : 0;

	if (!strncmp(name, "{temp:", 6))
		print_process(name + 6, len, "holds for the time of its connection");
	else if (!strncmp(name, "/proc/", 6) && (len = (int)strspn(name + 6, "0123456789")) > 0)
		print_process(name + 6, len, "uses"), printf(", as %s says,", name);
	else if (!strcmp(name, "{censored}"))
		printf("something of another user keeps");
	else if (*name == '/')
		printf("the link %s", name), print_owner(name, " of "), printf(" leads to");
	else
		printf("%s keeps", name);
}

static void print_chain(const struct search *s, size_t i, const char *name)
{
	print_name(name);
	printf("\n    %s/%s", s->d.store_dir, s->v[i].base);
	for (; s->v[i].edge != EDGE_NONE; i = s->v[i].towards)
		printf(", %s\n    %s/%s", edge_words[s->v[i].edge], s->d.store_dir,
		       s->v[s->v[i].towards].base);
	printf("\n");
}

static void tell_roots(struct search *s, size_t i)
{
	const struct root *root = smap_get(&s->roots, s->v[i].base);

	for (; root; root = root->next) {
		s->found++;
		s->censored += !strcmp(root->name, "{censored}");
		if (!s->all && s->shown == SHOWN)
			continue;
		s->shown++;
		print_chain(s, i, root->name);
	}
}

static int conclude(const struct search *s)
{
	if (s->found > s->shown)
		printf("%zu more (--all shows them)\n", s->found - s->shown);
	if (s->censored > 0)
		printf("The names of other users' roots are told to trusted users.\n");
	if (s->found > 0)
		return ALIVE;
	printf("Nothing keeps %s/%s alive: no root leads to it.\n", s->d.store_dir, s->v[0].base);
	return DEAD;
}

static int walk(struct search *s, const char *base, struct err *e)
{
	int r = visit(s, base, 0, EDGE_NONE);

	for (size_t i = 0; r == 0 && i < s->n; i++) {
		tell_roots(s, i);
		r = expand(s, i, e);
	}
	if (r < 0 && !e->code)
		r = err_errno(e, r, "walking over references");
	return r > 0 ? err_set(e, -EPROTO, "%s", err_msg(e)) : r;
}

static void ignore(void *ctx, const char *text)
{
	(void)ctx; /* the daemon warns of its settings */
	(void)text;
}

/* The daemon decides what derivations keep; its settings are there to be read. */
static int read_settings(struct search *s, const struct cli_dirs *dirs, struct err *e)
{
	struct settings set;
	int r;

	settings_init(&set);
	r = settings_load(&set, dirs->conf, NULL, ignore, NULL, e);
	s->keep_derivations = set.keep_derivations;
	s->keep_outputs = set.keep_outputs;
	settings_done(&set);
	return r;
}

static int run(struct search *s, const struct cli_dirs *dirs, const char *arg, struct err *e)
{
	struct wire_info info;
	struct store_path p;
	int r = resolve(dirs, arg, &p, e);

	r = r ? r : read_settings(s, dirs, e);
	r = r ? r : daemon_open(&s->d, dirs->socket, dirs->store, e);
	if (r)
		return r;
	r = ask_info(s, p.base, &info, e);
	if (r > 0)
		return err_set(e, -ENOENT, "'%s/%s' is no valid path of the store", dirs->store,
			       p.base);
	r = r ? r : ask_roots(s, e);
	return r ? r : walk(s, p.base, e);
}

int cli_roots(const struct cli_dirs *dirs, int argc, char **argv)
{
	struct search *s = calloc(1, sizeof(*s));
	_cleanup_err_ struct err e = {};
	bool all = argc == 3 && !strcmp(argv[1], "--all");
	int r;

	if (!s || argc != 2 + all) {
		fputs(s ? "usage: airplant roots [--all] PATH\n" : "airplant: out of memory\n",
		      stderr);
		free(s);
		return FAILED;
	}
	s->a = (struct arena)ARENA_INIT(SIZE_MAX);
	s->d.fd = -1;
	s->all = all;
	r = run(s, dirs, argv[1 + all], &e);
	if (r == 0)
		r = conclude(s);
	else
		fprintf(stderr, "error: %s\n", err_msg(&e));
	r = e.code || r < 0 ? FAILED : r;
	daemon_close(&s->d);
	smap_done(&s->roots);
	smap_done(&s->seen);
	arena_done(&s->a);
	free(s->v);
	free(s);
	return r;
}
