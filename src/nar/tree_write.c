/* Restoring a NAR beneath a directory fd: see tree.h. Linked by session and supervisor.
 *
 * Everything is created with O_EXCL, mkdirat or symlinkat by a name of one component in a directory
 * that this file has itself just made and holds open, so nothing is ever written elsewhere. */
#include "nar/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "nar/tree_walk.h"

/* Whether the mode that a new inode got is the one asked for; the umask or a default ACL of the
 * parent may have changed it. Found out once per writer and mode. */
enum mode_check { MODE_UNKNOWN, MODE_KEPT, MODE_CHANGED };

struct tree_writer {
	struct nar_reader *reader;
	int dirfd; /* the caller's */
	char name[NAR_NAME_MAX + 1];
	int dirs[NAR_MAX_DEPTH];
	size_t depth;
	int file;
	mode_t file_mode;
	enum mode_check file_check[2]; /* plain, executable */
};

struct tree_writer *tree_writer_new(int dirfd, const char *name)
{
	struct tree_writer *w;
	size_t len = strlen(name);

	if (len > NAR_NAME_MAX)
		return NULL;
	w = malloc(sizeof(*w));
	if (!w)
		return NULL;
	w->reader = nar_reader_new();
	if (!w->reader) {
		free(w);
		return NULL;
	}
	w->dirfd = dirfd;
	memcpy(w->name, name, len + 1);
	w->depth = 0;
	w->file = -1;
	w->file_check[0] = w->file_check[1] = MODE_UNKNOWN;
	return w;
}

void tree_writer_free(struct tree_writer *w)
{
	if (!w)
		return;
	close_fdp(&w->file);
	while (w->depth)
		close(w->dirs[--w->depth]);
	nar_reader_free(w->reader);
	free(w);
}

static int parent(const struct tree_writer *w)
{
	return w->depth ? w->dirs[w->depth - 1] : w->dirfd;
}

static const char *name_of(const struct tree_writer *w, const struct nar_item *item)
{
	return w->depth ? item->name : w->name;
}

static int dir_begin(struct tree_writer *w, const struct nar_item *item, struct err *e)
{
	const char *name = name_of(w, item);
	int dir = parent(w), fd;

	if (mkdirat(dir, name, 0755) < 0)
		return err_errno(e, -errno, "creating directory '%s'", name);
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, -errno, "opening directory '%s'", name);
	w->dirs[w->depth++] = fd;
	return 0;
}

static int dir_end(struct tree_writer *w, struct err *e)
{
	_cleanup_close_ int fd = w->dirs[--w->depth];

	if (fchmod(fd, w->depth ? 0555 : 0755) < 0)
		return err_errno(e, -errno, "setting permissions of a directory");
	if (futimens(fd, tree_times) < 0)
		return err_errno(e, -errno, "changing modification time of a directory");
	return 0;
}

static int file_begin(struct tree_writer *w, const struct nar_item *item, struct err *e)
{
	const char *name = name_of(w, item);

	w->file_mode = item->executable ? 0555 : 0444;
	w->file = openat(parent(w), name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			 w->file_mode);
	if (w->file < 0)
		return err_errno(e, -errno, "creating file '%s'", name);
	return 0;
}

static int fix_file_mode(struct tree_writer *w)
{
	enum mode_check *check = &w->file_check[w->file_mode == 0555];
	struct stat st;

	if (*check == MODE_UNKNOWN) {
		if (fstat(w->file, &st) < 0)
			return -errno;
		*check = (st.st_mode & 07777) == w->file_mode ? MODE_KEPT : MODE_CHANGED;
	}
	if (*check == MODE_CHANGED && fchmod(w->file, w->file_mode) < 0)
		return -errno;
	return 0;
}

static int file_end(struct tree_writer *w, struct err *e)
{
	_cleanup_close_ int fd = w->file;
	int r = fix_file_mode(w);

	w->file = -1;
	if (r < 0)
		return err_errno(e, r, "setting permissions of a file");
	if (futimens(fd, tree_times) < 0)
		return err_errno(e, -errno, "changing modification time of a file");
	return 0;
}

static int make_symlink(struct tree_writer *w, const struct nar_item *item, struct err *e)
{
	const char *name = name_of(w, item);

	if (symlinkat(item->target, parent(w), name) < 0)
		return err_errno(e, -errno, "creating symlink from '%s' to '%s'", name,
				 item->target);
	if (utimensat(parent(w), name, tree_times, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(e, -errno, "changing modification time of '%s'", name);
	return 0;
}

static int handle(struct tree_writer *w, int event, const struct nar_item *item, struct err *e)
{
	int r;

	switch (event) {
	case NAR_DIR_BEGIN:
		return dir_begin(w, item, e);
	case NAR_DIR_END:
		return dir_end(w, e);
	case NAR_FILE_BEGIN:
		return file_begin(w, item, e);
	case NAR_FILE_DATA:
		r = write_full(w->file, item->data, item->data_len);
		return r < 0 ? err_errno(e, r, "writing to file") : 0;
	case NAR_FILE_END:
		return file_end(w, e);
	case NAR_SYMLINK:
		return make_symlink(w, item, e);
	default:
		return 0;
	}
}

int tree_writer_feed(struct tree_writer *w, const uint8_t *data, size_t len, size_t *ret_used,
		     struct err *e)
{
	struct nar_item item;
	size_t used = 0, n;
	int event, r;

	*ret_used = 0;
	for (;;) {
		event = nar_reader_next(w->reader, data + used, len - used, &n, &item, e);
		used += n;
		if (event < 0)
			return TREE_BAD;
		if (event == NAR_MORE || event == NAR_END)
			break;
		r = handle(w, event, &item, e);
		if (r < 0)
			return r;
	}
	*ret_used = used;
	return event == NAR_END ? TREE_END : TREE_MORE;
}
