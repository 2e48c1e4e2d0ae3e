/* Canonical metadata for a tree that a builder left behind: see tree.h. Linked by the supervisor,
 * which runs it when no process of the build is left.
 *
 * Two passes. The first changes nothing but the modes of directories that cannot be read otherwise,
 * and refuses the tree as a whole: an inode that is linked from elsewhere, or belongs to somebody
 * else, must not be touched at all. The second sets metadata through an fd of each inode, owner
 * last: a setuid bit is gone before the inode belongs to us. */
#include "nar/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include "base/fd.h"
#include "nar/tree_links.h"
#include "nar/tree_walk.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452 /* Linux 6.6 */
#endif

enum { XATTRS_SIZE = 64 * 1024 }; /* the kernel's limit for a list */

struct canon {
	struct tree_walk walk;
	struct tree_links links;
	const struct tree_owner *owner;
	char *xattrs;
	struct err *e;
};

typedef int (*node_fn)(struct canon *c, int dir, const char *name);

static bool is_builders(const struct canon *c, const struct stat *st)
{
	uid_t n = c->owner->n_uids ? c->owner->n_uids : 1;

	return st->st_uid >= c->owner->uid && st->st_uid - c->owner->uid < n;
}

/* Gives the owner of an inode that could not be opened the right to open it. */
static int unlock(struct canon *c, int dir, const char *name)
{
	_cleanup_close_ int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char proc[64];
	struct stat st;
	mode_t mode;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!is_builders(c, &st) || S_ISLNK(st.st_mode))
		return -EACCES;
	mode = S_ISDIR(st.st_mode) ? 0700 : 0400 | (st.st_mode & 0100);
	if (syscall(SYS_fchmodat2, fd, "", mode, AT_EMPTY_PATH) == 0)
		return 0;
	/* Before Linux 6.6 only /proc changes the mode behind an O_PATH fd. */
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return chmod(proc, mode) < 0 ? -errno : 0;
}

/* Opens an entry that `st` was said to be. */
static int open_same(struct canon *c, int dir, const char *name, const struct stat *st)
{
	int flags = S_ISDIR(st->st_mode) ? O_DIRECTORY : 0;
	_cleanup_close_ int fd = tree_open(dir, name, flags);
	struct stat now;
	int r;

	if (fd == -EACCES) {
		r = unlock(c, dir, name);
		fd = r < 0 ? r : tree_open(dir, name, flags);
	}
	if (fd < 0)
		return tree_errno(&c->walk, name, c->e, fd, "opening");
	if (fstat(fd, &now) < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "getting status of");
	if (now.st_dev != st->st_dev || now.st_ino != st->st_ino)
		return tree_errno(&c->walk, name, c->e, -EAGAIN, "somebody replaced");
	return TAKE_FD(fd);
}

static int status(struct canon *c, int dir, const char *name, struct stat *ret)
{
	if (fstatat(dir, name, ret, AT_SYMLINK_NOFOLLOW) < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "getting status of");
	if (!S_ISREG(ret->st_mode) && !S_ISDIR(ret->st_mode) && !S_ISLNK(ret->st_mode))
		return tree_bad(&c->walk, name, c->e, "file '%s' has an unsupported type");
	return 0;
}

/* First pass: what may be wrong with one inode. */
static int check_node(struct canon *c, int dir, const char *name)
{
	struct stat st;
	int fd, r = status(c, dir, name, &st);

	if (r)
		return r;
	if (!is_builders(c, &st))
		return tree_bad(&c->walk, name, c->e, "invalid ownership on file '%s'");
	if (!S_ISDIR(st.st_mode)) {
		if (st.st_nlink <= 1)
			return 0;
		return tree_links_count(&c->links, &st, tree_walk_path(&c->walk, name));
	}
	fd = open_same(c, dir, name, &st);
	if (fd < 0)
		return fd;
	/* Search permission is needed below; whether that was granted shows there. */
	if ((st.st_mode & 0500) != 0500)
		(void)fchmod(fd, 0700);
	return tree_walk_push(&c->walk, fd, name, c->e);
}

/* The top is looked at more closely: upstream's test before anything else. */
static int check_top(struct canon *c, int dir, const char *name)
{
	struct stat st;
	int r = status(c, dir, name, &st);

	if (r)
		return r;
	if (!is_builders(c, &st) || (!S_ISLNK(st.st_mode) && (st.st_mode & (S_IWGRP | S_IWOTH))))
		return tree_bad(
			&c->walk, name, c->e,
			"suspicious ownership or permission on '%s'; rejecting this build output");
	return check_node(c, dir, name);
}

static int check_links(struct canon *c)
{
	const struct tree_link *l = tree_links_leaking(&c->links);

	if (!l)
		return 0;
	return err_set(
		c->e, TREE_BAD,
		"file '%s' has hard links outside of the output; rejecting this build output",
		l->path);
}

