/* See bind.h. Directories are pinned by file descriptors, which are opened without following a
 * symlink; a mount gets its attributes before it is put in its place, so that there is no moment,
 * and no name, at which it has others.
 *
 * Runs in the child before any foreign code does. Linked by airplant-build alone. */
#include "build/bind.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

const char *bind_rel(const char *path)
{
	while (*path == '/')
		path++;
	return path;
}

bool bind_lies_in(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	if (!strcmp(dir, "/"))
		return true;
	return !strncmp(path, dir, len) && (path[len] == '/' || !path[len]);
}

/* One more directory, made if it is missing; `*fd` becomes it. */
static int enter_dir(int *fd, const char *name)
{
	int next;

	if (mkdirat(*fd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	next = open_beneath(*fd, name, O_PATH | O_DIRECTORY, 0);
	if (next < 0)
		return next == -ELOOP ? -ENOTDIR : next;
	close_fdp(fd);
	*fd = next;
	return 0;
}

/* Opens all of `path` but its last component, which `ret_last` becomes (in `path`; without a
 * slash). */
static int open_parent(char *path, int *ret_fd, char **ret_last)
{
	_cleanup_close_ int fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char *name = path + strspn(path, "/");

	if (fd < 0)
		return -errno;
	for (;;) {
		char *end = name + strcspn(name, "/"), *next = end + strspn(end, "/");
		int r;

		if (!*next) {
			*end = 0;
			break;
		}
		*end = 0;
		r = enter_dir(&fd, name);
		if (r < 0)
			return r;
		name = next;
	}
	*ret_fd = TAKE_FD(fd);
	*ret_last = name;
	return 0;
}

int bind_make_dirs(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);
	_cleanup_close_ int fd = -1;
	char *last;
	int r = copy ? open_parent(copy, &fd, &last) : -ENOMEM;

	return r < 0 || !*last ? r : enter_dir(&fd, last);
}

static int copy_link(const char *source, int dir, const char *name)
{
	char to[4096];
	ssize_t n = readlink(source, to, sizeof(to) - 1);

	if (n < 0)
		return -errno;
	if ((size_t)n == sizeof(to) - 1)
		return -ENAMETOOLONG;
	to[n] = 0;
	return symlinkat(to, dir, name) < 0 && errno != EEXIST ? -errno : 0;
}

/* An fd of what is to be covered. */
static int make_place(int dir, const char *name, bool is_dir)
{
	_cleanup_close_ int fd = -1;

	if (is_dir)
		return mkdirat(dir, name, 0755) < 0 && errno != EEXIST
			       ? -errno
			       : open_beneath(dir, name, O_PATH | O_DIRECTORY, 0);
	fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0 && errno != EEXIST)
		return -errno;
	return open_beneath(dir, name, O_PATH, 0);
}

static int restrict_mount(const struct build *b, int tree, const char *source, mode_t mode,
			  uint64_t more)
{
	struct mount_attr attr = { .attr_set = more };

	if (!b->s.allow_new_privileges)
		attr.attr_set |= MOUNT_ATTR_NOSUID;
	if (!S_ISCHR(mode) && !S_ISBLK(mode) && !bind_lies_in(source, "/dev"))
		attr.attr_set |= MOUNT_ATTR_NODEV;
	if (!attr.attr_set)
		return 0;
	return syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr,
		       sizeof(attr)) < 0
		       ? -errno
		       : 0;
}

static int mount_at(const struct build *b, const char *source, int dir, const char *name,
		    uint64_t more)
{
	_cleanup_close_ int place = -1;
	_cleanup_close_ int tree = (int)syscall(SYS_open_tree, AT_FDCWD, source,
						OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE |
							AT_SYMLINK_NOFOLLOW);
	struct stat st;
	int r;

	/* What was cloned counts, whatever the name meant before. */
	if (tree < 0 || fstat(tree, &st) < 0)
		return -errno;
	r = restrict_mount(b, tree, source, st.st_mode, more);
	if (r < 0)
		return r;
	place = make_place(dir, name, S_ISDIR(st.st_mode));
	if (place < 0)
		return place;
	return syscall(SYS_move_mount, tree, "", place, "",
		       MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0
		       ? -errno
		       : 0;
}

int bind_path(const struct build *b, const char *source, const char *target, bool optional,
	      uint64_t more, struct err *e)
{
	_cleanup_free_ char *copy = strdup(target);
	_cleanup_close_ int dir = -1;
	struct stat st;
	char *name;
	int r;

	if (lstat(source, &st) < 0) {
		if (optional && (errno == ENOENT || errno == ENOTDIR))
			return 0;
		return err_errno(e, -errno, "getting attributes of path " Q_PATH, source);
	}
	r = copy ? open_parent(copy, &dir, &name) : -ENOMEM;
	if (r == 0 && S_ISLNK(st.st_mode)) {
		r = copy_link(source, dir, name);
		return r < 0 ? err_errno(e, r, "creating symlink '/%s'", bind_rel(target)) : 0;
	}
	if (r == 0)
		r = mount_at(b, source, dir, name, more);
	if (r < 0)
		return err_errno(e, r,
				 "bind mount from " Q_PATH " to " C_MAGENTA "\"/%s\"" C_NORMAL
				 " failed",
				 source, bind_rel(target));
	return 0;
}
