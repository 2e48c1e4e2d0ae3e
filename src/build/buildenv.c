/* builtin:buildenv, which nix-env needs: one tree of symlinks into many packages.
 *
 * Runs in the builder's place with the builder's rights. The packages are foreign data: no
 * recursion follows their depth. Linked by airplant-build alone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "build/builtins.h"
#include "build/supervisor.h"

/* One directory to be merged into another. */
struct merge {
	char *src, *dst;
	intptr_t priority;
};

struct package {
	char *path;
	intptr_t priority;
	bool active;
};

struct env {
	struct arena arena;
	struct smap priorities; /* of the links made: path -> priority + 1 */
	struct smap done;
	struct strv postponed;
	struct merge *stack;
	size_t n, cap;
};

static int no_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "out of memory");
}

static int push(struct env *v, char *src, char *dst, intptr_t priority, struct err *e)
{
	if (!src || !dst)
		return no_memory(e);
	if (v->n == v->cap) {
		size_t cap = v->cap ? v->cap * 2 : 64;
		struct merge *p = reallocarray(v->stack, cap, sizeof(*p));

		if (!p)
			return no_memory(e);
		v->stack = p;
		v->cap = cap;
	}
	v->stack[v->n++] = (struct merge){ src, dst, priority };
	return 0;
}

static bool ends(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n >= m && !strcmp(s + n - m, suffix);
}

/* Files that every package has, or that mean nothing in a profile. */
static bool left_out(const char *src)
{
	static const char *const names[] = { "/propagated-build-inputs",
					     "/nix-support",
					     "/perllocal.pod",
					     "/info/dir",
					     "/log",
					     "/manifest.nix",
					     "/manifest.json" };

	for (size_t i = 0; i < ELEMENTS(names); i++)
		if (ends(src, names[i]))
			return true;
	return false;
}

static int link_to(struct env *v, const char *src, const char *dst, intptr_t priority,
		   struct err *e)
{
	if (symlink(src, dst) < 0)
		return err_errno(e, -errno, "creating symlink from " Q_PATH " -> " Q_ARG, dst, src);
	if (smap_put(&v->priorities, dst, (void *)(priority + 1)) < 0)
		return no_memory(e);
	return 0;
}

static intptr_t priority_of(const struct env *v, const char *dst)
{
	intptr_t p = (intptr_t)smap_get(&v->priorities, dst);

	return p ? p - 1 : 0;
}

/* A directory where a link to another package's directory stands: both are merged. */
static int open_up(struct env *v, char *src, char *dst, intptr_t priority, struct err *e)
{
	_cleanup_free_ char *target = realpath(dst, NULL);
	struct stat st;
	int r;

	if (!target || lstat(target, &st) < 0)
		return err_errno(e, -errno, "getting status of " Q_ARG, dst);
	if (!S_ISDIR(st.st_mode))
		return err_set(e, 1, "collision between " Q_PATH " and non-directory " Q_PATH, src,
			       target);
	if (unlink(dst) < 0 || mkdir(dst, 0755) < 0)
		return err_errno(e, -errno, "creating directory " Q_ARG, dst);
	/* The stack gives back the last first: what was there goes before what comes. */
	r = push(v, src, dst, priority, e);
	return r ? r : push(v, arena_strdup(&v->arena, target), dst, priority_of(v, dst), e);
}

/* A file where something stands. 1: the new link is to be made; 0: it is not. */
static int replace(struct env *v, const char *src, const char *dst, intptr_t priority,
		   const struct stat *there, struct err *e)
{
	char old[PATH_MAX];
	intptr_t before = priority_of(v, dst);
	ssize_t n;

	if (S_ISDIR(there->st_mode))
		return err_set(e, -EEXIST,
			       "collision between non-directory " Q_ARG " and directory " Q_ARG,
			       src, dst);
	if (!S_ISLNK(there->st_mode))
		return 1;
	if (before == priority) {
		n = readlink(dst, old, sizeof(old) - 1);
		old[n < 0 ? 0 : n] = 0;
		return err_set(e, -EEXIST,
			       "Unable to build profile. There is a conflict for the following "
			       "files:\n\n  " Q_PATH "\n  " Q_PATH,
			       old, src);
	}
	if (before < priority)
		return 0;
	return unlink(dst) < 0 ? err_errno(e, -errno, "deleting " Q_ARG, dst) : 1;
}

