/* Files in the store without a row. See gc.h, C5. Linked by airplantd.
 *
 * It looks at no file's contents and follows no link; what it takes away is renamed into the trash
 * by a name in the store's own directory. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "core/gc_int.h"
#include "core/path_lock.h"
#include "core/place.h"
#include "core/spool.h"

enum { NAMES_PER_LOOK = 64 };

/* Others may work in directories of this name, or build what the lock file is of. */
static bool is_locked(const struct gc *gc, const char *name)
{
	size_t n = strlen(name);

	if (strncmp(name, "tmp-", 4) != 0 && (n < 5 || strcmp(name + n - 5, ".lock") != 0))
		return false;
	return path_lock_is_held(gc->core->store_fd, name);
}

static int throw_unknown(struct gc *gc, const char *name, struct err *e)
{
	struct core *core = gc->core;
	struct stat st;
	int r;

	if (fstatat(core->store_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0; /* gone meanwhile */
	r = trash_put(core, core->store_fd, name);
	if (r < 0) {
		gc_note(gc, 1, "deleting '%s/%s': %s", core->store_dir, name, strerror(-r));
		return 0;
	}
	if (!S_ISDIR(st.st_mode))
		gc->progress.freed += (uint64_t)st.st_blocks * 512;
	gc->limit_reached = gc->progress.freed > gc->head->o.max_freed;
	gc->progress.n_done++;
	r = gc_list(gc, name);
	return r < 0 ? err_errno(e, r, "noting what was deleted") : 0;
}

static int look_at(struct gc *gc, const char *name, struct err *e)
{
	struct store_path path;
	bool is_path = store_path_parse_base(name, &path, NULL) == 0;

	/* Everything else with a dot in front is a name that nobody uses. */
	if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, ".links") ||
	    !strcmp(name, SPOOL_IN_STORE))
		return 0;
	if (is_path && graph_find(&gc->graph, name) != GRAPH_NONE)
		return 0; /* valid in the snapshot: it has had its turn */
	if (gc_has_digest(gc, name) || is_locked(gc, name))
		return 0;
	if (is_path) {
		int r = db_path_valid(gc->core->db, &path);

		if (r == 0)
			return 0;
		if (r < 0)
			return err_errno(e, r, "querying the database");
	}
	if (gc_deletes(gc))
		return throw_unknown(gc, name, e);
	return is_path && gc_list(gc, name) < 0 ? err_errno(e, -EIO, "noting what would be deleted")
						: 0;
}

static int open_store(struct gc *gc, struct err *e)
{
	int fd = openat(gc->core->store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	gc->dir = fd < 0 ? NULL : fdopendir(fd);
	if (gc->dir)
		return 0;
	if (fd >= 0)
		close(fd);
	return err_errno(e, -errno, "opening the store '%s'", gc->core->store_dir);
}

/* Those that were asked for and are no valid paths. */
static int wanted_names(struct gc *gc, struct err *e)
{
	const struct strv *paths = &gc->head->paths;
	int r = 0;

	for (size_t i = 0; r == 0 && i < paths->n && !gc->limit_reached; i++)
		r = look_at(gc, paths->v[i], e);
	return r;
}

int gc_unknown_round(struct gc *gc, uint64_t until_usec, struct err *e)
{
	struct dirent *de;
	int r = 0;

	if (gc->head->o.action == GC_RETURN_LIVE || gc->limit_reached)
		return 0;
	place_flush(gc->core->place); /* files come before their rows */
	if (!gc->head->o.whole_store)
		return wanted_names(gc, e);
	if (!gc->dir)
		r = open_store(gc, e);
	for (unsigned int i = 0; r == 0 && !gc->limit_reached;) {
		errno = 0;
		de = readdir(gc->dir);
		if (!de)
			return errno ? err_errno(e, -errno, "reading the store '%s'",
						 gc->core->store_dir)
				     : 0;
		r = look_at(gc, de->d_name, e);
		if (++i % NAMES_PER_LOOK == 0 && now_usec() >= until_usec) {
			gc_tell_progress(gc, false);
			return r == 0 ? GRAPH_MORE : r;
		}
	}
	return r;
}
