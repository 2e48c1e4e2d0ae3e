/* See idle.h. */
#include "cli/idle.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#include "base/fd.h"

enum { UNIX_TEXT_MAX = 64 << 20, STATUS_MAX = 64 << 10 };

/* The descriptor is kept on purpose: the lock is the process's. */
static int take(int dir, const char *name, const char *state, struct err *e)
{
	int fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT
			       ? 0
			       : err_errno(e, -errno, "opening lock file '%s/%s'", state, name);
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	close(fd);
	if (errno != EWOULDBLOCK)
		return err_errno(e, -errno, "locking '%s/%s'", state, name);
	return err_set(e, -EBUSY,
		       "the store is in use: a daemon, a build or another command holds '%s/%s'. "
		       "Stop the daemon ('systemctl stop nix-daemon.socket nix-daemon.service "
		       "airplant.socket airplant.service') and wait for builds to end",
		       state, name);
}

int idle_lock(int state_fd, const char *state, struct err *e)
{
	static const char *const names[] = { "airplant/daemon.lock", "db/big-lock", "gc.lock" };
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTS(names); i++)
		r = take(state_fd, names[i], state, e);
	return r;
}

/* Lines of "num: refcount protocol flags type state inode path"; a listening one has bit 16. */
int idle_check_socket(const char *socket, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	char *line, *save = NULL;
	int r = read_file_at(AT_FDCWD, "/proc/net/unix", UNIX_TEXT_MAX, &text, NULL);

	if (r < 0)
		return err_errno(e, r, "reading /proc/net/unix");
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned int flags;
		int path_at = 0;

		if (sscanf(line, "%*s %*s %*s %x %*s %*s %*s %n", &flags, &path_at) < 1 ||
		    !path_at || !(flags & 0x10000) || strcmp(line + path_at, socket) != 0)
			continue;
		return err_set(e, -EBUSY,
			       "a daemon, or systemd for it, listens at '%s'. Stop it first: "
			       "'systemctl stop nix-daemon.socket nix-daemon.service "
			       "airplant.socket airplant.service'",
			       socket);
	}
	return 0;
}

/* One that has ended, and that nobody has asked about yet, does nothing any more. */
static bool is_running_as(int proc, const char *pid, const uid_t *uids, size_t n, uid_t *ret)
{
	_cleanup_free_ char *text = NULL;
	char path[NAME_MAX + 16];
	const char *state, *ids;
	unsigned int uid;

	snprintf(path, sizeof(path), "%s/status", pid);
	if (read_file_at(proc, path, STATUS_MAX, &text, NULL) < 0)
		return false; /* gone meanwhile */
	state = strstr(text, "\nState:\t");
	ids = strstr(text, "\nUid:\t");
	if (!state || !ids || strchr("ZX", state[8]) || sscanf(ids, "\nUid:\t%u", &uid) != 1)
		return false;
	for (size_t i = 0; i < n; i++)
		if (uids[i] == uid && uid != 0) {
			*ret = uid;
			return true;
		}
	return false;
}

int idle_check_users(const uid_t *uids, size_t n, struct err *e)
{
	DIR *proc = opendir("/proc");
	struct dirent *de;
	uid_t uid;
	int r = 0;

	if (!proc)
		return err_errno(e, -errno, "looking for processes");
	while (r == 0 && (de = readdir(proc)))
		if (de->d_name[0] >= '0' && de->d_name[0] <= '9' &&
		    is_running_as(dirfd(proc), de->d_name, uids, n, &uid))
			r = err_set(e, -EBUSY,
				    "process %s of uid %u runs: a daemon or a build is not over",
				    de->d_name, (unsigned int)uid);
	closedir(proc);
	return r;
}