static int merge_entry(struct env *v, const struct merge *m, const char *name, struct err *e)
{
	char *src = arena_printf(&v->arena, "%s/%s", m->src, name);
	char *dst = arena_printf(&v->arena, "%s/%s", m->dst, name);
	struct stat st, there;
	bool occupied;
	int r;

	if (!src || !dst)
		return no_memory(e);
	if (stat(src, &st) < 0) {
		_cleanup_free_ char *text = NULL;

		if (errno != ENOENT && errno != ENOTDIR)
			return err_errno(e, -errno, "getting status of " Q_ARG, src);
		if (asprintf(&text, "skipping dangling symlink " Q_ARG, dst) >= 0)
			builtin_warn(text);
		return 0;
	}
	if (left_out(src))
		return 0;
	occupied = lstat(dst, &there) == 0;
	if (!occupied)
		return link_to(v, src, dst, m->priority, e);
	if (S_ISDIR(st.st_mode)) {
		if (S_ISDIR(there.st_mode))
			return push(v, src, dst, m->priority, e);
		if (S_ISLNK(there.st_mode))
			return open_up(v, src, dst, m->priority, e);
		return link_to(v, src, dst, m->priority, e);
	}
	r = replace(v, src, dst, m->priority, &there, e);
	return r == 1 ? link_to(v, src, dst, m->priority, e) : r;
}

static int merge_dir(struct env *v, const struct merge *m, struct err *e)
{
	_cleanup_strv_ struct strv names = { 0 };
	DIR *dir = opendir(m->src);
	struct dirent *de;
	int r = 0;

	if (!dir && errno == ENOTDIR) {
		_cleanup_free_ char *text = NULL;

		if (asprintf(&text,
			     "not including " Q_PATH
			     " in the user environment because it's not a directory",
			     m->src) >= 0)
			builtin_warn(text);
		return 0;
	}
	if (!dir)
		return err_errno(e, -errno, "opening directory " Q_PATH, m->src);
	while (r == 0 && (de = readdir(dir)))
		if (de->d_name[0] != '.')
			r = strv_add(&names, de->d_name);
	closedir(dir);
	if (r < 0)
		return no_memory(e);
	strv_sort(&names);
	for (size_t i = 0; r == 0 && i < names.n; i++)
		r = merge_entry(v, m, names.v[i], e);
	return r;
}

/* `words` separated by any of `seps`, into the arena. */
static int split(struct arena *a, const char *text, const char *seps, struct strv *ret)
{
	int r = 0;

	for (const char *p = text + strspn(text, seps); r == 0 && *p; p += strspn(p, seps)) {
		size_t n = strcspn(p, seps);
		char *word = arena_strndup(a, p, n);

		r = word ? strv_add_arena(ret, a, word) : -ENOMEM;
		p += n;
	}
	return r;
}

/* What a package wants installed along with it, for later. */
static int postpone(struct env *v, const char *pkg, struct err *e)
{
	char *path = arena_printf(&v->arena, "%s/nix-support/propagated-user-env-packages", pkg);
	_cleanup_free_ char *text = NULL;
	struct strv words = { 0 };
	int r;

	if (!path)
		return no_memory(e);
	r = read_file_at(AT_FDCWD, path, 1 << 20, &text, NULL);
	if (r == -ENOENT || r == -ENOTDIR)
		return 0;
	if (r < 0)
		return err_errno(e, r, "reading file " Q_PATH, path);
	r = split(&v->arena, text, " \n", &words);
	for (size_t i = 0; r == 0 && i < words.n; i++)
		if (!smap_has(&v->done, words.v[i]))
			r = strv_add_arena(&v->postponed, &v->arena, words.v[i]);
	return r < 0 ? no_memory(e) : 0;
}

