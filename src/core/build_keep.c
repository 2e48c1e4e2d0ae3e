/* See build_keep.h. */
#include "core/build_keep.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "core/acl.h"

enum { TRIES = 1000 };

int build_keep_prepare(int scratch_fd, uid_t uid)
{
	_cleanup_close_ int fd = -1;

	if (mkdirat(scratch_fd, "keep", 0700) < 0)
		return -errno;
	if (uid == geteuid())
		return 0;
	fd = open_beneath(scratch_fd, "keep", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (fd < 0)
		return fd;
	return acl_grant_reading(fd, uid) < 0 ? KEEP_PRIVATE : 0;
}

/* May the builder walk there? What is closed to it on the way to its scratch is covered for it. */
static bool is_passable(const char *path, const char *scratch)
{
	_cleanup_free_ char *copy = strdup(path);
	size_t len = strlen(path);
	struct stat st;

	for (size_t i = 1; copy && i <= len; i++) {
		if (path[i] != '/' && path[i] != 0)
			continue;
		copy[i] = 0;
		if (stat(copy, &st) < 0)
			return false;
		if (!(st.st_mode & S_IXOTH))
			return strncmp(scratch, copy, i) == 0 && scratch[i] == '/';
		copy[i] = path[i];
	}
	return copy;
}

/* A name in `dir` that nobody has, made what it names by `take`. */
static int take_name(int dirfd, const char *drv_name, int (*take)(int dirfd, const char *name, int),
		     int arg, char **ret)
{
	for (int i = 0; i < TRIES; i++) {
		_cleanup_free_ char *name = NULL;
		int r;

		if (asprintf(&name, "nix-build-%s-%d", drv_name, i) < 0) {
			name = NULL;
			return -ENOMEM;
		}
		r = take(dirfd, name, arg);
		if (r == 0)
			*ret = TAKE_PTR(name);
		if (r != -EEXIST)
			return r;
	}
	return -EEXIST;
}

static int take_by_mkdir(int dirfd, const char *name, int mode)
{
	return mkdirat(dirfd, name, (mode_t)mode) < 0 ? -errno : 0;
}

static int take_by_rename(int dirfd, const char *name, int scratch_fd)
{
	return renameat2(scratch_fd, "keep", dirfd, name, RENAME_NOREPLACE) < 0 ? -errno : 0;
}

static int open_dir(const char *dir, struct err *e)
{
	int r = mkdir_p(dir, 0755), fd;

	if (r < 0)
		return err_errno(e, r, "creating directory '%s'", dir);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? err_errno(e, -errno, "opening directory '%s'", dir) : fd;
}

int build_keep_reserve(const char *dir, const char *drv_name, const char *scratch, bool own_uid,
		       char **ret_path, struct err *e)
{
	_cleanup_close_ int dirfd = open_dir(dir, e);
	_cleanup_free_ char *name = NULL;
	int r;

	if (dirfd < 0)
		return dirfd;
	if (!own_uid && !is_passable(dir, scratch))
		return KEEP_ELSEWHERE;
	r = take_name(dirfd, drv_name, take_by_mkdir, 0755, &name);
	if (r == 0 && asprintf(ret_path, "%s/%s", dir, name) < 0) {
		*ret_path = NULL;
		r = -ENOMEM;
	}
	return r < 0 ? err_errno(e, r, "creating a directory in '%s'", dir) : 0;
}

int build_keep(int scratch_fd, const char *reserved, const char *dir, const char *drv_name,
	       char **ret_path, struct err *e)
{
	_cleanup_close_ int dirfd = open_dir(dir, e), top = -1;
	_cleanup_free_ char *name = NULL;
	int r;

	if (dirfd < 0)
		return dirfd;
	top = open_beneath(scratch_fd, "keep", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (top < 0)
		return err_errno(e, top, "opening the build directory");
	if (reserved && renameat(scratch_fd, "keep", AT_FDCWD, reserved) == 0) {
		*ret_path = strdup(reserved);
		return *ret_path ? 0 : err_errno(e, -ENOMEM, "keeping the build directory");
	}
	r = take_name(dirfd, drv_name, take_by_rename, scratch_fd, &name);
	if (r < 0)
		return err_errno(e, r, "moving the build directory to '%s/nix-build-%s-…'", dir,
				 drv_name);
	if (asprintf(ret_path, "%s/%s", dir, name) < 0) {
		*ret_path = NULL;
		return err_errno(e, -ENOMEM, "keeping the build directory");
	}
	return 0;
}
