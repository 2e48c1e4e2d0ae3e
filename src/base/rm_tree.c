/* See rm_tree.h.
 *
 * Deletion without recursion and without a stack that grows with depth: the tree is flattened. A
 * directory found inside `top` is emptied of its non-directories; each directory in it is renamed
 * up into `top` under a fresh name, to be emptied in its turn. Depth never exceeds two.
 *
 * The names may change under our eyes. So a directory is pinned by an O_PATH fd first, looked at
 * (owner, mode, mount) and opened through that. */
#include "base/rm_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/fd.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

struct rm {
	int top;
	uint64_t mount; /* of top */
	unsigned long counter;
	bool progress; /* in this pass something was deleted or moved */
	bool again;    /* something is left that the next pass may delete */
	bool full;     /* the disk was, for a moment: what was deleted since made room */
	bool over;     /* given up */
	unsigned long asked;
	struct rm_report *report;
};

static bool is_dots(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

static bool is_over(struct rm *rm)
{
	const struct rm_report *rep = rm->report;

	if (!rm->over && rep->give_up && ++rm->asked % 256 == 0)
		rm->over = rep->give_up(rep->ctx);
	return rm->over;
}

static int look(int fd, uint64_t *ret_mount, mode_t *ret_mode)
{
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MODE | STATX_MNT_ID, &sx) < 0)
		return -errno;
	if (!(sx.stx_mask & STATX_MNT_ID)) /* before Linux 5.8 */
		return -EOPNOTSUPP;
	*ret_mount = sx.stx_mnt_id;
	*ret_mode = sx.stx_mode;
	return 0;
}

/* Of what an O_PATH fd stands for. Before Linux 6.6 this takes /proc. */
static int chmod_pinned(int pfd, mode_t mode)
{
	char proc[64];

	if (syscall(SYS_fchmodat2, pfd, "", mode, AT_EMPTY_PATH) == 0)
		return 0;
	if (errno != ENOSYS)
		return -errno;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", pfd);
	return chmod(proc, mode) < 0 ? -errno : 0;
}

/* Opens a directory for deletion, giving its owner rwx first if it must. `mount`: the one it must
 * lie on; NULL: any. */
