/* See optimise.h. */
#include "nar/optimise.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "nar/tree.h"
#include "nar/tree_walk.h"

#define TEMP_NAME "link"

static int by_inode(const void *a, const void *b)
{
	const ino_t x = *(const ino_t *)a, y = *(const ino_t *)b;

	return x < y ? -1 : x > y;
}

int optimise_learn(struct optimise *o)
{
	int fd = openat(o->links, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;
	size_t cap = 0;
	int r = 0;

	if (!d)
		return -errno;
	while (r == 0 && (de = readdir(d))) {
		if (o->n_known == cap) {
			ino_t *v = reallocarray(o->known, cap ? cap * 2 : 1024, sizeof(*v));

			if (!v) {
				r = -ENOMEM;
				break;
			}
			o->known = v;
			cap = cap ? cap * 2 : 1024;
		}
		o->known[o->n_known++] = de->d_ino;
	}
	closedir(d);
	if (o->n_known)
		qsort(o->known, o->n_known, sizeof(*o->known), by_inode);
	return r;
}

static bool is_known(const struct optimise *o, ino_t inode)
{
	return o->n_known && bsearch(&inode, o->known, o->n_known, sizeof(inode), by_inode);
}

static void say(struct optimise *o, unsigned level, const char *fmt, const char *name)
{
	char text[512];

	snprintf(text, sizeof(text), fmt, name);
	o->note(o->ctx, level, text);
}

/* May files in this directory be replaced? Opens it up; `ret` is its mode to go back to. */
static int open_up(int dirfd, mode_t *ret)
{
	struct stat st;

	if (fstat(dirfd, &st) < 0)
		return -errno;
	*ret = st.st_mode & 07777;
	return st.st_mode & S_IWUSR || fchmod(dirfd, *ret | S_IWUSR) == 0 ? 0 : -errno;
}

/* While a file is held open its number is nobody else's. */
static bool is_still(int dirfd, const char *name, const struct stat *st)
{
	struct stat now;

	return fstatat(dirfd, name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_dev == st->st_dev &&
	       now.st_ino == st->st_ino;
}

/* Puts the file that .links has in the place of an equal one, which is `st`. */
static int replace(struct optimise *o, const char *hash, int dirfd, const char *name, bool top,
		   const struct stat *st)
{
	mode_t mode = 0;
	int r;

	(void)unlinkat(o->temp, TEMP_NAME, 0); /* of one that was killed */
	if (linkat(o->links, hash, o->temp, TEMP_NAME, 0) < 0)
		return -errno;
	r = top ? 0 : open_up(dirfd, &mode);
	if (r == 0 && !is_still(dirfd, name, st))
		r = -ENOENT;
	if (r == 0 && renameat(o->temp, TEMP_NAME, dirfd, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(o->temp, TEMP_NAME, 0);
	if (!top && mode && (fchmod(dirfd, mode) < 0 || futimens(dirfd, tree_times) < 0) && r == 0)
		r = -errno;
	return r;
}

/* Is what .links has what its name says? Measured only where there is a reason: reading each again
 * would cost more than linking gains. */
static bool is_sound(const struct optimise *o, const char *hash, const struct stat *link,
		     const struct stat *file)
{
	_cleanup_err_ struct err e = {};
	struct tree_facts facts;
	char got[64];

	if (link->st_size != file->st_size)
		return false;
	if (!o->distrust && link->st_mtime == tree_times[1].tv_sec)
		return true;
	if (tree_measure(o->links, hash, NULL, &facts, &e) != 0)
		return false;
	base32_encode(facts.nar_hash, hash_size(HASH_SHA256), got);
	return !strcmp(got, hash);
}

/* Gives the file its name in .links. 1: it has one now; 0: an equal file had it before.
 *
 * The path may have been collected and built again since the file was measured, with other
 * contents: somebody who arranges for that would have them put wherever those measured are. So
 * what got the name is looked at. */
static int name_it(struct optimise *o, const char *hash, int dirfd, const char *name,
		   const struct stat *st)
{
	struct stat other;

	if (fstatat(o->links, hash, &other, AT_SYMLINK_NOFOLLOW) == 0 &&
	    !is_sound(o, hash, &other, st)) {
		say(o, 1, "removing corrupted link '.links/%s'", hash);
		say(o, 1,
		    "There may be more corrupted paths.\n"
		    "You should run `nix-store --verify --check-contents --repair` to fix them "
		    "all%s",
		    "");
		(void)unlinkat(o->links, hash, 0);
	}
	if (linkat(dirfd, name, o->links, hash, 0) < 0)
		return errno == EEXIST ? 0 : -errno;
	if (is_still(o->links, hash, st))
		return 1;
	return unlinkat(o->links, hash, 0) < 0 ? -errno : -ENOENT;
}

static int link_file(struct optimise *o, int dirfd, const char *name, const struct stat *st,
		     bool top, struct err *e)
{
	_cleanup_close_ int held = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct tree_facts facts;
	struct stat other;
	char hash[64];
	int r;

	if (held < 0)
		return -errno;
	if (fstat(held, &other) < 0 || other.st_ino != st->st_ino)
		return -ENOENT;
	r = tree_measure(dirfd, name, NULL, &facts, e);
	if (r)
		return r;
	base32_encode(facts.nar_hash, hash_size(HASH_SHA256), hash);
	r = name_it(o, hash, dirfd, name, st);
	if (r != 0)
		return r < 0 ? r : 0;
	if (fstatat(o->links, hash, &other, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (other.st_ino == st->st_ino)
		return 0;
	r = replace(o, hash, dirfd, name, top, st);
	if (r < 0)
		return r;
	o->files++;
	o->bytes += (uint64_t)st->st_size;
	return 0;
}

/* A collection may take a path or a link away under us; a file may have as many names as it can
 * have, and a directory of names be full: then this file stays alone. */
static bool is_nothing(int r)
{
	return r == -ENOENT || r == -EMLINK || r == -ENOSPC || r == -EPERM || r == -EACCES ||
	       r == -ENOTDIR || r == -ELOOP;
}

static int visit(struct optimise *o, struct tree_walk *w, int dirfd, const char *name, bool top,
		 struct err *e)
{
	_cleanup_err_ struct err why = {};
	struct stat st;
	int fd, r;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(e, -errno, "looking at '%s'", name);
	if (S_ISDIR(st.st_mode)) {
		fd = tree_open(dirfd, name, O_DIRECTORY);
		if (fd < 0)
			return is_nothing(fd) ? 0 : err_errno(e, fd, "opening '%s'", name);
		return tree_walk_push(w, fd, name, e);
	}
	if ((!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) || is_known(o, st.st_ino))
		return 0;
	if (S_ISREG(st.st_mode) && st.st_mode & S_IWUSR) {
		say(o, 1, "skipping suspicious writable file '%s'", name);
		return 0;
	}
	r = link_file(o, dirfd, name, &st, top, &why);
	if (r == 0 || is_nothing(r))
		return 0;
	return r < 0 ? err_errno(e, r, "linking '%s'", name) : err_set(e, r, "%s", err_msg(&why));
}

int optimise_path(struct optimise *o, const char *name, struct err *e)
{
	struct tree_walk w = {};
	int r = visit(o, &w, o->store, name, true, e);

	while (r == 0 && w.depth) {
		unsigned char type;
		const char *entry = tree_walk_next(&w, &type);

		if (entry)
			r = visit(o, &w, tree_walk_fd(&w), entry, false, e);
		else
			tree_walk_pop(&w);
	}
	tree_walk_done(&w);
	return r;
}
