/* What stock processes were promised. The looker's; see tracer.h.
 *
 * A nix process that uses the store without a daemon notes what it needs in temproots/PID, and has
 * that file locked as long as it lives. Where we may not read it (--own-user, a command of root's),
 * nobody knows what it needs. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "ipc/roots.h"
#include "roots/tracer.h"

/* Full paths, each with a NUL; the last may be half written. */
static void say_paths(struct looker *l, int fd, const char *what)
{
	static char text[64 * 1024];
	size_t len = 0, skip = strlen(l->t->store) + 1;
	char base[BASE_MAX + 1], *end;
	ssize_t n;

	while ((n = read(fd, text + len, sizeof(text) - len)) != 0) {
		char *at = text;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			say_failed(l, what, -errno);
			return;
		}
		len += (size_t)n;
		for (; (end = memchr(at, 0, len)); at = end + 1) {
			len -= (size_t)(end + 1 - at);
			if (strlen(at) <= skip || base_length(at + skip, strlen(at + skip)) == 0)
				continue;
			snprintf(base, sizeof(base), "%.*s",
				 (int)base_length(at + skip, strlen(at + skip)), at + skip);
			say_fields(l, ROOTS_ROOT, 2, base, what);
		}
		if (len == sizeof(text))
			len = 0; /* none of upstream's */
		memmove(text, at, len);
	}
}

static void look_at_file(struct looker *l, int dir, const char *name)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char what[64], proc[64];
	int error = fd < 0 ? errno : 0;
	struct stat st;

	snprintf(what, sizeof(what), ROOTS_TEMP "%.20s}", name);
	if (fd < 0) {
		snprintf(proc, sizeof(proc), "%s/%.20s", l->t->proc, name);
		/* Of a process that has ended, or gone meanwhile. */
		if (error != ENOENT && fstatat(AT_FDCWD, proc, &st, 0) == 0)
			say(l, ROOTS_INCOMPLETE,
			    "process %.20s uses the store without the daemon, and what it needs "
			    "cannot be read: temproots/%.20s: %s",
			    name, name, strerror(error));
		return;
	}
	/* Nobody has it: its process was killed. */
	if (flock(fd, LOCK_SH | LOCK_NB) == 0)
		return;
	if (errno != EWOULDBLOCK)
		say_failed(l, what, -errno);
	else
		say_paths(l, fd, what);
}

void look_at_temp_roots(struct looker *l)
{
	_cleanup_close_ int state = openat(AT_FDCWD, l->t->state, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = openat(state, "temproots", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!d) {
		if (errno != ENOENT)
			say_failed(l, "temproots", -errno);
		close_fdp(&fd);
		return;
	}
	while ((errno = 0, de = readdir(d)))
		if (de->d_name[0] >= '0' && de->d_name[0] <= '9')
			look_at_file(l, fd, de->d_name);
	if (errno)
		say_failed(l, "temproots", -errno);
	closedir(d);
}