static int open_dir(int dirfd, const char *name, const uint64_t *mount)
{
	_cleanup_close_ int pfd =
		openat(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	uint64_t lies_on;
	mode_t mode;
	int fd, r;

	if (pfd < 0)
		return -errno;
	r = look(pfd, &lies_on, &mode);
	if (r < 0)
		return r;
	if (mount && lies_on != *mount)
		return -EXDEV;
	if ((mode & 0700) != 0700)
		(void)chmod_pinned(pfd, 0700); /* a failure shows as EACCES, or does not matter */
	fd = openat(pfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void note_failure(struct rm_report *rep, int dirfd, const char *name, int error)
{
	struct stat st = { .st_uid = (uid_t)-1 };

	if (error == -ENOENT)
		return;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return;
	if ((error == -EACCES || error == -EPERM) && rep->foreign_uid != (uid_t)-1 &&
	    st.st_uid == rep->foreign_uid) {
		rep->foreign++;
		return;
	}
	if (rep->failed++)
		return;
	rep->error = error;
	rep->uid = st.st_uid;
	snprintf(rep->name, sizeof(rep->name), "%s", name);
}

/* Anything but a directory with something in it. True when it is gone. */
static bool remove_plain(struct rm *rm, int dirfd, const char *name)
{
	struct stat st;
	bool known = fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;

	if (known && S_ISDIR(st.st_mode))
		errno = EISDIR;
	else if (unlinkat(dirfd, name, 0) == 0) {
		rm->progress = true;
		/* Two names: the other is the one that the store's optimiser keeps. */
		if (known && S_ISREG(st.st_mode) && st.st_nlink <= 2)
			rm->report->bytes += (uint64_t)st.st_size;
		return true;
	}
	if (errno == ENOENT)
		return true;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0)
		return false;
	rm->progress = true;
	return true;
}

/* A directory of plain entries, and not many: most of what there is to delete. True when it is
 * gone; what is left of it is for the long way. */
static bool remove_small(struct rm *rm, int dirfd, const char *name)
{
	_cleanup_close_ int fd =
		openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	union {
		struct dirent64 entry;
		char bytes[4096];
	} buf;
	uint64_t lies_on;
	mode_t mode;
	ssize_t n;

	if (fd < 0 || look(fd, &lies_on, &mode) < 0 || lies_on != rm->mount ||
	    (mode & 0700) != 0700)
		return false;
	n = getdents64(fd, buf.bytes, sizeof(buf.bytes));
	for (ssize_t i = 0; i < n;) {
		const struct dirent64 *de = (const void *)(buf.bytes + i);

		if (de->d_type == DT_DIR ? !is_dots(de->d_name) : !remove_plain(rm, fd, de->d_name))
			return false;
		i += de->d_reclen;
	}
	return n > 0 && unlinkat(dirfd, name, AT_REMOVEDIR) == 0;
}

/* A directory with something in it goes up into the top. */
static void move_up(struct rm *rm, int sub, const char *name)
{
	_cleanup_close_ int fd = open_dir(sub, name, &rm->mount); /* opens it up as well */
	char fresh[32];
	int r;

	if (fd == -ENOTDIR || fd == -ELOOP)
		fd = unlinkat(sub, name, 0) < 0 ? -errno : -ENOENT; /* for its true error */
	if (fd < 0) {
		note_failure(rm->report, sub, name, fd);
		return;
	}
	do {
		snprintf(fresh, sizeof(fresh), ".rm%lu", rm->counter++);
		r = renameat2(sub, name, rm->top, fresh, RENAME_NOREPLACE) < 0 ? -errno : 0;
	} while (r == -EEXIST);
	if (r == -ENOSPC || r == -EDQUOT)
		rm->full = true;
	if (r < 0)
		note_failure(rm->report, sub, name, r);
	else
		rm->again = rm->progress = true;
}

/* Empties one directory of the top, and removes it. */
static void empty_dir(struct rm *rm, const char *name)
{
	struct rm_report *rep = rm->report;
	uint64_t left = rep->failed + rep->foreign;
	int fd = open_dir(rm->top, name, &rm->mount);
	struct dirent *de;
	DIR *dir;

	if (fd == -ENOTDIR || fd == -ELOOP)
		fd = unlinkat(rm->top, name, 0) < 0 ? -errno : -ENOENT;
	if (fd < 0) {
		note_failure(rep, rm->top, name, fd);
		return;
	}
	dir = fdopendir(fd);
	if (!dir) {
		note_failure(rep, rm->top, name, -errno);
		close(fd);
		return;
	}
	while (!is_over(rm) && (de = readdir(dir)))
		if (!is_dots(de->d_name) && !remove_plain(rm, dirfd(dir), de->d_name))
			move_up(rm, dirfd(dir), de->d_name);
	closedir(dir);
	if (unlinkat(rm->top, name, AT_REMOVEDIR) == 0) {
		rm->progress = true;
		return;
	}
	/* Entries that were made, or skipped by the file system, while we read: once more. */
	if (errno == ENOTEMPTY && rm->progress && left == rep->failed + rep->foreign)
		rm->again = true;
	else if (errno != ENOTEMPTY || left == rep->failed + rep->foreign)
		note_failure(rep, rm->top, name, -errno);
}

static int one_pass(struct rm *rm)
{
	int fd = openat(rm->top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *de;
	DIR *dir;

	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		int r = -errno;

		close(fd);
		return r;
	}
	rm->again = rm->progress = rm->full = false;
	rm->report->failed = rm->report->foreign = 0;
	while (!is_over(rm) && (de = readdir(dir)))
		if (!is_dots(de->d_name) && !remove_plain(rm, rm->top, de->d_name))
			empty_dir(rm, de->d_name);
	closedir(dir);
	return 0;
}

int rm_contents(int dirfd, struct rm_report *report)
{
	struct rm rm = { .top = dirfd, .report = report };
	mode_t mode;
	int r = look(dirfd, &rm.mount, &mode);

	if (r < 0)
		return r;
	/* Ends: a pass follows only one that has deleted or moved something. */
	do
		r = one_pass(&rm);
	while (r == 0 && !rm.over && (rm.again || (rm.full && rm.progress)));
	if (r < 0 || rm.over)
		return r < 0 ? r : -ECANCELED;
	return report->failed ? report->error : report->foreign ? -EPERM : 0;
}

int rm_tree(int dirfd, const char *name, struct rm_report *report)
{
	struct rm rm = { .top = dirfd, .report = report };
	_cleanup_close_ int top = -1;
	mode_t mode;
	int r = 0;

	report->failed = report->foreign = 0;
	if (dirfd != AT_FDCWD && look(dirfd, &rm.mount, &mode) == 0 &&
	    remove_small(&rm, dirfd, name))
		return 0;
	if (remove_plain(&rm, dirfd, name))
		return 0;
	if (dirfd == AT_FDCWD) { /* `name` is a path of the caller's own */
		top = open_dir(dirfd, name, NULL);
	} else {
		r = look(dirfd, &rm.mount, &mode);
		top = r < 0 ? r : open_dir(dirfd, name, &rm.mount);
	}
	if (top == -ENOTDIR || top == -ELOOP)
		top = unlinkat(dirfd, name, 0) < 0 ? -errno : -ENOENT; /* for its true error */
	if (top < 0) {
		note_failure(report, dirfd, name, top);
		return report->failed || report->foreign ? top : 0;
	}
	r = rm_contents(top, report);
	if (r < 0)
		return r;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	r = -errno;
	note_failure(report, dirfd, name, r);
	return r;
}

int rm_tree_at(int dirfd, const char *name)
{
	struct rm_report report = { .foreign_uid = (uid_t)-1 };

	return rm_tree(dirfd, name, &report);
}
