/* Copying a tree to fresh inodes, and sealing its top: see tree.h. Linked by the supervisor.
 *
 * A copy never shares an inode with its source, whatever hard links that has: blocks may be shared
 * by the file system (reflink), inodes may not. */
#include "nar/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "nar/tree_walk.h"

enum { COPY_BUFFER = 64 * 1024, COPY_PIECE = 32 << 20 };

struct copy {
	struct tree_walk walk;
	int to[NAR_MAX_DEPTH]; /* beside walk.v: the copies of the open directories */
	uint8_t *buffer;
	const struct tree_stop *stop;
	bool no_range; /* copy_file_range does not work between these file systems */
	struct err *e;
};

/* After each piece of a file. */
static bool stopped(const struct copy *c, uint64_t left)
{
	return left % COPY_PIECE == 0 && c->stop && c->stop->asked(c->stop->ctx);
}

/* 0, 1 when the kernel cannot do it for these files, or -errno. */
static int copy_range(const struct copy *c, int in, int out, uint64_t size)
{
	uint64_t left = size;

	while (left) {
		uint64_t piece = left % COPY_PIECE ? left % COPY_PIECE : COPY_PIECE;
		ssize_t n = copy_file_range(in, NULL, out, NULL, piece, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && left == size &&
		    (errno == EXDEV || errno == ENOSYS || errno == EOPNOTSUPP || errno == EINVAL ||
		     errno == EPERM))
			return 1;
		if (n < 0)
			return -errno;
		if (n == 0)
			return left == size ? 1 : -EIO; /* some file systems say 0 for "cannot" */
		left -= (uint64_t)n;
		if (stopped(c, left))
			return -ECANCELED;
	}
	return 0;
}

static int copy_bytes(struct copy *c, int in, int out, uint64_t size)
{
	uint64_t left = size;

	while (left) {
		ssize_t n = read(in, c->buffer, left < COPY_BUFFER ? left : COPY_BUFFER);
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		r = write_full(out, c->buffer, (size_t)n);
		if (r < 0)
			return r;
		left -= (uint64_t)n;
		if (stopped(c, left))
			return -ECANCELED;
	}
	return 0;
}

static int copy_contents(struct copy *c, int in, int out, uint64_t size)
{
	/* For a small file one read and one write are the cheapest. */
	if (size > COPY_BUFFER && !c->no_range) {
		int r = copy_range(c, in, out, size);

		if (r <= 0)
			return r;
		c->no_range = true;
	}
	return copy_bytes(c, in, out, size);
}

static int copy_file(struct copy *c, int from, const char *name, int to, const char *to_name)
{
	_cleanup_close_ int in = tree_open(from, name, 0), out = -1;
	struct stat st;
	mode_t mode;
	int r;

	if (in < 0)
		return tree_errno(&c->walk, name, c->e, in, "opening file");
	if (fstat(in, &st) < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "getting status of");
	if (!S_ISREG(st.st_mode))
		return tree_bad(&c->walk, name, c->e, "file '%s' has an unsupported type");
	mode = st.st_mode & S_IXUSR ? 0555 : 0444;
	out = openat(to, to_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (out < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "creating a copy of");
	r = copy_contents(c, in, out, (uint64_t)st.st_size);
	if (r == 0 && (fchmod(out, mode) < 0 || futimens(out, tree_times) < 0))
		r = -errno;
	return r < 0 ? tree_errno(&c->walk, name, c->e, r, "copying") : 0;
}

static int copy_symlink(struct copy *c, int from, const char *name, int to, const char *to_name)
{
	char target[NAR_TARGET_MAX + 1];
	int r = tree_readlink(from, name, target);

	if (r == 0 && (symlinkat(target, to, to_name) < 0 ||
		       utimensat(to, to_name, tree_times, AT_SYMLINK_NOFOLLOW) < 0))
		r = -errno;
	return r < 0 ? tree_errno(&c->walk, name, c->e, r, "copying symbolic link") : 0;
}

static int enter_dir(struct copy *c, int from, const char *name, int to, const char *to_name)
{
	_cleanup_close_ int in = tree_open(from, name, O_DIRECTORY), out = -1;
	int r;

	if (in < 0)
		return tree_errno(&c->walk, name, c->e, in, "opening directory");
	r = mkdirat(to, to_name, 0755) < 0 ? -errno : tree_open(to, to_name, O_DIRECTORY);
	if (r < 0)
		return tree_errno(&c->walk, name, c->e, r, "creating a copy of directory");
	out = r;
	r = tree_walk_push(&c->walk, TAKE_FD(in), name, c->e);
	if (r != TREE_BAD) /* a push that failed otherwise did open a level */
		c->to[c->walk.depth - 1] = TAKE_FD(out);
	return r;
}

static int leave_dir(struct copy *c)
{
	_cleanup_close_ int fd = c->to[c->walk.depth - 1];

	tree_walk_pop(&c->walk);
	if (fchmod(fd, c->walk.depth ? 0555 : 0755) < 0 || futimens(fd, tree_times) < 0)
		return err_errno(c->e, -errno, "setting the metadata of a copied directory");
	return 0;
}

static int copy_node(struct copy *c, int from, const char *name, int to, const char *to_name)
{
	struct stat st;

	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "getting status of");
	switch (st.st_mode & S_IFMT) {
	case S_IFREG:
		return copy_file(c, from, name, to, to_name);
	case S_IFLNK:
		return copy_symlink(c, from, name, to, to_name);
	case S_IFDIR:
		return enter_dir(c, from, name, to, to_name);
	default:
		return tree_bad(&c->walk, name, c->e, "file '%s' has an unsupported type");
	}
}

int tree_copy(int from_dirfd, const char *from, int to_dirfd, const char *to,
	      const struct tree_stop *stop, struct err *e)
{
	struct copy *c = calloc(1, sizeof(*c));
	int r = -ENOMEM;

	if (!c)
		return r;
	c->e = e;
	c->stop = stop;
	c->buffer = malloc(COPY_BUFFER);
	if (c->buffer)
		r = copy_node(c, from_dirfd, from, to_dirfd, to);
	while (r == 0 && c->walk.depth) {
		unsigned char type;
		const char *name = tree_walk_next(&c->walk, &type);

		r = name ? copy_node(c, tree_walk_fd(&c->walk), name, c->to[c->walk.depth - 1],
				     name)
			 : leave_dir(c);
	}
	if (r == -ENOMEM)
		err_errno(e, r, "copying '%s'", from);
	for (size_t i = 0; i < c->walk.depth; i++)
		close(c->to[i]);
	tree_walk_done(&c->walk);
	free(c->buffer);
	free(c);
	return r;
}

int tree_seal(int dirfd, const char *name)
{
	_cleanup_close_ int fd =
		openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0) {
		if (errno != ENOTDIR && errno != ELOOP)
			return -errno;
		return utimensat(dirfd, name, tree_times, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
	}
	if (fchmod(fd, 0555) < 0 || futimens(fd, tree_times) < 0)
		return -errno;
	return 0;
}
