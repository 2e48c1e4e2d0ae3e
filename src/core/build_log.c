/* See build_log.h. */
#include "core/build_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "base/fd.h"

enum { NAME_BYTES = 300, CHUNK = 1 << 20 };

/* <log-dir>/drvs/<first two characters of the base name>, made when missing. */
static int open_dir(const char *log_dir, const char *drv_base, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	int fd, r;

	if (asprintf(&path, "%s/drvs/%.2s", log_dir, drv_base) < 0) {
		path = NULL;
		return err_errno(e, -ENOMEM, "creating the log of '%s'", drv_base);
	}
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT) {
		r = mkdir_p(path, 0755);
		if (r < 0)
			return err_errno(e, r, "creating directory '%s'", path);
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	return fd < 0 ? err_errno(e, -errno, "opening directory '%s'", path) : fd;
}

static int open_nameless(int dirfd, const char *what, struct err *e)
{
	int fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);

	if (fd < 0)
		return err_errno(e, -errno, "creating a log file in %s", what);
	(void)fchmod(fd,
		     0644); /* clients read it whatever our umask is; a stricter mode is no loss */
	return fd;
}

static int open_private(const char *spool_dir, struct err *e)
{
	_cleanup_close_ int dirfd = open(spool_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dirfd < 0)
		return err_errno(e, -errno, "opening directory '%s'", spool_dir);
	return open_nameless(dirfd, spool_dir, e);
}

int build_log_open(const char *log_dir, const char *spool_dir, const char *drv_base, bool keep,
		   bool compress, struct build_log_files *ret, struct err *e)
{
	struct build_log_files f = { .plain_fd = -1, .compressed_fd = -1, .keep = keep };
	_cleanup_close_ int dirfd = -1;

	if (keep) {
		dirfd = open_dir(log_dir, drv_base, e);
		if (dirfd < 0)
			return dirfd;
	}
	if (keep && compress) {
		f.compressed_fd = open_nameless(dirfd, log_dir, e);
		if (f.compressed_fd < 0)
			return f.compressed_fd;
	}
	f.plain_fd =
		keep && !compress ? open_nameless(dirfd, log_dir, e) : open_private(spool_dir, e);
	if (f.plain_fd < 0) {
		int r = f.plain_fd;

		f.plain_fd = -1;
		build_log_close(&f);
		return r;
	}
	*ret = f;
	return 0;
}

int build_log_publish(const struct build_log_files *f, const char *log_dir, const char *drv_base,
		      struct err *e)
{
	_cleanup_close_ int dirfd = -1;
	char from[64], temp[NAME_BYTES + 32], name[NAME_BYTES];
	int fd = f->compressed_fd >= 0 ? f->compressed_fd : f->plain_fd;

	if (!f->keep || fd < 0)
		return 0;
	dirfd = open_dir(log_dir, drv_base, e);
	if (dirfd < 0)
		return dirfd;
	snprintf(name, sizeof(name), "%s%s", drv_base + 2, f->compressed_fd >= 0 ? ".bz2" : "");
	snprintf(temp, sizeof(temp), ".%.32s.%d.tmp", drv_base, fd);
	snprintf(from, sizeof(from), "/proc/self/fd/%d", fd);
	(void)unlinkat(dirfd, temp, 0); /* left by a daemon that was killed right here */
	if (linkat(AT_FDCWD, from, dirfd, temp, AT_SYMLINK_FOLLOW) < 0 ||
	    renameat(dirfd, temp, dirfd, name) < 0) {
		int r = -errno;

		(void)unlinkat(dirfd, temp, 0);
		return err_errno(e, r, "naming the log of '%s'", drv_base);
	}
	/* One log per derivation: of the two spellings nix looks at, only the newest stays. */
	snprintf(name, sizeof(name), "%s%s", drv_base + 2, f->compressed_fd >= 0 ? "" : ".bz2");
	(void)unlinkat(dirfd, name, 0);
	return 0;
}

static bool has_log(int dirfd, const char *drv_base)
{
	char name[NAME_BYTES];

	snprintf(name, sizeof(name), "%s", drv_base + 2);
	if (faccessat(dirfd, name, F_OK, 0) == 0)
		return true;
	snprintf(name, sizeof(name), "%s.bz2", drv_base + 2);
	return faccessat(dirfd, name, F_OK, 0) == 0;
}

int build_log_import(int fd, uint64_t max, const char *log_dir, const char *drv_base,
		     struct err *e)
{
	_cleanup_close_ int dirfd = open_dir(log_dir, drv_base, e);
	struct build_log_files f = BUILD_LOG_FILES_INIT;
	uint64_t done = 0;
	ssize_t n = 1;
	int r;

	if (dirfd < 0)
		return dirfd;
	if (has_log(dirfd, drv_base))
		return 0;
	f.keep = true;
	f.plain_fd = open_nameless(dirfd, log_dir, e);
	if (f.plain_fd < 0)
		return f.plain_fd;
	while (done < max && n > 0) {
		n = sendfile(f.plain_fd, fd, NULL, max - done < CHUNK ? max - done : CHUNK);
		done += n > 0 ? (uint64_t)n : 0;
	}
	r = n < 0 ? err_errno(e, -errno, "writing the log of '%s'", drv_base)
		  : build_log_publish(&f, log_dir, drv_base, e);
	build_log_close(&f);
	return r;
}

void build_log_close(struct build_log_files *f)
{
	close_fdp(&f->plain_fd);
	close_fdp(&f->compressed_fd);
}

int build_log_reader(const struct build_log_files *f)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->plain_fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}
