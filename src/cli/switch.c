/* airplant switch: hands a store over from the stock daemon to Airplant, or back. Run by root.
 *
 * The stock daemon is root, and can use a store whoever owns what is in it; Airplant is not, and
 * must own it all. So whoever owns the store's own directory has the store: it changes hands last
 * on the way to Airplant and first on the way back, and wherever this is killed, stock Nix can go
 * on with the store. Called again, it does what is left. Nothing is converted: the database is the
 * same, and older schemas are migrated by whoever opens them.
 *
 * It reads no foreign byte but names. See own.h for what it never does. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/cli.h"
#include "cli/idle.h"
#include "cli/own.h"
#include "conf/conf.h"

enum { TROUBLE = 2, WORKERS_MAX = 8, USERS_MAX = 4096 };
enum { OLDEST_SCHEMA = 6, NEWEST_SCHEMA = 10 };

struct handover {
	const struct cli_dirs *dirs;
	const char *user;
	bool to_stock, dry_run;
	int store, state, log; /* log: -1 when there is none */
	uid_t uid;	       /* Airplant's */
	gid_t gid;
	gid_t builders; /* the stock daemon's group of build users, or root's */
	uid_t *from;
	size_t n_from;
	struct own own;
};

/* ---- who is who ---- */

static int add_from(struct handover *h, uid_t uid)
{
	uid_t *v = h->n_from < USERS_MAX ? reallocarray(h->from, h->n_from + 1, sizeof(*h->from))
					 : NULL;

	if (!v)
		return -ENOMEM;
	h->from = v;
	h->from[h->n_from++] = uid;
	return 0;
}

/* What an interrupted build left behind belongs to its build user. */
static int find_builders(struct handover *h, const char *name, struct err *e)
{
	const struct group *gr = *name ? getgrnam(name) : NULL;
	int r = 0;

	h->builders = gr ? gr->gr_gid : 0;
	if (*name && !gr)
		fprintf(stderr, "airplant: the group '%s' (build-users-group) does not exist\n",
			name);
	for (char **m = gr ? gr->gr_mem : NULL; r == 0 && m && *m; m++) {
		const struct passwd *pw = getpwnam(*m);

		if (pw && pw->pw_uid != 0 && pw->pw_uid != h->uid)
			r = add_from(h, pw->pw_uid);
	}
	return r < 0 ? err_errno(e, r, "looking at the build users") : 0;
}

static int find_users(struct handover *h, struct err *e)
{
	_cleanup_(settings_done) struct settings s;
	const struct passwd *pw = getpwnam(h->user);
	int r;

	settings_init(&s);
	if (!pw || pw->pw_uid == 0)
		return err_set(e, -EINVAL,
			       "there is no user '%s' for Airplant to run as (--user NAME)",
			       h->user);
	h->uid = pw->pw_uid;
	h->gid = pw->pw_gid;
	r = settings_load(&s, h->dirs->conf, getenv("NIX_CONFIG"), NULL, NULL, e);
	r = r ? r : add_from(h, 0);
	return r ? r : find_builders(h, s.build_users_group ? s.build_users_group : "", e);
}

/* ---- may it be done now ---- */

static int open_top(const char *path, bool optional, int *ret, struct err *e)
{
	*ret = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (*ret >= 0 || (optional && errno == ENOENT))
		return 0;
	return err_errno(e, -errno, "opening '%s'", path);
}

static int check_schema(const struct handover *h, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	int r = read_file_at(h->state, "db/schema", 16, &text, NULL), n;

	if (r == -ENOENT)
		return err_set(e, r, "there is no Nix store database in '%s/db'", h->dirs->state);
	n = r < 0 ? 0 : atoi(text);
	if (n >= OLDEST_SCHEMA && n <= NEWEST_SCHEMA)
		return 0;
	return err_set(e, -EPROTONOSUPPORT,
		       "'%s/db/schema' says '%s': Airplant knows schemas %d to %d", h->dirs->state,
		       r < 0 ? "" : text, OLDEST_SCHEMA, NEWEST_SCHEMA);
}

static int check_idle(struct handover *h, struct err *e)
{
	int r = idle_check_socket(h->dirs->socket, e);

	r = r ? r : idle_lock(h->state, h->dirs->state, e);
	r = r ? r : idle_check_users(&h->uid, 1, e);
	return r ? r : idle_check_users(h->from, h->n_from, e);
}

