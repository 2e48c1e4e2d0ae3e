/* .links: the directory that shares equal files of the store. Names whose file nothing else links
 * to go. Its size can be the store's: a child does it. Linked by airplantd. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/size.h"
#include "confine/confine.h"
#include "core/gc_int.h"
#include "core/process.h"

struct saved {
	int64_t actual, unshared, directory; /* bytes */
};

struct look {
	int out;
	char path[4096];
};

static int dir_path(const struct gc *gc, char ret[static 4096])
{
	return (size_t)snprintf(ret, 4096, "%s/.links", gc->core->store_dir) >= 4096 ? -ENAMETOOLONG
										     : 0;
}

bool gc_links_any(const struct gc *gc)
{
	char path[4096];
	struct dirent *de;
	bool any = false;
	DIR *d = dir_path(gc, path) < 0 ? NULL : opendir(path);

	while (d && !any && (de = readdir(d)))
		any = strcmp(de->d_name, ".") && strcmp(de->d_name, "..");
	if (d)
		closedir(d);
	return any;
}

/* In the child. Nothing but the directory is in its reach from here on: it becomes fd 3. */
static int retreat(int dir, int *out)
{
	_cleanup_err_ struct err e = {};
	int fd = fcntl(*out, F_DUPFD_CLOEXEC, 4);

	if (fd < 0 || dup2(dir, 3) < 0)
		return -errno;
	*out = fd;
	if (confine_seal(CONFINE_DELETER, &e) == 0)
		return 0;
	log_error("unused links cannot be looked for: %s", err_msg(&e));
	return -EPERM;
}

/* In the child. Somebody may link to a file just when its name here goes: he has his file. */
static int look_through(void *ctx)
{
	struct look *l = ctx;
	struct saved s = {};
	DIR *d = opendir(l->path);
	struct dirent *de;
	struct stat st;

	if (!d || retreat(dirfd(d), &l->out) < 0)
		return 1;
	while ((de = readdir(d))) {
		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..") ||
		    fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (st.st_nlink == 1) {
			(void)unlinkat(dirfd(d), de->d_name, 0); /* the next one tries again */
			continue;
		}
		s.actual += st.st_size;
		s.unshared += (int64_t)(st.st_nlink - 1) * st.st_size;
	}
	if (fstat(dirfd(d), &st) == 0)
		s.directory = (int64_t)st.st_blocks * 512;
	return write_full(l->out, &s, sizeof(s)) < 0;
}

static void on_looked(void *ctx, int status)
{
	struct gc *gc = ctx;
	struct saved s;
	char text[32];

	gc->links = NULL;
	if (status == 0 && read_full(gc->links_fd, &s, sizeof(s)) == 0) {
		size_print(s.unshared - s.actual - s.directory, text);
		gc_note(gc, 3, "note: hard linking is currently saving %s", text);
	} else {
		gc_note(gc, 1, "looking for unused links failed");
	}
	gc_end(gc, NULL);
}

int gc_links_start(struct gc *gc, struct err *e)
{
	struct look l;
	int pair[2], r = dir_path(gc, l.path);

	if (r == 0 && pipe2(pair, O_CLOEXEC) < 0)
		r = -errno;
	if (r < 0)
		return err_errno(e, r, "looking for unused links");
	l.out = pair[1];
	gc->links_fd = pair[0];
	r = child_run(gc->core->loop, look_through, &l, &l.out, on_looked, gc, &gc->links);
	close(pair[1]);
	return r < 0 ? err_errno(e, r, "looking for unused links") : 0;
}

void gc_links_stop(struct gc *gc)
{
	child_forget(gc->links);
	gc->links = NULL;
	close_fdp(&gc->links_fd);
}