/* Labels that the machine's policy puts on every file, as upstream's ignored-acls. */
static bool is_policy(const char *xattr)
{
	return !strcmp(xattr, "security.selinux") || !strcmp(xattr, "system.nfs4_acl") ||
	       !strcmp(xattr, "security.csm") || !strcmp(xattr, "security.ima") ||
	       !strcmp(xattr, "security.evm") || !strncmp(xattr, "security.SMACK64", 16);
}

static int remove_xattrs(struct canon *c, int fd, const char *name, const struct stat *st)
{
	ssize_t n = flistxattr(fd, c->xattrs, XATTRS_SIZE);

	if (n < 0 && errno != ENOTSUP && errno != ENODATA)
		return tree_errno(&c->walk, name, c->e, -errno, "querying extended attributes of");
	for (char *x = c->xattrs; x < c->xattrs + n; x += strlen(x) + 1) {
		int r;

		if (is_policy(x))
			continue;
		r = fremovexattr(fd, x);
		if (r < 0 && errno == EACCES) {
			/* user.* needs a file that its owner may write */
			(void)fchmod(fd, S_ISDIR(st->st_mode) ? 0700 : 0600);
			r = fremovexattr(fd, x);
		}
		if (r < 0 && errno != ENODATA)
			return tree_errno(&c->walk, name, c->e, -errno,
					  "removing an extended attribute from");
	}
	return 0;
}

static mode_t canonical_mode(const struct canon *c, const struct stat *st)
{
	if (S_ISDIR(st->st_mode))
		return c->walk.depth ? 0555 : 0755;
	return st->st_mode & S_IXUSR ? 0555 : 0444;
}

/* The kernel grants a read lease only while nobody has the inode open for writing: no descriptor,
 * no shared mapping, none on its way through a socket. (It asks for the owner of the file, which we
 * are by now; after the chown nobody else can open it anew.) */
static bool is_held(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return true;
	return fcntl(fd, F_SETLEASE, F_UNLCK) < 0;
}

static int apply_fd(struct canon *c, int fd, const char *name, const struct stat *st)
{
	const struct tree_owner *o = c->owner;
	int r = remove_xattrs(c, fd, name, st);

	if (r)
		return r;
	if (fchmod(fd, canonical_mode(c, st)) < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "setting permissions of");
	if (futimens(fd, tree_times) < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "changing modification time of");
	if (o->new_uid != (uid_t)-1 && fchown(fd, o->new_uid, o->new_gid) < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "changing owner of");
	if (o->ret_held && S_ISREG(st->st_mode) && is_held(fd))
		*o->ret_held = true;
	return 0;
}

static int apply_symlink(struct canon *c, int dir, const char *name)
{
	const struct tree_owner *o = c->owner;

	if (utimensat(dir, name, tree_times, AT_SYMLINK_NOFOLLOW) < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "changing modification time of");
	if (o->new_uid != (uid_t)-1 &&
	    fchownat(dir, name, o->new_uid, o->new_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return tree_errno(&c->walk, name, c->e, -errno, "changing owner of");
	return 0;
}

/* Second pass: one inode. */
static int apply_node(struct canon *c, int dir, const char *name)
{
	_cleanup_close_ int fd = -1;
	struct tree_link *link = NULL;
	struct stat st;
	int r = status(c, dir, name, &st);

	if (r)
		return r;
	if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
		link = tree_links_get(&c->links, &st);
		if (link && link->done)
			return 0;
	}
	/* The same again as in the first pass, since this is the one that acts. */
	if (!is_builders(c, &st) || (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && !link))
		return tree_bad(&c->walk, name, c->e, "invalid ownership on file '%s'");
	if (link)
		link->done = true;
	if (S_ISLNK(st.st_mode))
		return apply_symlink(c, dir, name);
	fd = open_same(c, dir, name, &st);
	if (fd < 0)
		return fd;
	r = apply_fd(c, fd, name, &st);
	if (r || !S_ISDIR(st.st_mode))
		return r;
	return tree_walk_push(&c->walk, TAKE_FD(fd), name, c->e);
}

static int pass(struct canon *c, int dirfd, const char *top, node_fn on_top, node_fn on_node)
{
	int r = on_top(c, dirfd, top);

	while (r == 0 && c->walk.depth) {
		unsigned char type;
		const char *name = tree_walk_next(&c->walk, &type);

		if (name)
			r = on_node(c, tree_walk_fd(&c->walk), name);
		else
			tree_walk_pop(&c->walk);
	}
	return r;
}

int tree_canonicalise(int dirfd, const char *name, const struct tree_owner *owner, struct err *e)
{
	struct canon *c = calloc(1, sizeof(*c));
	int r = -ENOMEM;

	if (!c)
		return r;
	c->owner = owner;
	c->e = e;
	c->xattrs = malloc(XATTRS_SIZE);
	if (c->xattrs)
		r = pass(c, dirfd, name, check_top, check_node);
	if (r == 0)
		r = check_links(c);
	if (r == 0)
		r = pass(c, dirfd, name, apply_node, apply_node);
	if (r == -ENOMEM)
		err_errno(e, r, "canonicalising '%s'", name);
	tree_walk_done(&c->walk);
	tree_links_done(&c->links);
	free(c->xattrs);
	free(c);
	return r;
}
