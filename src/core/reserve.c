/* See reserve.h. A reserve that cannot be made is no reason to fail: a log line says so.
 * Linked by airplantd. */
#include "core/reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/core.h"

static bool path_of(const struct core *core, char ret[static 4096])
{
	return (size_t)snprintf(ret, 4096, "%s/db/reserved", core->state_dir) < 4096;
}

void reserve_drop(const struct core *core)
{
	char path[4096];

	if (path_of(core, path))
		(void)unlink(path); /* none there: the same */
}

void reserve_make(const struct core *core)
{
	const off_t size = (off_t)core->settings.gc_reserved_space;
	_cleanup_close_ int fd = -1;
	char path[4096];
	struct stat st;
	int r;

	if (!path_of(core, path))
		return;
	fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EACCES && unlink(path) == 0) /* a command of root's made it */
		fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &st) < 0) {
		log_warn("opening '%s': %s", path, strerror(errno));
		return;
	}
	if (st.st_size == size)
		return;
	r = size > 0 ? posix_fallocate(fd, 0, size) : 0;
	if (r == 0 && ftruncate(fd, size) < 0)
		r = errno;
	if (r == 0)
		return;
	log_warn("keeping %lld bytes free in '%s' for the garbage collector: %s", (long long)size,
		 path, strerror(r));
	(void)unlink(path); /* half of it helps nobody */
}
