/* Garbage collector roots. See roots.h. Linked by airplantd.
 *
 * The directories below the state directory are walked by directory fds without following links;
 * where a link points is read with readlink alone, never opened. */
#include "core/roots.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "core/core.h"
#include "core/sessions.h"
#include "hash/hash.h"

struct search {
	struct core *core;
	bool censor;
	int state_fd;
	struct arena *a;
	struct session_roots *ret;
	size_t cap;
	struct strv todo; /* directories, relative to the state directory; heap */
};

int roots_add_indirect(struct core *core, const char *path, struct err *e)
{
	_cleanup_free_ char *dir = NULL;
	_cleanup_close_ int fd = -1;
	char name[64], fresh[80];
	struct hash h;

	if (path[0] != '/' || strlen(path) >= PATH_MAX)
		return err_set(e, EINVAL, "not an absolute path: '%s'", path);
	hash_buffer(HASH_SHA1, path, strlen(path), &h);
	base32_encode(h.bytes, hash_size(HASH_SHA1), name);
	if (asprintf(&dir, "%s/gcroots/auto", core->state_dir) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, -errno, "opening '%s'", dir);
	/* One thread: nobody else uses this name; what is there is a crash's leftover. */
	snprintf(fresh, sizeof(fresh), ".%s.new", name);
	if (unlinkat(fd, fresh, 0) < 0 && errno != ENOENT)
		return err_errno(e, -errno, "removing '%s/%s'", dir, fresh);
	if (symlinkat(path, fd, fresh) < 0)
		return err_errno(e, -errno, "creating symlink from '%s/%s' to '%s'", dir, name,
				 path);
	if (renameat(fd, fresh, fd, name) < 0)
		return err_errno(e, -errno, "creating symlink from '%s/%s' to '%s'", dir, name,
				 path);
	return 0;
}

static int add(struct search *s, const char *link, const struct store_path *target)
{
	struct session_roots *ret = s->ret;
	struct session_root *r;
	int valid = db_path_valid(s->core->db, target);

	if (valid != 0)
		return valid < 0 ? valid : 0;
	if (ret->roots.n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 64;
		struct session_root *v = arena_array(s->a, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		if (ret->roots.n)
			memcpy(v, ret->roots.v, ret->roots.n * sizeof(*v));
		ret->roots.v = v;
		s->cap = cap;
	}
	r = &ret->roots.v[ret->roots.n];
	r->link = arena_strdup(s->a, s->censor ? "{censored}" : link);
	r->target = arena_strdup(s->a, target->base);
	if (!r->link || !r->target)
		return -ENOMEM;
	ret->roots.n++;
	return 0;
}

/* The store path that a link's text names; false for anything else. */
static bool names_store_path(const struct search *s, const char *text, struct store_path *ret)
{
	size_t len = strlen(s->core->store_dir);

	return !strncmp(text, s->core->store_dir, len) && text[len] == '/' &&
	       store_path_of_subpath(s->core->store_dir, text, ret, NULL) == 0;
}

static bool read_link(int dirfd, const char *name, char ret[PATH_MAX])
{
	ssize_t n = readlinkat(dirfd, name, ret, PATH_MAX - 1);

	if (n < 0)
		return false;
	ret[n] = 0;
	return true;
}

static int found_link(struct search *s, int dirfd, const char *dir, const char *name)
{
	char target[PATH_MAX], second[PATH_MAX], full[2 * PATH_MAX];
	struct store_path path;

	snprintf(full, sizeof(full), "%s/%s/%s", s->core->state_dir, dir, name);
	if (!read_link(dirfd, name, target))
		return 0; /* gone meanwhile */
	if (names_store_path(s, target, &path))
		return add(s, full, &path);
	/* An indirect root: a link of a user's, anywhere. Relative to the directory it is in. */
	if (read_link(dirfd, target, second)) {
		if (target[0] != '/')
			snprintf(full, sizeof(full), "%s/%s/%s", s->core->state_dir, dir, target);
		else
			snprintf(full, sizeof(full), "%s", target);
		return names_store_path(s, second, &path) ? add(s, full, &path) : 0;
	}
	/* The user has deleted it. A directory that may not be read is no proof of that. */
	if (errno == ENOENT && !strcmp(dir, "gcroots/auto"))
		(void)unlinkat(dirfd, name, 0); /* the next search tries again */
	return 0;
}

static int found(struct search *s, int dirfd, const char *dir, const char *name)
{
	char sub[PATH_MAX];
	struct store_path path;
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	switch (st.st_mode & S_IFMT) {
	case S_IFDIR:
		if ((size_t)snprintf(sub, sizeof(sub), "%s/%s", dir, name) >= sizeof(sub))
			return 0; /* beyond what any path can name */
		return strv_add(&s->todo, sub);
	case S_IFLNK:
		return found_link(s, dirfd, dir, name);
	case S_IFREG:
		/* A file named like a store path keeps it, too. */
		if (store_path_parse_base(name, &path, NULL) != 0)
			return 0;
		snprintf(sub, sizeof(sub), "%.2000s/%.1500s/%.500s", s->core->state_dir, dir, name);
		return add(s, sub, &path);
	default:
		return 0;
	}
}

static int search_dir(struct search *s, const char *dir, struct err *e)
{
	int fd = open_beneath(s->state_fd, dir, O_RDONLY | O_DIRECTORY, 0);
	struct dirent *de;
	DIR *d;
	int r = 0;

	if (fd == -ENOENT || fd == -EACCES || fd == -ENOTDIR || fd == -ELOOP)
		return 0;
	if (fd < 0)
		return err_errno(e, fd, "finding GC roots in '%s/%s'", s->core->state_dir, dir);
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return err_set(e, -ENOMEM, "out of memory");
	}
	while (r == 0 && (de = readdir(d)))
		if (strcmp(de->d_name, ".") && strcmp(de->d_name, ".."))
			r = found(s, dirfd(d), dir, de->d_name);
	closedir(d);
	if (r < 0)
		return err_errno(e, r, "finding GC roots in '%s/%s'", s->core->state_dir, dir);
	return 0;
}

static int add_temp(void *ctx, const char *base, pid_t pid)
{
	struct search *s = ctx;
	struct store_path path;
	char link[32];

	snprintf(link, sizeof(link), "{temp:%d}", (int)pid);
	return store_path_parse_base(base, &path, NULL) == 0 ? add(s, link, &path) : 0;
}

int roots_find(struct core *core, bool censor, struct arena *a, struct session_roots *ret,
	       struct err *e)
{
	struct search s = { .core = core, .censor = censor, .a = a, .ret = ret, .state_fd = -1 };
	int r;

	*ret = (struct session_roots){ .ok = 1 };
	s.state_fd = open(core->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s.state_fd < 0)
		return err_errno(e, -errno, "opening '%s'", core->state_dir);
	r = strv_add(&s.todo, "profiles");
	if (r == 0)
		r = strv_add(&s.todo, "gcroots");
	while (r == 0 && s.todo.n > 0) {
		_cleanup_free_ char *dir = s.todo.v[--s.todo.n];

		r = search_dir(&s, dir, e);
	}
	if (r == 0) {
		r = sessions_temp_roots(core->sessions, add_temp, &s);
		if (r < 0)
			err_errno(e, r, "listing temporary roots");
	}
	strv_done(&s.todo);
	close(s.state_fd);
	return r;
}
