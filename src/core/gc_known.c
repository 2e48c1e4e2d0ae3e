/* What indirect roots led to. A link whose place cannot be looked at (a home on a file server that
 * is down, a private home where nobody may read it) keeps what it led to when that was last seen.
 * Kept in <state>/airplant/known-roots; the root is the link's name below the state directory.
 *
 *   file = ( link NUL base NUL )*      an empty base: who made the link held nothing
 *
 * It never waits for a place that a user names, follows no link, and removes none outside
 * gcroots/auto. Linked by airplantd. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/gc_int.h"
#include "core/known.h"
#include "ipc/roots.h"

enum { KNOWN_MAX = 256 << 20 }; /* bytes of the file */
/* Bases, of one link that cannot be looked at and of all: any client can make such links. */
enum { NOTED_MAX = 64 * 1024, NOTED_MAX_ALL = 256 * 1024 };

static const char in_auto[] = "gcroots/auto/";

static void forget(struct gc *gc, const char *link)
{
	struct strv *bases = smap_remove(&gc->known, link);

	if (bases)
		strv_done(bases);
	free(bases);
}

/* `base` "": nothing yet. */
static int add(struct gc *gc, const char *link, const char *base)
{
	struct strv *bases = smap_get(&gc->known, link);

	if (!bases) {
		bases = calloc(1, sizeof(*bases));
		if (!bases || smap_put(&gc->known, link, bases) < 0) {
			free(bases);
			return -ENOMEM;
		}
	}
	return *base ? strv_add(bases, base) : 0;
}

void gc_known_free(struct gc *gc)
{
	struct smap_entry *p;

	for (size_t i = 0; (p = smap_next(&gc->known, &i));) {
		strv_done(p->value);
		free(p->value);
	}
	smap_done(&gc->known);
	gc->known = (struct smap){};
	gc->known_loaded = false;
}