static int prepare(struct handover *h, struct err *e)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int r;

	if (geteuid() != 0)
		return err_set(e, -EPERM, "files change their owners here: run this as root");
	r = find_users(h, e);
	r = r ? r : open_top(h->dirs->store, false, &h->store, e);
	r = r ? r : open_top(h->dirs->state, false, &h->state, e);
	r = r ? r : open_top(h->dirs->log, true, &h->log, e);
	if (!h->dry_run) /* which changes nothing, and may be asked for at any time */
		r = r ? r : check_idle(h, e);
	r = r ? r : check_schema(h, e);
	if (r)
		return r;
	h->own = (struct own){
		.from = h->to_stock ? &h->uid : h->from,
		.n_from = h->to_stock ? 1 : h->n_from,
		.uid = h->to_stock ? 0 : h->uid,
		.gid = h->to_stock ? 0 : h->gid,
		.keep_shared = !h->to_stock,
		.dry_run = h->dry_run,
		.n_workers = cpus < 1		  ? 1
			     : cpus > WORKERS_MAX ? WORKERS_MAX
						  : (unsigned int)cpus,
	};
	return own_init(&h->own);
}

/* ---- the store ---- */

static int below(struct handover *h, int top, const char *top_path, const char *sub, struct err *e)
{
	_cleanup_close_ int fd = open_beneath(top, sub, O_RDONLY | O_DIRECTORY, 0);
	char path[4096];

	if (fd < 0)
		return fd == -ENOENT ? 0 : err_errno(e, fd, "opening '%s/%s'", top_path, sub);
	snprintf(path, sizeof(path), "%s/%s", top_path, sub);
	(void)own_fd(&h->own, fd, path); /* told, and counted */
	return own_below(&h->own, fd, path, !strcmp(sub, ".links"), e);
}

/* Who owns this directory has the store. */
static int hand_over(struct handover *h, struct err *e)
{
	const uid_t uid = h->to_stock ? 0 : h->uid;
	const gid_t gid = h->to_stock ? h->builders : h->gid;
	struct stat st;

	if (fstat(h->store, &st) < 0)
		return err_errno(e, -errno, "looking at '%s'", h->dirs->store);
	if (st.st_uid == uid && st.st_gid == gid && (st.st_mode & 07777) == 01775)
		return 0;
	if (!h->dry_run && (fchown(h->store, uid, gid) < 0 || fchmod(h->store, 01775) < 0))
		return err_errno(e, -errno, "changing the owner of '%s'", h->dirs->store);
	h->own.count->changed++;
	return 0;
}

/* ---- the state directory: what a daemon writes, and nothing that is its users' ---- */

static const struct row {
	const char *sub;
	bool all;	    /* what is in it as well */
	mode_t ours, stock; /* 0: as it is */
} rows[] = {
	{ ".", false, 0, 0 },
	{ "db", true, 0700, 0755 },
	{ "gcroots", false, 0, 0 },
	{ "gcroots/auto", false, 0, 0 },
	{ "gcroots/per-user", false, 0755, 0755 },
	{ "profiles", false, 0, 0 },
	{ "profiles/per-user", false, 0755, 0755 },
	{ "temproots", true, 0, 0 },
	{ "gc-socket", true, 0, 0 },
	{ "daemon-socket", true, 0, 0 },
};

static int take_row(struct handover *h, const struct row *row, struct err *e)
{
	_cleanup_close_ int fd = open_beneath(h->state, row->sub, O_RDONLY | O_DIRECTORY, 0);
	const mode_t mode = h->to_stock ? row->stock : row->ours;
	char path[4096];

	if (fd < 0)
		return fd == -ENOENT
			       ? 0
			       : err_errno(e, fd, "opening '%s/%s'", h->dirs->state, row->sub);
	snprintf(path, sizeof(path), "%s/%s", h->dirs->state, row->sub);
	(void)own_fd(&h->own, fd, path); /* told, and counted */
	if (mode && !h->dry_run && fchmod(fd, mode) < 0)
		return err_errno(e, -errno, "changing the mode of '%s'", path);
	return row->all ? own_below(&h->own, fd, path, false, e) : 0;
}

static int take_file(struct handover *h, const char *name)
{
	_cleanup_close_ int fd = openat(h->state, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1)
		return 0;
	return own_fd(&h->own, fd, h->dirs->state);
}

static int take_state(struct handover *h, struct err *e)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTS(rows); i++)
		r = take_row(h, &rows[i], e);
	return r ? r : take_file(h, "gc.lock");
}

/* A directory that we made for a user is ours, with an access list entry for him: the stock daemon
 * gives it to him. */
static void give_to_user(struct handover *h, int parent, const char *name)
{
	const struct passwd *pw = getpwnam(name);
	_cleanup_close_ int fd =
		pw ? openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || st.st_uid != h->uid)
		return;
	h->own.count->changed++;
	if (h->dry_run)
		return;
	(void)fremovexattr(fd, "system.posix_acl_access"); /* none there: the same */
	(void)fremovexattr(fd, "system.posix_acl_default");
	if (fchmod(fd, 0755) < 0 || fchown(fd, pw->pw_uid, 0) < 0) {
		fprintf(stderr, "airplant: giving the directory '%s' to its user: %s\n", name,
			strerror(errno));
		h->own.count->failed++;
	}
}

