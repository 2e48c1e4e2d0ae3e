/* Opening the store. See store_open.h. Linked by airplantd.
 *
 * It never changes the owner of a directory that exists, and its mode only to close it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/beside.h"
#include "core/core.h"
#include "core/durable.h"
#include "core/gc.h"
#include "core/jail.h"
#include "core/place.h"
#include "core/reserve.h"
#include "core/sessions.h"
#include "core/spool.h"
#include "core/store_open.h"

enum { LOCK_TRIES = 100 /* two seconds */, OPEN_TRIES = 10 };

/* Upstream's rule: a symlink on the way would make store paths ambiguous. */
static int refuse_symlinks(const char *store_dir, struct err *e)
{
	_cleanup_free_ char *path = strdup(store_dir);
	const char *ignore = getenv("NIX_IGNORE_SYMLINK_STORE");

	if (!path)
		return err_set(e, -ENOMEM, "out of memory");
	if (ignore && !strcmp(ignore, "1"))
		return 0;
	while (*path) {
		struct stat st;

		if (lstat(path, &st) < 0)
			return err_errno(e, -errno, "getting status of '%s'", path);
		if (S_ISLNK(st.st_mode))
			return err_set(
				e, -ELOOP,
				"the path '%s' is a symlink; this is not allowed for the Nix "
				"store and its parent directories",
				path);
		*strrchr(path, '/') = 0;
	}
	return 0;
}

/* Where everybody can make names, anybody can take another's (CVE-2019-17365: Nix before 2.3.1 left
 * profiles/per-user so). */
static int close_dir(const char *path, mode_t now, mode_t shut, struct err *e)
{
	const mode_t mode = now & 07777 & ~shut;

	if (!(now & shut) || chmod(path, mode) == 0)
		return 0;
	return err_set(e, -errno,
		       "the mode of '%s' lets other users do more there than they may, and the "
		       "daemon cannot change it (%s): as root, 'chmod %04o' it",
		       path, strerror(errno), mode);
}

