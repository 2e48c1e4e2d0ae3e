/* Roots that the daemon makes itself (operation AddPermRoot). See roots.h. Linked by airplantd.
 *
 * Upstream's daemon, being root, makes the link anywhere. This one has no business outside its own
 * state directory: clients make their links themselves and register them. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "core/roots.h"

/* Without "..", ".", and empty parts, which a session that its client has taken over could say. */
static bool is_canonical(const char *path)
{
	while (*path == '/') {
		size_t len = strcspn(++path, "/");

		if (len == 0 || (path[0] == '.' && (len == 1 || (len == 2 && path[1] == '.'))))
			return false;
		path += len;
	}
	return true;
}

/* Is what lies there a link into the store, or nothing? */
static bool replaceable(int dirfd, const char *name, const char *store_dir)
{
	char target[PATH_MAX];
	size_t len = strlen(store_dir);
	ssize_t n = readlinkat(dirfd, name, target, sizeof(target) - 1);

	if (n < 0)
		return errno == ENOENT;
	target[n] = 0;
	return !strncmp(target, store_dir, len) && target[len] == '/';
}

static int put_link(int dirfd, const char *name, const char *target)
{
	char fresh[NAME_MAX];

	/* One thread: nobody else uses this name; what is there is a crash's leftover. */
	if (snprintf(fresh, sizeof(fresh), ".%s.new", name) >= (int)sizeof(fresh))
		return -ENAMETOOLONG;
	if (unlinkat(dirfd, fresh, 0) < 0 && errno != ENOENT)
		return -errno;
	if (symlinkat(target, dirfd, fresh) < 0 || renameat(dirfd, fresh, dirfd, name) < 0)
		return -errno;
	return 0;
}

int roots_add_perm(const char *store_dir, const char *state_dir, const char *link,
		   const struct store_path *target, struct err *e)
{
	_cleanup_free_ char *top = NULL, *dir = NULL, *path = NULL;
	_cleanup_close_ int state = -1, fd = -1;
	const char *name;
	int r;

	if (asprintf(&top, "%s/gcroots/", state_dir) < 0 ||
	    asprintf(&path, "%s/%s", store_dir, target->base) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	if (!is_canonical(link) || strncmp(link, top, strlen(top)) || !*(name = strrchr(link, '/') + 1))
		return err_set(e, EPERM,
			       "Airplant makes no link at '%s', only below '%s': make it yourself "
			       "and register it, as 'nix-store --add-root' does",
			       link, top);
	dir = strndup(link + strlen(state_dir) + 1, (size_t)(name - link) - strlen(state_dir) - 2);
	state = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!dir || state < 0)
		return err_errno(e, dir ? -errno : -ENOMEM, "opening '%s'", state_dir);
	fd = open_beneath(state, dir, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return err_errno(e, fd, "opening the directory of '%s'", link);
	if (!replaceable(fd, name, store_dir))
		return err_set(e, EEXIST, "cannot create symlink '%s'; already exists", link);
	r = put_link(fd, name, path);
	return r < 0 ? err_errno(e, r, "creating symlink from '%s' to '%s'", link, path) : 0;
}
