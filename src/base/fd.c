/* See fd.h. */
#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

int read_full(int fd, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = read(fd, p, len);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (n == 0)
			return -EPIPE;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int write_full(int fd, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int pwrite_full(int fd, const void *buf, size_t len, off_t off)
{
	const uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, off);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		off += n;
		len -= (size_t)n;
	}
	return 0;
}

int open_beneath(int dirfd, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
		.mode = (flags & (O_CREAT | O_TMPFILE)) ? mode : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	do
		fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	return fd < 0 ? -errno : (int)fd;
}

int read_file_at(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *data = NULL;
	size_t len = 0, cap = 0;

	if (fd < 0)
		return -errno;
	for (;;) {
		ssize_t n;

		if (len + 1 >= cap) {
			size_t want = cap ? cap * 2 : 4096;
			char *p;

			if (want > max + 2)
				want = max + 2;
			p = realloc(data, want);
			if (!p)
				return -ENOMEM;
			data = p;
			cap = want;
		}
		n = read(fd, data + len, cap - len - 1);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (n == 0)
			break;
		len += (size_t)n;
		if (len > max)
			return -EFBIG;
	}
	data[len] = 0;
	if (ret_len)
		*ret_len = len;
	*ret = TAKE_PTR(data);
	return 0;
}

/* Opens a directory for deletion, giving its owner rwx first if it must. */
static int open_dir_for_rm(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 && errno == EACCES) {
		/* chmod through an O_PATH fd, so that a name swapped for a symlink is never
		 * followed. */
		_cleanup_close_ int pfd =
			openat(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		char proc[64];

		if (pfd < 0)
			return -errno;
		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", pfd);
		if (chmod(proc, 0700) < 0)
			return -errno;
		fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	}
	return fd < 0 ? -errno : fd;
}

/* Deletion without recursion and without a stack that grows with depth: the tree is flattened.
 * A directory found inside `top` is emptied of its non-directories; each directory in it is
 * renamed up into `top` under a fresh name, to be emptied in its turn. Depth never exceeds two. */
static int rm_flat(int topfd)
{
	unsigned long counter = 0;
	int first_error = 0;
	bool again = true;

	while (again) {
		_cleanup_close_ int listfd = openat(topfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		DIR *top;
		struct dirent *de;

		again = false;
		if (listfd < 0)
			return -errno;
		top = fdopendir(listfd);
		if (!top)
			return -errno;
		listfd = -1;
		while ((de = readdir(top))) {
			int subfd;
			DIR *sub;
			struct dirent *se;

			if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
				continue;
			if (unlinkat(topfd, de->d_name, 0) == 0 || errno == ENOENT)
				continue;
			if (unlinkat(topfd, de->d_name, AT_REMOVEDIR) == 0)
				continue;
			subfd = open_dir_for_rm(topfd, de->d_name);
			if (subfd < 0) {
				if (!first_error && subfd != -ENOENT)
					first_error = subfd;
				continue;
			}
			if (faccessat(subfd, ".", W_OK | X_OK, AT_EACCESS) < 0)
				(void)fchmod(subfd, 0700); /* a failure shows as EACCES below */
			sub = fdopendir(subfd);
			if (!sub) {
				close(subfd);
				continue;
			}
			while ((se = readdir(sub))) {
				char fresh[32];

				if (!strcmp(se->d_name, ".") || !strcmp(se->d_name, ".."))
					continue;
				if (unlinkat(dirfd(sub), se->d_name, 0) == 0 || errno == ENOENT)
					continue;
				if (unlinkat(dirfd(sub), se->d_name, AT_REMOVEDIR) == 0)
					continue;
				{
					/* rename to another parent needs write permission on the
					 * directory itself */
					int d = open_dir_for_rm(dirfd(sub), se->d_name);

					if (d >= 0) {
						(void)fchmod(d, 0700);
						close(d);
					}
				}
				do
					snprintf(fresh, sizeof(fresh), ".rm%lu", counter++);
				while (faccessat(topfd, fresh, F_OK, AT_SYMLINK_NOFOLLOW) == 0);
				if (renameat(dirfd(sub), se->d_name, topfd, fresh) == 0)
					again = true;
				else if (!first_error)
					first_error = -errno;
			}
			closedir(sub);
			if (unlinkat(topfd, de->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT &&
			    !first_error)
				first_error = -errno;
		}
		closedir(top);
		if (first_error)
			return first_error;
	}
	return 0;
}

int rm_tree_at(int dirfd, const char *name)
{
	_cleanup_close_ int topfd = -1;
	int r;

	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0)
		return 0;
	topfd = open_dir_for_rm(dirfd, name);
	if (topfd == -ENOENT)
		return 0;
	if (topfd < 0)
		return topfd;
	(void)fchmod(topfd, 0700); /* a failure shows as EACCES below */
	r = rm_flat(topfd);
	if (r < 0)
		return r;
	return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int mkdir_p(const char *path, mode_t mode)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	for (char *p = copy + 1;; p++) {
		if (*p != '/' && *p != 0)
			continue;
		char c = *p;

		*p = 0;
		if (mkdir(copy, mode) < 0 && errno != EEXIST)
			return -errno;
		*p = c;
		if (!c)
			return 0;
	}
}