static int add_package(struct env *v, char *pkg, char *out, intptr_t priority, struct err *e)
{
	int r;

	if (smap_has(&v->done, pkg))
		return 0;
	if (smap_put(&v->done, pkg, v) < 0)
		return no_memory(e);
	r = push(v, pkg, out, priority, e);
	while (r == 0 && v->n > 0) {
		struct merge m = v->stack[--v->n];

		r = merge_dir(v, &m, e);
	}
	return r ? r : postpone(v, pkg, e);
}

static int by_priority(const void *a, const void *b)
{
	const struct package *x = a, *y = b;

	if (x->priority != y->priority)
		return x->priority < y->priority ? -1 : 1;
	return strcmp(x->path, y->path);
}

static int number(const char *text, long *ret)
{
	char *end;

	errno = 0;
	*ret = strtol(text, &end, 10);
	return errno || end == text ? -EINVAL : 0;
}

/* "active priority n path*n" again and again. */
static int read_packages(struct env *v, const char *text, struct package **ret, size_t *ret_n,
			 struct err *e)
{
	struct strv words = { 0 };
	struct package *p;
	size_t n = 0, i = 0;

	if (split(&v->arena, text, " \t\n\r", &words) < 0)
		return no_memory(e);
	p = arena_array(&v->arena, words.n + 1, sizeof(*p));
	if (!p)
		return no_memory(e);
	while (i < words.n) {
		bool active = strcmp(words.v[i], "false") != 0;
		long priority, count;

		if (words.n - i < 3 || number(words.v[i + 1], &priority) < 0 ||
		    number(words.v[i + 2], &count) < 0 || count < 0 ||
		    (size_t)count > words.n - i - 3)
			return err_set(e, 1, "attribute 'derivations' is not a list of packages");
		i += 3;
		for (long k = 0; k < count; k++)
			p[n++] = (struct package){ words.v[i++], priority, active };
	}
	*ret = p;
	*ret_n = n;
	return 0;
}

static int add_postponed(struct env *v, char *out, struct err *e)
{
	intptr_t priority = 1000;
	int r = 0;

	while (r == 0 && v->postponed.n > 0) {
		struct strv now = v->postponed;

		v->postponed = (struct strv){ 0 };
		strv_sort_uniq(&now, false);
		for (size_t i = 0; r == 0 && i < now.n; i++)
			r = add_package(v, now.v[i], out, priority++, e);
	}
	return r;
}

static int require_attr(const struct build *b, const char *name, const char **ret, struct err *e)
{
	*ret = builtin_env(b, name);
	return *ret ? 0 : err_set(e, 1, "attribute " Q_ARG " missing", name);
}

int builtin_buildenv(const struct build *b, struct err *e)
{
	struct env v = { .arena = ARENA_INIT(512 << 20) };
	const char *derivations, *manifest;
	struct package *p = NULL;
	char *out = NULL, *link;
	size_t n = 0;
	int r = require_attr(b, "derivations", &derivations, e);

	if (r == 0)
		r = require_attr(b, "manifest", &manifest, e);
	if (r)
		return r;
	for (size_t i = 0; i < b->s.outputs.n; i++)
		if (!strcmp(b->s.outputs.v[i].name, "out"))
			out = arena_printf(&v.arena, "%s/%s", b->s.store_dir,
					   b->s.outputs.v[i].path);
	link = out ? arena_printf(&v.arena, "%s/manifest.nix", out) : NULL;
	if (!link)
		return err_set(e, 1, "builtin:buildenv needs an output " Q_ARG, "out");
	if (mkdir(out, 0755) < 0)
		return err_errno(e, -errno, "creating directory " Q_ARG, out);
	r = read_packages(&v, derivations, &p, &n, e);
	if (r)
		return r;
	qsort(p, n, sizeof(*p), by_priority);
	for (size_t i = 0; r == 0 && i < n; i++)
		if (p[i].active)
			r = add_package(&v, p[i].path, out, p[i].priority, e);
	if (r == 0)
		r = add_postponed(&v, out, e);
	if (r == 0 && symlink(manifest, link) < 0)
		r = err_errno(e, -errno, "creating symlink from " Q_PATH " -> " Q_ARG, link,
			      manifest);
	return r; /* memory goes with the process */
}