static int open_dir(const struct gc *gc, const char *sub)
{
	char path[4096];
	int fd;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", gc->core->state_dir, sub) >= sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int load(struct gc *gc, struct err *e)
{
	_cleanup_close_ int dir = -1;
	_cleanup_free_ char *text = NULL;
	size_t len = 0, at = 0;
	int r;

	if (gc->known_loaded)
		return 0;
	dir = open_dir(gc, "airplant");
	r = dir < 0 ? dir : read_file_at(dir, "known-roots", KNOWN_MAX, &text, &len);
	if (r == -ENOENT)
		r = 0;
	while (r == 0 && at < len) {
		const char *link = text + at, *base = link + strnlen(link, len - at) + 1;
		struct store_path path;

		/* Ours, and written whole: anything else is a damaged file. */
		if (base >= text + len || (*base && store_path_parse_base(base, &path, NULL) != 0))
			r = -EBADMSG;
		else
			r = add(gc, link, base);
		at = (size_t)(base - text) + strlen(base) + 1;
	}
	if (r < 0)
		return err_errno(e, r, "reading '%s/airplant/known-roots'", gc->core->state_dir);
	gc->known_loaded = true;
	return 0;
}

static int print(const struct gc *gc, struct buf *b)
{
	struct smap_entry *p;
	int r = 0;

	for (size_t i = 0; r == 0 && (p = smap_next(&gc->known, &i));) {
		const struct strv *bases = p->value;
		size_t k = 0;

		do {
			const char *base = bases->n ? bases->v[k] : "";

			r = buf_append(b, p->key, strlen(p->key) + 1);
			if (r == 0)
				r = buf_append(b, base, strlen(base) + 1);
		} while (r == 0 && ++k < bases->n);
	}
	return r;
}

static int save(const struct gc *gc)
{
	_cleanup_buf_ struct buf b = BUF_INIT(KNOWN_MAX);
	_cleanup_close_ int dir = open_dir(gc, "airplant"), fd = -1;
	int r = dir < 0 ? dir : print(gc, &b);

	if (r < 0)
		return r;
	fd = openat(dir, "known-roots.new", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return -errno;
	r = write_full(fd, b.data, b.len);
	if (r == 0 && renameat(dir, "known-roots.new", dir, "known-roots") < 0)
		r = -errno;
	return r;
}

/* True when something changed. */
static int remember(struct gc *gc, const char *link, const char *base, bool *changed)
{
	const struct strv *had = smap_get(&gc->known, link);

	if (had && had->n == 1 && !strcmp(had->v[0], base))
		return 0;
	forget(gc, link);
	*changed = true;
	return add(gc, link, base);
}

/* As upstream: a link in gcroots/auto to what the user has deleted. It is looked at once more,
 * since he may have made it anew. */
static void remove_stale(struct gc *gc, const struct traced_link *l)
{
	const char *name = l->link + sizeof(in_auto) - 1;
	_cleanup_close_ int dir = open_dir(gc, "gcroots/auto");
	char target[4096];
	struct stat st;
	ssize_t n;

	if (dir < 0 || strchr(name, '/'))
		return;
	n = readlinkat(dir, name, target, sizeof(target) - 1);
	if (n <= 0)
		return;
	target[n] = 0;
	if (strcmp(target, l->target) != 0 || fstatat(dir, target, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return;
	if (unlinkat(dir, name, 0) == 0)
		gc_note(gc, 3, "removing stale link from '%s/%s' to '%s'", gc->core->state_dir,
			l->link, target);
}

static int take_unknown(struct gc *gc, const struct traced_link *l, struct err *e)
{
	const struct strv *bases = smap_get(&gc->known, l->link);

	for (size_t i = 0; bases && i < bases->n; i++)
		gc_root(gc, bases->v[i]);
	if (bases)
		return 0;
	if (strncmp(l->link, in_auto, sizeof(in_auto) - 1) == 0)
		return err_set(
			e, GC_REFUSED,
			"garbage is not collected: the root '%s/%s' leads to '%s', which "
			"cannot be looked at, and nothing is known of what it led to before. "
			"Make it readable again, or remove the root",
			gc->core->state_dir, l->link, l->target);
	gc_note(gc, 1,
		"the link '%s/%s' leads to '%s', which cannot be looked at: it keeps nothing",
		gc->core->state_dir, l->link, l->target);
	return 0;
}

static int take_link(struct gc *gc, const struct traced_link *l, bool *changed, struct err *e)
{
	bool is_auto = strncmp(l->link, in_auto, sizeof(in_auto) - 1) == 0;
	int r = 0;

	if (l->state == ROOTS_UNKNOWN)
		return take_unknown(gc, l, e);
	if (l->state == ROOTS_ALIVE) {
		r = remember(gc, l->link, l->base, changed);
		return r < 0 ? err_errno(e, r, "remembering roots") : 0;
	}
	if (smap_has(&gc->known, l->link)) {
		forget(gc, l->link);
		*changed = true;
	}
	if (l->state == ROOTS_GONE && is_auto && gc_deletes(gc))
		remove_stale(gc, l);
	return 0;
}

/* What is not there any more needs no memory. */
static void forget_others(struct gc *gc, const struct traced *t, bool *changed)
{
	_cleanup_smap_ struct smap seen = {};
	struct smap_entry *p;

	for (size_t i = 0; i < t->n_links; i++)
		if (smap_put(&seen, t->links[i].link, gc) < 0)
			return; /* later then */
	for (size_t i = 0; (p = smap_next(&gc->known, &i));) {
		if (smap_has(&seen, p->key))
			continue;
		strv_done(p->value);
		free(p->value);
		(void)smap_remove(&gc->known, p->key);
		*changed = true;
	}
}

int gc_known_take(struct gc *gc, const struct traced *t, struct err *e)
{
	bool changed = false;
	int r = load(gc, e);

	for (size_t i = 0; r == 0 && i < t->n_links; i++)
		r = take_link(gc, &t->links[i], &changed, e);
	if (r == 0)
		forget_others(gc, t, &changed);
	if (changed) {
		int saved = save(gc);

		if (saved < 0)
			log_warn("writing '%s/airplant/known-roots': %s", gc->core->state_dir,
				 strerror(-saved));
	}
	return r;
}

/* Is it there, as far as can be told without asking a disk, a server or a user's process, any of
 * which may never answer? A link that was made just now is remembered by the kernel. */
static bool is_seen(const char *path)
{
	struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
				.resolve = RESOLVE_CACHED };
	_cleanup_close_ int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

	return fd >= 0;
}

static size_t count_all(const struct gc *gc)
{
	struct smap_entry *p;
	size_t n = 0;

	for (size_t i = 0; (p = smap_next(&gc->known, &i));)
		n += 1 + ((const struct strv *)p->value)->n;
	return n;
}

/* A link that cannot be read from here will perhaps never be: what its maker holds is noted. */
int known_note(struct core *core, const char *name, const char *target, const struct smap *held)
{
	_cleanup_free_ char *link = NULL;
	struct gc *gc = core->gc;
	struct smap_entry *p;
	int r;

	if (asprintf(&link, "%s%s", in_auto, name) < 0) {
		link = NULL;
		return -ENOMEM;
	}
	r = load(gc, NULL);
	if (r < 0 || is_seen(target))
		return r;
	forget(gc, link); /* he has made it anew */
	if (held->n > NOTED_MAX || count_all(gc) + held->n >= NOTED_MAX_ALL)
		return -ENOBUFS;
	r = add(gc, link, "");
	for (size_t i = 0; r == 0 && (p = smap_next(held, &i));)
		r = add(gc, link, p->key);
	return r == 0 ? save(gc) : r;
}