static int give_user_dirs(struct handover *h, struct err *e)
{
	static const char *const parents[] = { "profiles/per-user", "gcroots/per-user" };

	for (size_t i = 0; h->to_stock && i < ELEMENTS(parents); i++) {
		int fd = open_beneath(h->state, parents[i], O_RDONLY | O_DIRECTORY, 0);
		struct dirent *de;
		DIR *d;

		if (fd == -ENOENT)
			continue;
		d = fd < 0 ? NULL : fdopendir(fd);
		if (!d) {
			close_fdp(&fd);
			return err_errno(e, fd < 0 ? fd : -errno, "opening '%s/%s'", h->dirs->state,
					 parents[i]);
		}
		while ((de = readdir(d)))
			if (de->d_name[0] != '.')
				give_to_user(h, dirfd(d), de->d_name);
		closedir(d);
	}
	return 0;
}

static int contents(struct handover *h, struct err *e)
{
	int r = below(h, h->store, h->dirs->store, ".links", e);

	r = r ? r : own_below(&h->own, h->store, h->dirs->store, false, e);
	return r || h->log < 0 ? r : below(h, h->log, h->dirs->log, ".", e);
}

static int hand_all_over(struct handover *h, struct err *e)
{
	int r = h->to_stock ? hand_over(h, e) : 0;

	r = r ? r : take_state(h, e);
	r = r ? r : give_user_dirs(h, e);
	r = r ? r : contents(h, e);
	if (r == 0 && h->own.count->failed)
		r = err_set(e, -EIO, "%llu of them could not be changed: try again",
			    (unsigned long long)h->own.count->failed);
	return r || h->to_stock ? r : hand_over(h, e);
}

/* ---- for people ---- */

static void report(const struct handover *h, uint64_t usec)
{
	const struct own_count *c = h->own.count;

	printf("%s: of %llu files and directories %llu %s (%.1f s)\n", h->dirs->store,
	       (unsigned long long)c->seen, (unsigned long long)c->changed,
	       h->dry_run ? "would change their owner" : "have a new owner", (double)usec / 1e6);
	if (c->shared)
		printf("%llu files with several names stay root's: they are used as before, and no "
		       "new ones are linked to them\n",
		       (unsigned long long)c->shared);
	if (h->dry_run)
		return;
	if (h->to_stock)
		puts("The store is the stock daemon's. Take 'store = daemon' out of nix.conf if it "
		     "is there, then:\n"
		     "  systemctl disable airplant.socket airplant.service\n"
		     "  systemctl enable --now nix-daemon.socket");
	else
		printf("The store belongs to '%s'. Put 'store = daemon' into nix.conf for root's "
		       "own "
		       "commands, then:\n"
		       "  systemctl disable nix-daemon.socket nix-daemon.service\n"
		       "  systemctl enable --now airplant-ids.socket airplant-roots.socket "
		       "airplant.socket\n",
		       h->user);
}

static int parse(struct handover *h, int argc, char **argv)
{
	static const struct option options[] = {
		{ "to", required_argument, NULL, 't' },
		{ "user", required_argument, NULL, 'u' },
		{ "dry-run", no_argument, NULL, 'n' },
		{ 0 },
	};
	const char *to = "";
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 't')
			to = optarg;
		else if (c == 'u')
			h->user = optarg;
		else if (c == 'n')
			h->dry_run = true;
		else
			return -EINVAL;
	}
	h->to_stock = !strcmp(to, "stock");
	if (optind == argc && (h->to_stock || !strcmp(to, "airplant")))
		return 0;
	fputs("usage: airplant switch --to airplant|stock [--user NAME] [--dry-run]\n", stderr);
	return -EINVAL;
}

int cli_switch(const struct cli_dirs *dirs, int argc, char **argv)
{
	struct handover h = {
		.dirs = dirs, .user = "airplant", .store = -1, .state = -1, .log = -1
	};
	_cleanup_err_ struct err e = {};
	uint64_t start = now_usec();
	int r;

	if (parse(&h, argc, argv) < 0)
		return TROUBLE;
	r = prepare(&h, &e);
	r = r ? r : hand_all_over(&h, &e);
	if (r)
		fprintf(stderr, "airplant: %s\n", err_msg(&e));
	else
		report(&h, now_usec() - start);
	free(h.from);
	close_fdp(&h.store);
	close_fdp(&h.state);
	close_fdp(&h.log);
	return r ? TROUBLE : 0;
}
