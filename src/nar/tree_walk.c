/* See tree_walk.h. */
#include "nar/tree_walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "nar/tree.h"

enum { LISTING_SIZE = 32 * 1024 };

const struct timespec tree_times[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };

void tree_walk_pop(struct tree_walk *w)
{
	struct tree_level *l = &w->v[--w->depth];

	close(l->fd);
	free(l->name);
	free(l->blob);
	free(l->names);
	memset(l, 0, sizeof(*l));
}

void tree_walk_done(struct tree_walk *w)
{
	while (w->depth)
		tree_walk_pop(w);
	free(w->listing);
	w->listing = NULL;
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Reads all entries of a directory into one blob. */
static int list(struct tree_walk *w, struct tree_level *l, size_t *ret_len)
{
	size_t len = 0, cap = 0;

	for (;;) {
		ssize_t got = getdents64(l->fd, w->listing, LISTING_SIZE);

		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		/* Names make up only a part of a listing, so this is always enough. */
		if (cap - len < (size_t)got) {
			size_t want = (cap ? cap * 2 : 1024) + (size_t)got;
			char *p = realloc(l->blob, want);

			if (!p)
				return -ENOMEM;
			l->blob = p;
			cap = want;
		}
		for (ssize_t off = 0; off < got;) {
			struct dirent64 *d = (struct dirent64 *)(w->listing + off);
			size_t n = strlen(d->d_name);

			off += d->d_reclen;
			if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
				continue;
			l->blob[len] = (char)d->d_type;
			memcpy(l->blob + len + 1, d->d_name, n + 1);
			len += n + 2;
			l->n++;
		}
	}
	*ret_len = len;
	return 0;
}

static int list_sorted(struct tree_walk *w, struct tree_level *l)
{
	size_t len = 0, i = 0;
	int r = list(w, l, &len);

	if (r < 0 || l->n == 0)
		return r;
	l->names = calloc(l->n, sizeof(*l->names));
	if (!l->names)
		return -ENOMEM;
	for (char *p = l->blob; p < l->blob + len; p += strlen(p) + 1)
		l->names[i++] = ++p;
	qsort(l->names, l->n, sizeof(*l->names), by_bytes);
	return 0;
}

int tree_walk_push(struct tree_walk *w, int fd, const char *name, struct err *e)
{
	struct tree_level *l;
	int r;

	if (w->depth == NAR_MAX_DEPTH) {
		close(fd);
		r = tree_bad(w, name, e, "path '%s' exceeds maximum NAR directory depth of 64");
		return r;
	}
	l = &w->v[w->depth];
	*l = (struct tree_level){ .fd = fd, .name = strdup(name) };
	if (!w->listing)
		w->listing = malloc(LISTING_SIZE);
	w->depth++;
	if (!l->name || !w->listing)
		return -ENOMEM;
	r = list_sorted(w, l);
	return r < 0 ? err_errno(e, r, "reading directory '%s'", name) : 0;
}

const char *tree_walk_next(struct tree_walk *w, unsigned char *ret_type)
{
	struct tree_level *l = &w->v[w->depth - 1];
	const char *name;

	if (l->next == l->n)
		return NULL;
	name = l->names[l->next++];
	*ret_type = (unsigned char)name[-1];
	return name;
}

char *tree_walk_path(const struct tree_walk *w, const char *name)
{
	_cleanup_buf_ struct buf b = BUF_INIT(NAR_MAX_DEPTH * 512);

	for (size_t i = 0; i < w->depth; i++)
		if (!w->v[i].name || buf_append_str(&b, w->v[i].name) < 0 ||
		    buf_append_char(&b, '/') < 0)
			return NULL;
	if (buf_append_str(&b, name) < 0)
		return NULL;
	return buf_take_str(&b);
}

int tree_bad(const struct tree_walk *w, const char *name, struct err *e, const char *fmt)
{
	_cleanup_free_ char *path = tree_walk_path(w, name);

	return err_set(e, TREE_BAD, fmt, path ? path : name);
}

int tree_errno(const struct tree_walk *w, const char *name, struct err *e, int code,
	       const char *what)
{
	_cleanup_free_ char *path = tree_walk_path(w, name);

	return err_errno(e, code, "%s '%s'", what, path ? path : name);
}

int tree_readlink(int dirfd, const char *name, char *ret)
{
	ssize_t n = readlinkat(dirfd, name, ret, NAR_TARGET_MAX + 1);

	if (n < 0)
		return -errno;
	if (n > NAR_TARGET_MAX)
		return -ENAMETOOLONG;
	ret[n] = 0;
	return 0;
}

int tree_open(int dirfd, const char *name, int extra_flags)
{
	int fd = openat(dirfd, name,
			O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | extra_flags);

	return fd < 0 ? -errno : fd;
}
