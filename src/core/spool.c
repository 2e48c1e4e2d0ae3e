/* The spool: where sessions and builds put things down before they are moved into the store. See
 * spool.h.
 *
 * It never follows a symlink below its own directory, and never deletes by path.
 * Linked by airplantd. */
#include "core/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/strv.h"
#include "core/core.h"
#include "core/trash.h"

/* Empty directories of sessions are used again: making and removing one costs more than all the
 * rest of a short session. */
struct spool {
	struct core *core;
	char *dir;
	int fd, lost_fd;
	char *lost_dir;
	struct strv leftovers; /* builds of an earlier life that could not be moved to `lost` yet */
	uint64_t next; /* number of the next directory; names are never used twice in one life */
};

const char *spool_dir(const struct spool *s)
{
	return s->dir;
}

static int same_mount(const char *a, const char *b)
{
	struct statx x, y;

	if (statx(AT_FDCWD, a, 0, STATX_MNT_ID, &x) < 0 ||
	    statx(AT_FDCWD, b, 0, STATX_MNT_ID, &y) < 0)
		return -errno;
	return x.stx_mnt_id == y.stx_mnt_id && x.stx_dev_major == y.stx_dev_major &&
	       x.stx_dev_minor == y.stx_dev_minor;
}

/* Into `lost`, under a name that is not taken. */
static int lose(struct spool *s, const char *name)
{
	char fresh[32];
	int r;

	do {
		snprintf(fresh, sizeof(fresh), "%llu", (unsigned long long)s->next++);
		r = renameat2(s->fd, name, s->lost_fd, fresh, RENAME_NOREPLACE) < 0 ? -errno : 0;
	} while (r == -EEXIST);
	return r == -ENOENT ? 0 : r;
}

int spool_lose_leftovers(struct spool *s)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->leftovers.n; i++)
		r = lose(s, s->leftovers.v[i]);
	if (r == 0)
		strv_done(&s->leftovers);
	return r;
}

static int drop_leftovers(struct spool *s)
{
	_cleanup_close_ int fd = openat(s->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;
	int r = 0;

	if (!d)
		return -errno;
	fd = -1;
	/* What cannot be moved (a full disk) stays where it is: names are never used twice, so it
	 * is in nobody's way, and the next start tries again. */
	while ((de = readdir(d))) {
		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..") ||
		    !strcmp(de->d_name, "trash") || !strcmp(de->d_name, "lost"))
			continue;
		if (de->d_name[0] == 'b') { /* clean.c sees to them */
			r = strv_add(&s->leftovers, de->d_name);
			if (r < 0)
				break;
			continue;
		}
		r = trash_put_uncounted(s->core, s->fd, de->d_name);
		if (r < 0)
			log_warn("clearing '%s/%s': %s", s->dir, de->d_name, strerror(-r));
	}
	closedir(d);
	return r == -ENOMEM ? r : 0;
}

static char *choose_dir(struct core *core, struct err *e)
{
	char *dir = NULL;
	int same = same_mount(core->state_dir, core->store_dir);

	if (same < 0) {
		err_errno(e, same, "looking at '%s' and '%s'", core->state_dir, core->store_dir);
		return NULL;
	}
	if ((same ? asprintf(&dir, "%s/airplant/spool", core->state_dir)
		  : asprintf(&dir, "%s/" SPOOL_IN_STORE, core->store_dir)) < 0) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	return dir;
}

/* Opens it and makes sure that nobody else may write there. */
static int open_private(const char *dir, int *ret, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r = mkdir_p(dir, 0755);

	if (r < 0)
		return err_errno(e, r, "creating '%s'", dir);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, -errno, "opening '%s'", dir);
	if (st.st_uid != geteuid())
		return err_set(e, -EPERM, "the spool '%s' belongs to uid %u, not to the daemon",
			       dir, (unsigned int)st.st_uid);
	if (fchmod(fd, 0700) < 0)
		return err_errno(e, -errno, "changing the mode of '%s'", dir);
	*ret = TAKE_FD(fd);
	return 0;
}

static int open_lost(struct spool *s, struct err *e)
{
	if (asprintf(&s->lost_dir, "%s/lost", s->dir) < 0) {
		s->lost_dir = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	if (mkdirat(s->fd, "lost", 0700) < 0 && errno != EEXIST)
		return err_errno(e, -errno, "creating '%s'", s->lost_dir);
	s->lost_fd = openat(s->fd, "lost", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return s->lost_fd < 0 ? err_errno(e, -errno, "opening '%s'", s->lost_dir) : 0;
}

int spool_open(struct core *core, struct spool **ret, struct err *e)
{
	struct spool *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	s->core = core;
	s->fd = s->lost_fd = -1;
	s->dir = choose_dir(core, e);
	r = s->dir ? open_private(s->dir, &s->fd, e) : -EIO;
	if (r < 0)
		goto fail;
	r = trash_open(core, s->fd, s->dir, &core->trash, e);
	if (r < 0)
		goto fail;
	r = open_lost(s, e);
	if (r < 0)
		goto fail;
	r = drop_leftovers(s);
	if (r < 0) {
		err_errno(e, r, "clearing the spool '%s'", s->dir);
		goto fail;
	}
	*ret = s;
	return 0;
fail:
	spool_close(s);
	return r;
}

void spool_close(struct spool *s)
{
	if (!s)
		return;
	trash_close(TAKE_PTR(s->core->trash));
	close_fdp(&s->fd);
	close_fdp(&s->lost_fd);
	strv_done(&s->leftovers);
	free(s->lost_dir);
	free(s->dir);
	free(s);
}

static int open_sub(const struct spool *s, const char *name)
{
	return openat(s->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static int fresh_name(struct spool *s, char kind, char ret[static 40])
{
	for (;;) {
		snprintf(ret, 40, "%c-%llu", kind, (unsigned long long)s->next++);
		if (mkdirat(s->fd, ret, 0700) == 0)
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
}

int spool_make(struct spool *s, char kind, char **ret_path, int *ret_fd)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	char name[40];
	int r = fresh_name(s, kind, name);

	if (r < 0)
		return r;
	fd = open_sub(s, name);
	if (fd < 0)
		return -errno;
	if (asprintf(&path, "%s/%s", s->dir, name) < 0)
		return -ENOMEM; /* swept at the next start */
	*ret_path = TAKE_PTR(path);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* NULL: of an earlier store, whose spool is gone with it. */
static const char *name_of(const struct spool *s, const char *path)
{
	size_t len = strlen(s->dir);
	const char *name = path + len + 1;

	if (strncmp(path, s->dir, len) || path[len] != '/' || !*name || strchr(name, '/'))
		return NULL;
	return name;
}

const char *spool_lost_dir(const struct spool *s)
{
	return s->lost_dir;
}

int spool_lose(struct spool *s, const char *path)
{
	const char *name = name_of(s, path);

	return name ? lose(s, name) : 0;
}

bool spool_remove_empty(struct spool *s, const char *path)
{
	const char *name = name_of(s, path);

	return !name || unlinkat(s->fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT;
}

void spool_drop(struct spool *s, const char *path)
{
	const char *name = name_of(s, path);

	if (!name)
		return;
	if (unlinkat(s->fd, name, AT_REMOVEDIR) == 0)
		return;
	(void)trash_put_uncounted(s->core, s->fd, name); /* else the next start sweeps it */
}
