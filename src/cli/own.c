/* See own.h. The walk keeps a stack of open directories; what is deeper than that is told, not
 * entered. */
#include "cli/own.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

enum { DEPTH_MAX = 900, TOLD_MAX = 20 }; /* of the 1024 descriptors that everybody has */

struct walk {
	struct own *o;
	const char *path;
	uint64_t mount;
	bool links;
	unsigned int worker;
	DIR *stack[DEPTH_MAX];
	size_t depth;
};

static void add(uint64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static void failed(struct own *o, const char *path, const char *name, int error)
{
	if (__atomic_add_fetch(&o->count->failed, 1, __ATOMIC_RELAXED) <= TOLD_MAX)
		fprintf(stderr, "airplant: changing the owner of '%s' below '%s': %s\n", name, path,
			strerror(error));
}

static bool is_from(const struct own *o, uid_t uid)
{
	for (size_t i = 0; i < o->n_from; i++)
		if (o->from[i] == uid)
			return true;
	return false;
}

static int change(struct own *o, int fd, const struct stat *st)
{
	if (!is_from(o, st->st_uid) || (st->st_uid == o->uid && st->st_gid == o->gid))
		return 0;
	if (!o->dry_run && fchownat(fd, "", o->uid, o->gid, AT_EMPTY_PATH) < 0)
		return -errno;
	add(&o->count->changed);
	return 0;
}

int own_init(struct own *o)
{
	o->count = mmap(NULL, sizeof(*o->count), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	if (o->count == MAP_FAILED)
		return -ENOMEM;
	return 0;
}

int own_fd(struct own *o, int fd, const char *path)
{
	struct stat st;
	int r = fstat(fd, &st) < 0 ? -errno : change(o, fd, &st);

	add(&o->count->seen);
	if (r < 0)
		failed(o, path, ".", -r);
	return r;
}

static bool is_done(const struct own *o, const struct stat *st)
{
	return (st->st_uid == o->uid && st->st_gid == o->gid) || !is_from(o, st->st_uid);
}

/* Anything but a directory. */
static void take_file(struct walk *w, int dir, const char *name)
{
	_cleanup_close_ int fd = -1;
	struct own *o = w->o;
	struct stat st;
	int r;

	add(&o->count->seen);
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		failed(o, w->path, name, errno);
		return;
	}
	if (is_done(o, &st))
		return;
	fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		failed(o, w->path, name, errno);
		return;
	}
	if (S_ISDIR(st.st_mode))
		return; /* it was none a moment ago; its owner knows why */
	if (o->keep_shared && !w->links && st.st_nlink > 1) {
		add(&o->count->shared);
		return;
	}
	r = change(o, fd, &st);
	if (r < 0)
		failed(o, w->path, name, -r);
}

static int mount_of(int fd, uint64_t *ret)
{
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) < 0)
		return -errno;
	*ret = sx.stx_mnt_id;
	return sx.stx_mask & STATX_MNT_ID ? 0 : -EOPNOTSUPP;
}

static int push(struct walk *w, int fd)
{
	if (w->depth == DEPTH_MAX)
		return -ELOOP;
	w->stack[w->depth] = fdopendir(fd);
	if (!w->stack[w->depth])
		return -errno;
	w->depth++;
	return 0;
}

static void enter(struct walk *w, int dir, const char *name)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	uint64_t mount = 0;
	int r = fd < 0 ? -errno : mount_of(fd, &mount);

	if (r == 0 && mount != w->mount)
		return;
	if (r == 0)
		r = own_fd(w->o, fd, w->path);
	if (r == 0) {
		r = push(w, fd);
		if (r == 0)
			fd = -1;
	}
	if (r < 0)
		failed(w->o, w->path, name, -r);
}

/* Each name at the top is one worker's. */
static bool is_mine(const struct walk *w, const char *name)
{
	uint32_t h = 2166136261u;

	if (w->depth > 1)
		return true;
	for (const char *p = name; *p; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	return h % w->o->n_workers == w->worker;
}

static bool is_dir(int dir, const struct dirent *de)
{
	struct stat st;

	if (de->d_type != DT_UNKNOWN)
		return de->d_type == DT_DIR;
	return fstatat(dir, de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static void visit(struct walk *w, DIR *dir, const struct dirent *de)
{
	const char *name = de->d_name;

	if (!strcmp(name, ".") || !strcmp(name, "..") || !is_mine(w, name))
		return;
	/* It has had its turn. */
	if (w->depth == 1 && !w->links && !strcmp(name, ".links"))
		return;
	if (is_dir(dirfd(dir), de))
		enter(w, dirfd(dir), name);
	else
		take_file(w, dirfd(dir), name);
}

static int walk(struct walk *w, int top)
{
	int fd = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : mount_of(fd, &w->mount);

	r = r < 0 ? r : push(w, fd);
	if (r < 0) {
		close_fdp(&fd);
		return r;
	}
	while (w->depth > 0) {
		DIR *dir = w->stack[w->depth - 1];
		struct dirent *de;

		errno = 0;
		de = readdir(dir);
		if (de) {
			visit(w, dir, de);
			continue;
		}
		if (errno)
			failed(w->o, w->path, ".", errno);
		closedir(dir);
		w->depth--;
	}
	return 0;
}

static int run_worker(struct own *o, int fd, const char *path, bool links, unsigned int worker)
{
	struct walk *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	*w = (struct walk){ .o = o, .path = path, .links = links, .worker = worker };
	r = walk(w, fd);
	free(w);
	return r;
}

int own_below(struct own *o, int fd, const char *path, bool links, struct err *e)
{
	pid_t *pids = calloc(o->n_workers, sizeof(*pids));
	int r = pids ? 0 : -ENOMEM;

	fflush(NULL);
	for (unsigned int i = 1; r == 0 && i < o->n_workers; i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			_exit(run_worker(o, fd, path, links, i) < 0);
		if (pids[i] < 0)
			r = -errno;
	}
	if (r == 0)
		r = run_worker(o, fd, path, links, 0);
	for (unsigned int i = 1; pids && i < o->n_workers; i++) {
		int status = 0;

		if (pids[i] > 0 && (waitpid(pids[i], &status, 0) < 0 || status) && r == 0)
			r = -EIO;
	}
	free(pids);
	return r < 0 ? err_errno(e, r, "changing owners below '%s'", path) : 0;
}
