/* File descriptors: ownership, whole reads and writes, and opening beneath a directory.
 * Every fd is close-on-exec from birth. Functions return 0 or an fd, or a negative errno. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/macro.h"

static inline void close_fdp(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}
#define _cleanup_close_ _cleanup_(close_fdp)

/* Reads exactly `len` bytes. 0, -EPIPE on an early end of file, or the error of read(2). */
int read_full(int fd, void *buf, size_t len);
/* Writes all `len` bytes. 0 or the error of write(2). */
int write_full(int fd, const void *buf, size_t len);
int pwrite_full(int fd, const void *buf, size_t len, off_t off);

/* Opens `path` beneath `dirfd`: no component may be a symlink, leave the directory, or be a
 * magic link (openat2, Linux 5.6). O_CLOEXEC is added. fd or -errno. */
int open_beneath(int dirfd, const char *path, int flags, mode_t mode);

/* Reads a whole file of at most `max` bytes into a NUL-terminated heap buffer.
 * -EFBIG when it is larger. `ret_len` may be NULL. */
int read_file_at(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len);

/* Deletes `name` beneath `dirfd`, whatever it is, and all below it. It never follows a symlink,
 * never leaves the mount, needs constant stack and a bounded number of fds at any depth, and
 * gives itself permission on directories it owns (mode 000 included). 0 also when nothing is there.
 * More in rm_tree.h. */
int rm_tree_at(int dirfd, const char *name);

/* mkdir -p for a path whose components may exist; created ones get `mode`. */
int mkdir_p(const char *path, mode_t mode);
