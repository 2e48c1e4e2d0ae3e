/* Whose the store's directories are, found out while the tracer is at work. Linked by airplantd.
 *
 * What is not ours cannot be moved away, so its row has to stay. That is nearly nothing; but to
 * look only when a path's turn has come takes longer than to delete its row. What comes after the
 * look is ours, or its maker has told us of it and it stays. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "core/gc_int.h"

enum { NAMES_PER_LOOK = 64 };

static int open_store(struct gc *gc)
{
	int fd = openat(gc->core->store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	gc->scan.dir = fd < 0 ? NULL : fdopendir(fd);
	if (!gc->scan.dir && fd >= 0)
		close(fd);
	return gc->scan.dir ? 0 : -EIO;
}

static int look_at(struct gc *gc, const struct dirent *de)
{
	struct stat st;

	if (de->d_name[0] == '.' ||
	    (gc->core->owns_store && de->d_type != DT_DIR && de->d_type != DT_UNKNOWN) ||
	    fstatat(gc->core->store_fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    gc_is_movable(gc, &st))
		return 0;
	return smap_put(&gc->scan.foreign, de->d_name, gc);
}

/* 0 at the end, GRAPH_MORE, or negative: then paths are looked at one by one. */
static int scan(struct gc *gc, uint64_t until_usec)
{
	int r = gc->scan.dir ? 0 : open_store(gc);

	for (unsigned int i = 1; r == 0; i++) {
		const struct dirent *de;

		errno = 0;
		de = readdir(gc->scan.dir);
		if (!de)
			return -errno;
		r = look_at(gc, de);
		if (r == 0 && i % NAMES_PER_LOOK == 0 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	return r;
}

int gc_scan_round(struct gc *gc, uint64_t until_usec)
{
	int r;

	if (gc->scan.over || gc->scan.failed || !gc_deletes(gc) || !gc->head->o.whole_store)
		return 0;
	r = scan(gc, until_usec);
	gc->scan.over = r == 0;
	gc->scan.failed = r < 0;
	return r == GRAPH_MORE ? r : 0;
}

void gc_scan_done(struct gc *gc)
{
	if (gc->scan.dir)
		closedir(gc->scan.dir);
	smap_done(&gc->scan.foreign);
	gc->scan = (struct gc_scan){};
}
