/* A failed build's directory, given to the daemon's id so that the core can keep it.
 *
 * The last process of the build is dead. Every inode is reached from the directory's fd without
 * following a symlink, and only what belongs to the build's own id changes hands. Linked by
 * airplant-build alone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "build/supervisor.h"

enum { KEEP_MAX_DIRS = 200000 };

/* The directories still to be visited, as paths below the top. */
struct queue {
	struct strv dirs;
	size_t next;
};

static int take(const struct build *b, int dirfd, const char *name, const struct stat *st)
{
	if (st->st_uid != 0)
		return -EPERM; /* no other id was mapped: this is not the build's */
	if (fchownat(dirfd, name, b->owner_uid, b->owner_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

static int visit(const struct build *b, int top, struct queue *q, const char *path)
{
	_cleanup_close_ int fd = open_beneath(top, path, O_RDONLY | O_DIRECTORY, 0);
	struct dirent *de;
	struct stat st;
	DIR *dir;
	int r = 0;

	if (fd < 0)
		return fd;
	dir = fdopendir(fd);
	if (!dir)
		return -errno;
	fd = -1; /* belongs to dir */
	while (r == 0 && (de = readdir(dir))) {
		_cleanup_buf_ struct buf sub = BUF_INIT(4096);

		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		if (fstatat(dirfd(dir), de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			r = -errno;
		else
			r = take(b, dirfd(dir), de->d_name, &st);
		if (r < 0 || !S_ISDIR(st.st_mode))
			continue;
		if (q->dirs.n >= KEEP_MAX_DIRS)
			r = -E2BIG;
		if (r == 0)
			r = buf_printf(&sub, "%s/%s", path, de->d_name);
		if (r == 0)
			r = buf_append(&sub, "", 1);
		if (r == 0)
			r = strv_add(&q->dirs, (const char *)sub.data);
	}
	closedir(dir);
	return r;
}

int keep_build_dir(struct build *b)
{
	_cleanup_close_ int top = open_beneath(b->top, "build", O_RDONLY | O_DIRECTORY, 0);
	struct queue q = { 0 };
	int r;

	if (top < 0)
		return top;
	if (b->owner_uid == 0)
		return 0; /* mode single: it is the daemon's already */
	r = strv_add(&q.dirs, ".");
	while (r == 0 && q.next < q.dirs.n)
		r = visit(b, top, &q, q.dirs.v[q.next++]);
	strv_done(&q.dirs);
	if (r == 0 && fchown(top, b->owner_uid, b->owner_gid) < 0)
		r = -errno;
	return r;
}
