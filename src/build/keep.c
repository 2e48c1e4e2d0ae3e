/* A failed build's directory, copied for who asked to keep it, into <scratch>/keep, which the core
 * has made: what is created there is his to read by inheritance.
 *
 * The last process of the build is dead. Nothing of the build's changes hands: no owner and no mode
 * is changed in place, every inode of the copy is new (so that a file with several names is a file
 * per name), and only what belongs to the build's own ids is looked into. Each inode is reached
 * from a directory's fd without following a symlink. Linked by airplant-build alone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "build/supervisor.h"

enum { KEEP_MAX_DIRS = 200000, COPY_BYTES = 32 << 20, BUFFER = 64 * 1024 };

struct keep {
	struct build *b;
	int from, to;
	/* The directories still to be visited, as paths below both. */
	struct strv dirs;
	size_t next;
	size_t left_out;
	uint8_t buffer[BUFFER];
};

static bool is_the_builds(const struct keep *k, const struct stat *st)
{
	return st->st_uid < k->b->ids.count;
}

static int copy_bytes(struct keep *k, int in, int out)
{
	for (;;) {
		ssize_t n = copy_file_range(in, NULL, out, NULL, COPY_BYTES, 0);

		if (n > 0 && watch_cancelled(k->b))
			return -ECANCELED;
		if (n > 0 || (n < 0 && errno == EINTR))
			continue;
		if (n == 0)
			break;
		if (errno != EXDEV && errno != ENOSYS && errno != EOPNOTSUPP && errno != EINVAL)
			return -errno;
		break;
	}
	for (;;) { /* the rest, which is all where the kernel cannot, and else nothing */
		ssize_t n = read(in, k->buffer, BUFFER);
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		r = write_full(out, k->buffer, (size_t)n);
		if (r < 0)
			return r;
	}
}

static int copy_file(struct keep *k, int from, int to, const char *name)
{
	/* Not blocking: it may be exchanged for nothing any more, but costs nothing either. */
	_cleanup_close_ int in = open_beneath(from, name, O_RDONLY | O_NONBLOCK, 0), out = -1;
	struct stat st;
	int r;

	if (in < 0)
		return in;
	if (fstat(in, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || !is_the_builds(k, &st))
		return -EPERM;
	out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
		     st.st_mode & S_IXUSR ? 0755 : 0644);
	if (out < 0)
		return -errno;
	r = copy_bytes(k, in, out);
	if (r == 0 && futimens(out, (struct timespec[]){ st.st_atim, st.st_mtim }) < 0)
		r = -errno;
	return r;
}

static int copy_symlink(int from, int to, const char *name)
{
	char target[4096];
	ssize_t n = readlinkat(from, name, target, sizeof(target) - 1);

	if (n < 0)
		return -errno;
	target[n] = 0;
	return symlinkat(target, to, name) < 0 ? -errno : 0;
}

static int copy_dir(struct keep *k, int to, const char *path, const char *name)
{
	_cleanup_buf_ struct buf sub = BUF_INIT(4096);
	int r;

	if (k->dirs.n >= KEEP_MAX_DIRS || buf_printf(&sub, "%s/%s", path, name) < 0 ||
	    buf_append(&sub, "", 1) < 0)
		return -EPERM; /* left out: too many, or too deep for anybody's path */
	r = mkdirat(to, name, 0755) < 0 ? -errno : 0;
	return r < 0 ? r : strv_add(&k->dirs, (const char *)sub.data);
}

/* -EPERM: left out. */
static int copy_entry(struct keep *k, int from, int to, const char *path, const char *name)
{
	struct stat st;

	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (!is_the_builds(k, &st))
		return -EPERM;
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		return copy_file(k, from, to, name);
	case S_IFLNK:
		return copy_symlink(from, to, name);
	case S_IFDIR:
		return copy_dir(k, to, path, name);
	default:
		return -EPERM; /* a device, a socket */
	}
}

static int visit(struct keep *k, const char *path)
{
	_cleanup_close_ int from = open_beneath(k->from, path, O_RDONLY | O_DIRECTORY, 0);
	_cleanup_close_ int to = open_beneath(k->to, path, O_RDONLY | O_DIRECTORY, 0);
	struct dirent *de;
	DIR *dir;
	int r = 0;

	if (from < 0 || to < 0)
		return from < 0 ? from : to;
	dir = fdopendir(from);
	if (!dir)
		return -errno;
	from = -1; /* belongs to dir */
	while (r == 0 && (de = readdir(dir))) {
		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		r = copy_entry(k, dirfd(dir), to, path, de->d_name);
		if (r == -EPERM) {
			k->left_out++;
			r = 0;
		}
	}
	closedir(dir);
	return r;
}

int keep_build_dir(struct build *b)
{
	_cleanup_close_ int from = open_beneath(b->top, "build", O_RDONLY | O_DIRECTORY, 0);
	_cleanup_close_ int to = open_beneath(b->top, "keep", O_RDONLY | O_DIRECTORY, 0);
	struct keep *k;
	int r;

	if (from < 0 || to < 0)
		return from < 0 ? from : to;
	k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	k->b = b;
	k->from = from;
	k->to = to;
	r = strv_add(&k->dirs, ".");
	while (r == 0 && k->next < k->dirs.n)
		r = watch_cancelled(b) ? -ECANCELED : visit(k, k->dirs.v[k->next++]);
	if (r == 0 && k->left_out)
		log_warn("%zu entries of the build directory in '%s' are not kept: not files, or "
			 "not the build's",
			 k->left_out, b->s.scratch);
	strv_done(&k->dirs);
	free(k);
	return r;
}