static int make_dir(const char *top, const char *sub, mode_t mode, mode_t shut, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;
	int r;

	if (asprintf(&path, "%s%s", top, sub) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return close_dir(path, st.st_mode, shut, e);
	r = mkdir_p(path, 0755);
	if (r < 0)
		return err_errno(e, r, "creating directory '%s'", path);
	if (mode != 0755 && chmod(path, mode) < 0)
		return err_errno(e, -errno, "changing the mode of '%s'", path);
	return 0;
}

static int make_dirs(struct core *core, struct err *e)
{
	const struct {
		const char *top, *sub;
		mode_t mode, shut; /* bits that an existing one may not have */
	} dirs[] = {
		{ core->store_dir, "", 01775 },
		{ core->store_dir, "/.links", 0755 },
		{ core->state_dir, "", 0755, 002 },
		/* Private: who can open the database for reading can lock it against its writer. */
		{ core->state_dir, "/db", 0700, 077 },
		{ core->state_dir, "/gcroots", 0755, 002 },
		{ core->state_dir, "/gcroots/auto", 0755, 022 },
		{ core->state_dir, "/gcroots/per-user", 0755, 022 },
		{ core->state_dir, "/profiles", 0755, 002 },
		{ core->state_dir, "/profiles/per-user", 0755, 022 },
		{ core->state_dir, "/temproots", 0755, 022 },
		{ core->state_dir, "/gc-socket", 0755, 022 },
		{ core->state_dir, "/airplant", 0755, 022 },
		{ core->log_dir, "", 0755 },
	};

	for (size_t i = 0; i < ELEMENTS(dirs); i++) {
		int r = make_dir(dirs[i].top, dirs[i].sub, dirs[i].mode, dirs[i].shut, e);

		if (r < 0)
			return r;
	}
	return 0;
}

static int identify(const struct core *core, struct store_identity *ret)
{
	char db[4096];
	const char *paths[] = { core->store_dir, core->state_dir, db };
	struct stat st;

	if ((size_t)snprintf(db, sizeof(db), "%s/db/db.sqlite", core->state_dir) >= sizeof(db))
		return -ENAMETOOLONG;
	for (size_t i = 0; i < ELEMENTS(paths); i++) {
		if (stat(paths[i], &st) < 0)
			return -errno;
		ret->dev[i] = st.st_dev;
		ret->ino[i] = st.st_ino;
	}
	return 0;
}

int store_own_dir(const struct core *core)
{
	char path[4096];
	int fd;

	if ((size_t)snprintf(path, sizeof(path), "%s/airplant", core->state_dir) >= sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int store_lock(struct core *core, struct err *e)
{
	const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
	_cleanup_free_ char *dir = NULL, *path = NULL;
	int r;

	if (asprintf(&dir, "%s/airplant", core->state_dir) < 0 ||
	    asprintf(&path, "%s/daemon.lock", dir) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	r = mkdir_p(dir, 0755);
	if (r < 0)
		return err_errno(e, r, "creating directory '%s'", dir);
	close_fdp(&core->lock_fd);
	core->lock_fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (core->lock_fd < 0)
		return err_errno(e, -errno, "opening '%s'", path);
	/* The children of one that was killed hold it until they are gone, which they soon are. */
	for (int i = 0; flock(core->lock_fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (i == LOCK_TRIES || (errno != EWOULDBLOCK && errno != EINTR))
			return err_set(e, -EADDRINUSE, "another airplantd serves '%s'",
				       core->state_dir);
		(void)nanosleep(&pause, NULL); /* shorter is fine */
	}
	return 0;
}

int store_check_owner(const struct core *core, struct err *e)
{
	struct stat st;

	if (faccessat(core->store_fd, ".", W_OK, AT_EACCESS) == 0 || fstat(core->store_fd, &st) < 0)
		return 0;
	return err_set(
		e, -EACCES,
		"the store '%s' belongs to uid %u now, and the daemon may not write to it. A "
		"nix command that root runs without the daemon takes the store for the "
		"group 'build-users-group'. As root, 'chown %u:%u %s', and keep root's "
		"commands to the daemon: 'store = daemon' in nix.conf",
		core->store_dir, (unsigned int)st.st_uid, (unsigned int)core->uid,
		(unsigned int)core->gid, core->store_dir);
}

static void watch_owner(struct core *core)
{
	_cleanup_err_ struct err e = {};
	bool owned = core->owns_store;
	struct stat st;

	if (fstat(core->store_fd, &st) < 0)
		return;
	core->owns_store = st.st_uid == core->uid;
	if (owned && store_check_owner(core, &e) < 0)
		log_error("%s", err_msg(&e));
}

void store_mend(struct core *core)
{
	static const char *const watched[] = { "gcroots/auto", "profiles/per-user" };
	_cleanup_err_ struct err e = {};

	watch_owner(core);
	for (size_t i = 0; i < ELEMENTS(watched); i++) {
		char path[4096];

		if ((size_t)snprintf(path, sizeof(path), "%s/%s", core->state_dir, watched[i]) >=
		    sizeof(path))
			return;
		if (access(path, F_OK) == 0)
			continue;
		if (make_dirs(core, &e) < 0)
			log_warn("%s", err_msg(&e));
		return;
	}
}

int store_changed(const struct core *core)
{
	struct store_identity now;

	if (identify(core, &now) < 0)
		return 1;
	return memcmp(now.dev, core->identity.dev, sizeof(now.dev)) ||
	       memcmp(now.ino, core->identity.ino, sizeof(now.ino));
}

/* A store that the stock daemon has, or had: nothing is made or changed in it before its owner says
 * so. */
static int refuse_anothers(const struct core *core, struct err *e)
{
	char db[4096];
	struct stat st;

	if ((size_t)snprintf(db, sizeof(db), "%s/db", core->state_dir) >= sizeof(db))
		return err_errno(e, -ENAMETOOLONG, "looking at '%s'", core->state_dir);
	if (core->uid == 0 || stat(db, &st) < 0 || st.st_uid == core->uid)
		return 0;
	return err_set(e, -EACCES,
		       "the store's database '%s' belongs to uid %u, not to the daemon's user: as "
		       "root, 'airplant switch --to airplant' gives the store to it",
		       db, (unsigned int)st.st_uid);
}

static int open_all(struct core *core, struct err *e)
{
	_cleanup_free_ char *db_dir = NULL;
	int r = refuse_anothers(core, e);

	r = r ? r : make_dirs(core, e);
	if (r == 0)
		r = refuse_symlinks(core->store_dir, e);
	if (r < 0)
		return r;
	if (asprintf(&db_dir, "%s/db", core->state_dir) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	core->store_fd = open(core->store_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (core->store_fd < 0)
		return err_errno(e, -errno, "opening the store '%s'", core->store_dir);
	r = db_open(db_dir, DB_WRITE, core->store_dir, core->settings.fsync_metadata, &core->db, e);
	if (r != 0)
		return r < 0 ? r : -EINVAL;
	db_on_blocked(core->db, sessions_end_blocker, core);
	if (strv_has(&core->settings.experimental_features, "ca-derivations")) {
		r = db_realisations_create(core->db, e);
		if (r < 0)
			return r;
	}
	r = identify(core, &core->identity);
	if (r < 0)
		return err_errno(e, r, "looking at the store '%s'", core->store_dir);
	core->owns_store = true;
	watch_owner(core);
	core->served_others = false;
	reserve_make(core);
	r = spool_open(core, &core->spool, e);
	r = r ? r : beside_open(core, &core->beside, e);
	if (r == 0)
		r = durable_open(core, &core->durable, e);
	if (r == 0)
		r = jail_new(core, &core->jail, e);
	return r;
}

/* Somebody may be deleting it just now: who waits for the socket's file before he does so, or does
 * it twice. */
static bool was_deleted(const struct core *core, ino_t state_ino, int r)
{
	struct stat st;

	return r == -ENOENT || stat(core->state_dir, &st) < 0 || st.st_ino != state_ino ||
	       (core->store_fd >= 0 && fstat(core->store_fd, &st) == 0 && st.st_nlink == 0);
}

int store_open(struct core *core, struct err *e)
{
	static const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
	int r = 0;

	for (int i = 0; i < OPEN_TRIES; i++) {
		struct stat st = {};
		bool again;

		r = i > 0 ? store_lock(core, e) : 0;
		(void)stat(core->state_dir, &st); /* store_lock has made it */
		r = r ? r : open_all(core, e);
		if (r == 0)
			return 0;
		again = was_deleted(core, st.st_ino, r);
		store_close(core, false);
		if (!again)
			return r;
		log_warn("the store or its state was deleted while it was opened: %s", err_msg(e));
		(void)nanosleep(&pause, NULL); /* a shorter one is as good */
	}
	return r;
}

void store_close(struct core *core, bool clean)
{
	jail_free(TAKE_PTR(core->jail));
	if (clean)
		durable_close(core->durable);
	else
		durable_abandon(core->durable);
	core->durable = NULL;
	spool_close(TAKE_PTR(core->spool));
	if (core->db)
		db_close(TAKE_PTR(core->db));
	beside_close(TAKE_PTR(core->beside));
	close_fdp(&core->store_fd);
}

int store_reopen(struct core *core, struct err *e)
{
	log_warn("the store or its state was deleted and made anew: opening it again");
	/* What waits belongs to the store that is gone; its callers are told by the failing commit.
	 */
	place_flush(core->place);
	gc_store_changed(core->gc);
	store_close(core, false);
	core->generation++;
	return store_lock(core, e) < 0 ? e->code : store_open(core, e);
}
