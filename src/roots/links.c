/* Links in the state directory and where they lead. The looker's; see tracer.h.
 *
 * Nothing outside of the state directory is opened: homes are asked by readlink alone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "ipc/roots.h"
#include "roots/tracer.h"

enum { CHAIN_MAX = 40 }; /* as the kernel's own limit */

/* `dir` component by component: whoever owns one of them must not be able to send us elsewhere. */
static int open_below(const char *state, const char *dir)
{
	char name[NAME_MAX + 1];
	int fd = openat(AT_FDCWD, state, O_PATH | O_DIRECTORY | O_CLOEXEC);

	while (fd >= 0) {
		_cleanup_close_ int parent = fd;
		size_t len = strcspn(dir, "/");

		if (len > NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(name, dir, len);
		name[len] = 0;
		dir += len;
		fd = openat(parent, name,
			    (*dir ? O_PATH : O_RDONLY) | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 || !*dir++)
			break;
	}
	return fd < 0 ? -errno : fd;
}

/* The base name in a text that leads into the store, else an empty one. */
static void base_of(const struct looker *l, const char *text, char ret[BASE_MAX + 1])
{
	size_t len = strlen(l->t->store), n = 0;

	if (!strncmp(text, l->t->store, len) && text[len] == '/')
		n = base_length(text + len + 1, strlen(text + len + 1));
	memcpy(ret, n ? text + len + 1 : "", n);
	ret[n] = 0;
}

/* Relative to the directory that the link `from` is in. False beyond what a path can name. */
static bool resolve(const char *from, const char *text, char ret[PATH_MAX])
{
	int dir = text[0] == '/' ? 0 : (int)(strrchr(from, '/') + 1 - from);

	return snprintf(ret, PATH_MAX, "%.*s%s", dir, from, text) < PATH_MAX;
}

/* From one link to the next until one leads into the store. Only where the first is missing is
 * the user's link gone; a later one that is missing may come back. */
static enum roots_link_state follow(const struct looker *l, const char *first,
				    char base[BASE_MAX + 1])
{
	char path[PATH_MAX], text[PATH_MAX], next[PATH_MAX];

	snprintf(path, sizeof(path), "%s", first);
	for (int i = 0; i < CHAIN_MAX; i++) {
		ssize_t n = readlinkat(AT_FDCWD, path, text, sizeof(text) - 1);

		if (n < 0 && (errno == ENOENT || errno == ENOTDIR))
			return i == 0 ? ROOTS_GONE : ROOTS_OTHER;
		if (n < 0)
			return errno == EINVAL || errno == ELOOP || errno == ENAMETOOLONG
				       ? ROOTS_OTHER
				       : ROOTS_UNKNOWN;
		text[n] = 0;
		base_of(l, text, base);
		if (base[0])
			return ROOTS_ALIVE;
		if (!resolve(path, text, next))
			return ROOTS_OTHER;
		memcpy(path, next, sizeof(path));
	}
	return ROOTS_OTHER;
}

static void look_at_link(struct looker *l, int fd, const char *name, const char *link, long next,
			 const char *dir)
{
	char full[2 * PATH_MAX], text[PATH_MAX], target[PATH_MAX], base[BASE_MAX + 1];
	char owner[16] = "-", go_on[PATH_MAX + 32], record[PATH_MAX + 1], state[2] = { 0 };
	ssize_t n = readlinkat(fd, name, text, sizeof(text) - 1);
	struct stat st;

	if (n < 0)
		return; /* gone, or no link any more */
	text[n] = 0;
	snprintf(full, sizeof(full), "%s/%s", l->t->state, link);
	base_of(l, text, base);
	if (base[0]) {
		forget_seen(l);
		(void)say_roots(l, text + strlen(l->t->store), strlen(text + strlen(l->t->store)),
				true, full);
		return;
	}
	/* From here on any step may take for ever. */
	snprintf(go_on, sizeof(go_on), "d%ld %s", next, dir);
	snprintf(record, sizeof(record), "%c%s", ROOTS_LINK, link);
	say_fields(l, SAY_STUCK, 6, go_on, record, "u", "-", text, "");
	if (l->blind || !resolve(full, text, target)) {
		state[0] = l->blind ? ROOTS_UNKNOWN : ROOTS_OTHER;
	} else {
		state[0] = (char)follow(l, target, base);
		if (fstatat(AT_FDCWD, target, &st, AT_SYMLINK_NOFOLLOW) == 0)
			snprintf(owner, sizeof(owner), "%u", st.st_uid);
	}
	if (state[0] == ROOTS_ALIVE)
		say_fields(l, ROOTS_ROOT, 2, base, target);
	say_fields(l, ROOTS_LINK, 5, link, state, owner, text, state[0] == ROOTS_ALIVE ? base : "");
}

static void look_at_entry(struct looker *l, int fd, const struct dirent *de, const char *dir,
			  bool *ret_left)
{
	char link[PATH_MAX], full[2 * PATH_MAX];
	struct stat st;

	if ((size_t)snprintf(link, sizeof(link), "%s/%s", dir, de->d_name) >= sizeof(link) ||
	    fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return; /* beyond what any path can name, or gone */
	if (S_ISDIR(st.st_mode)) {
		say(l, SAY_NEXT, "d%ld %s", (long)de->d_off, dir);
		say(l, SAY_NEXT, "d0 %s", link);
		*ret_left = true;
	} else if (S_ISLNK(st.st_mode)) {
		look_at_link(l, fd, de->d_name, link, (long)de->d_off, dir);
	} else if (S_ISREG(st.st_mode) &&
		   base_length(de->d_name, strlen(de->d_name)) == strlen(de->d_name)) {
		snprintf(full, sizeof(full), "%s/%s", l->t->state, link);
		forget_seen(l);
		(void)say_roots(l, strrchr(full, '/'), strlen(strrchr(full, '/')), true, full);
	}
}

/* Whoever meets a directory leaves, to come back later: what is to be done grows with the depth of
 * the tree, not with its size. */
void look_at_links(struct looker *l, const char *dir, long off)
{
	int fd = open_below(l->t->state, dir), r = fd;
	bool left = false;
	struct dirent *de;
	DIR *d;

	if (r == -ENOENT || r == -ENOTDIR)
		return; /* swapped for something else meanwhile, or never made */
	if (r < 0 && (l->t->own_user || !strchr(dir, '/'))) {
		say_failed(l, dir, r);
		return;
	}
	if (r < 0) {
		say_fields(l, ROOTS_LINK, 5, dir, "u", "-", "", "");
		return;
	}
	d = fdopendir(fd);
	if (!d) {
		say_failed(l, dir, -errno);
		close(fd);
		return;
	}
	if (off)
		seekdir(d, off);
	while (!left && (errno = 0, de = readdir(d)))
		if (strcmp(de->d_name, ".") && strcmp(de->d_name, ".."))
			look_at_entry(l, dirfd(d), de, dir, &left);
	if (!left && errno && errno != ENOENT)
		say_failed(l, dir, -errno);
	closedir(d);
}
