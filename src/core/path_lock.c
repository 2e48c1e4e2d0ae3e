/* See path_lock.h. Nothing here follows a link or reads what is in a lock file. */
#include "core/path_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "core/core.h"

enum { TRIES = 8, KERNEL_LIST_MAX = 16 << 20 };

/* A line is "1: FLOCK  ADVISORY  WRITE 123 08:01:4711 0 EOF". The device is left out: some file
 * systems show another one in stat(2). */
static bool line_locks(const char *line, ino_t inode)
{
	unsigned long long n;

	return sscanf(line, "%*u: FLOCK %*s %*s %*d %*x:%*x:%llu", &n) == 1 && n == inode;
}

/* What another user made cannot be opened. The kernel says whether it is locked. */
static bool is_locked_by_others(int dir, const char *name)
{
	_cleanup_free_ char *text = NULL;
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno != ENOENT;
	if (read_file_at(AT_FDCWD, "/proc/locks", KERNEL_LIST_MAX, &text, NULL) < 0)
		return true;
	for (char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (line_locks(line, st.st_ino))
			return true;
	}
	return false;
}

/* -EAGAIN: it was no lock any more, or has just become none. */
static int try_lock(int dir, const char *name, int *ret)
{
	_cleanup_close_ int fd = openat(
		dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
	struct stat st;

	if (fd < 0 && errno == EACCES) {
		if (is_locked_by_others(dir, name))
			return PATH_LOCK_BUSY;
		return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? -EACCES : -EAGAIN;
	}
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? PATH_LOCK_BUSY : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_nlink == 0)
		return -EAGAIN;
	if (st.st_size != 0) /* given up, or never a lock */
		return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? -errno : -EAGAIN;
	*ret = TAKE_FD(fd);
	return 0;
}

bool path_lock_is_held(int dir, const char *name)
{
	_cleanup_close_ int fd =
		openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return errno == EACCES && is_locked_by_others(dir, name);
	return flock(fd, LOCK_EX | LOCK_NB) < 0;
}

static int take_one(const struct core *core, const char *name, int *ret, struct err *e)
{
	int r = -EAGAIN;

	for (int i = 0; i < TRIES && r == -EAGAIN; i++)
		r = try_lock(core->store_fd, name, ret);
	if (r == -EAGAIN)
		return PATH_LOCK_BUSY;
	return r < 0 ? err_errno(e, r, "opening lock file '%s/%s'", core->store_dir, name) : r;
}

/* The file goes only if it is still this one: others may have removed it and made it anew. */
static void drop_one(const struct core *core, const struct path_locks *l, size_t i)
{
	struct stat ours, there;

	if (core->generation == l->generation && fstat(l->fds[i], &ours) == 0 &&
	    fstatat(core->store_fd, l->names.v[i], &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	    ours.st_ino == there.st_ino && ours.st_dev == there.st_dev)
		(void)unlinkat(core->store_fd, l->names.v[i], 0); /* else a collection does */
	(void)write_full(l->fds[i], "d", 1); /* or a waiter makes a file that nobody needs */
	close(l->fds[i]);
}

void path_locks_drop(const struct core *core, struct path_locks *l)
{
	for (size_t i = 0; i < l->names.n; i++)
		drop_one(core, l, i);
	strv_done(&l->names);
	free(l->fds);
	*l = (struct path_locks){};
}

int path_locks_take(const struct core *core, const struct strv *names, struct path_locks *ret,
		    const char **ret_busy, struct err *e)
{
	struct path_locks l = { .fds = calloc(names->n + 1, sizeof(*l.fds)),
				.generation = core->generation };
	int r = l.fds ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < names->n; i++) {
		_cleanup_free_ char *name = NULL;

		if (asprintf(&name, "%s.lock", names->v[i]) < 0) {
			name = NULL;
			r = -ENOMEM;
			break;
		}
		r = take_one(core, name, &l.fds[i], e);
		if (r == PATH_LOCK_BUSY)
			*ret_busy = names->v[i];
		if (r)
			break;
		r = strv_add(&l.names, name);
		if (r < 0)
			close(l.fds[i]);
	}
	if (r) {
		path_locks_drop(core, &l);
		return r == -ENOMEM ? err_errno(e, r, "locking the outputs of a build") : r;
	}
	*ret = l;
	return 0;
}
