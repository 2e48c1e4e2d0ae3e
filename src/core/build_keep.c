/* See build_keep.h. */
#include "core/build_keep.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
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

int build_keep(int scratch_fd, const char *dir, const char *drv_name, char **ret_path,
	       struct err *e)
{
	_cleanup_close_ int dirfd = -1, top = -1;
	_cleanup_free_ char *name = NULL;
	int r = mkdir_p(dir, 0755);

	if (r < 0)
		return err_errno(e, r, "creating directory '%s'", dir);
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	top = open_beneath(scratch_fd, "keep", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (dirfd < 0)
		return err_errno(e, -errno, "opening directory '%s'", dir);
	if (top < 0)
		return err_errno(e, top, "opening the build directory");
	for (int i = 0; i < TRIES; i++) {
		free(name);
		if (asprintf(&name, "nix-build-%s-%d", drv_name, i) < 0) {
			name = NULL;
			return err_errno(e, -ENOMEM, "keeping the build directory");
		}
		if (renameat2(scratch_fd, "keep", dirfd, name, RENAME_NOREPLACE) == 0)
			break;
		if (errno != EEXIST || i + 1 == TRIES)
			return err_errno(e, -errno, "moving the build directory to '%s/%s'", dir,
					 name);
	}
	if (asprintf(ret_path, "%s/%s", dir, name) < 0) {
		*ret_path = NULL;
		return err_errno(e, -ENOMEM, "keeping the build directory");
	}
	return 0;
}
