/* A build without a sandbox: the host's files, except that the store directory is covered by an
 * overlay, so that outputs land in the scratch and nobody but the daemon writes into the store.
 *
 * Runs in the child before any foreign code does, with the capabilities of O and no others.
 * Linked by airplant-build alone. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "build/supervisor.h"

/* A path inside an overlay's option string: its own separators are escaped. */
static int add_escaped(struct buf *b, const char *path)
{
	int r = 0;

	for (; *path && r == 0; path++) {
		if (*path == ',' || *path == ':' || *path == '\\')
			r = buf_append_char(b, '\\');
		if (r == 0)
			r = buf_append_char(b, *path);
	}
	return r;
}

static int cover_store(struct build *b, struct err *e)
{
	_cleanup_buf_ struct buf o = BUF_INIT(16384);
	char own[64];
	int r;

	if (mkdirat(b->top, "work", 0700) < 0)
		return err_errno(e, -errno, "creating directory '%s/work'", b->s.scratch);
	r = buf_append_str(&o, "userxattr,lowerdir=");
	if (r == 0)
		r = add_escaped(&o, b->s.real_store);
	snprintf(own, sizeof(own), ",upperdir=/proc/self/fd/%d/store", b->top);
	if (r == 0)
		r = buf_append_str(&o, own);
	snprintf(own, sizeof(own), ",workdir=/proc/self/fd/%d/work", b->top);
	if (r == 0)
		r = buf_append_str(&o, own);
	if (r == 0)
		r = buf_append(&o, "", 1);
	if (r < 0)
		return err_errno(e, r, "describing an overlay over '%s'", b->s.store_dir);
	if (mount("overlay", b->s.store_dir, "overlay", MS_NOSUID | MS_NODEV, (char *)o.data) == 0)
		return 0;
	r = -errno;
	if (r == -ELOOP)
		return err_set(
			e, r,
			"a build without a sandbox needs its scratch '%s' outside of the store "
			"directory '%s'; put the state directory on the store's file system, or "
			"set 'sandbox = true'",
			b->s.scratch, b->s.real_store);
	return err_errno(
		e, r,
		"a build without a sandbox needs an overlay over '%s', which this kernel or "
		"file system refuses; set 'sandbox = true'",
		b->s.store_dir);
}

/* The topmost directory on the way to the scratch that the builder's id may not pass. */
static int find_cover(const char *scratch, char *ret, size_t size)
{
	size_t len = strlen(scratch);

	if (len + 1 > size)
		return -ENAMETOOLONG;
	for (size_t i = 1; i <= len; i++) {
		struct stat st;

		if (scratch[i] != '/' && scratch[i] != 0)
			continue;
		memcpy(ret, scratch, i);
		ret[i] = 0;
		if (stat(ret, &st) < 0)
			return -errno;
		if (!(st.st_mode & S_IXOTH))
			return 0;
	}
	return 0; /* the scratch itself */
}

static int make_chain(const char *from, const char *path)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	for (char *p = copy + strlen(from); *p;) {
		p += strspn(p, "/");
		p += strcspn(p, "/");
		char c = *p;

		*p = 0;
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = c;
	}
	return 0;
}

/* Hides the scratch (and what the builder could not pass on the way to it) behind a tmpfs in
 * which only the build directory is. */
static int cover_scratch(struct build *b, struct err *e)
{
	char cover[4096], source[64];
	size_t n;
	int r = find_cover(b->s.scratch, cover, sizeof(cover));

	if (r < 0)
		return err_errno(e, r, "looking at '%s'", b->s.scratch);
	n = strlen(cover);
	if (!strncmp(b->s.store_dir, cover, n) && (b->s.store_dir[n] == '/' || !b->s.store_dir[n]))
		return err_set(
			e, -EACCES,
			"a build without a sandbox cannot pass the directory '%s' on its way to "
			"the store; give it mode 0711, or set 'sandbox = true'",
			cover);
	if (mount("airplant", cover, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m") < 0)
		return err_errno(e, -errno, "covering '%s'", cover);
	/* Else it is one that the core has made. */
	if (!strncmp(b->s.build_dir, cover, n) && b->s.build_dir[n] == '/')
		r = make_chain(cover, b->s.build_dir);
	if (r < 0)
		return err_errno(e, r, "creating '%s'", b->s.build_dir);
	snprintf(source, sizeof(source), "/proc/self/fd/%d/build", b->top);
	if (mount(source, b->s.build_dir, NULL, MS_BIND, NULL) < 0)
		return err_errno(e, -errno, "bind mount to '%s' failed", b->s.build_dir);
	return 0;
}

/* Some outputs may be there already (not all, or nothing would be built): the builder makes them
 * again, so it must not find them. This only marks them as gone in the overlay. */
static int hide_outputs(struct build *b, struct err *e)
{
	_cleanup_close_ int store = open(b->s.store_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (store < 0)
		return err_errno(e, -errno, "opening '%s'", b->s.store_dir);
	for (size_t i = 0; i < b->s.outputs.n; i++) {
		int r = rm_tree_at(store, b->s.outputs.v[i].path);

		if (r < 0)
			return err_errno(e, r, "hiding the earlier '%s/%s' from the builder",
					 b->s.store_dir, b->s.outputs.v[i].path);
	}
	return 0;
}

int host_enter(struct build *b, struct err *e)
{
	int r = cover_store(b, e);

	if (r == 0)
		r = hide_outputs(b, e);

	if (r == 0)
		r = cover_scratch(b, e);
	if (r < 0)
		return r;
	if (mount("none", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return err_errno(e, -errno, "mounting /proc for a build without a sandbox");
	if (chdir(b->s.build_dir) < 0)
		return err_errno(e, -errno, "changing into " Q_PATH, b->s.build_dir);
	return 0;
}
