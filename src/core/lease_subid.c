/* See lease_int.h. The grant is cut up: its first ids are leased one by one to plain builds, what
 * lies behind in slots of 65536. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/lease_int.h"
#include "ipc/ids.h"

enum {
	HELPER_TIMEOUT_MSEC = 5000,
	PLAIN_SLOTS = 256,
	RANGE_SLOTS_MAX = 128,
};

struct subid {
	char *user;    /* whose grant it is */
	char *helpers; /* the directory newuidmap and newgidmap are in */
	char *path;    /* the directory of slots */
	uint32_t first_uid, first_gid, count;
	struct slots plain, range;
};

/* The largest grant to this user, by name or number. False: there is none. */
static bool find_grant(const char *path, const struct passwd *pw, uint32_t *ret_first,
		       uint32_t *ret_count)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL, uid[16];

	*ret_count = 0;
	snprintf(uid, sizeof(uid), "%u", pw->pw_uid);
	if (read_file_at(AT_FDCWD, path, 1 << 20, &text, NULL) < 0)
		return false;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long long first, count;
		char *colon = strchr(line, ':');

		if (!colon || sscanf(colon, ":%llu:%llu", &first, &count) != 2 || first == 0 ||
		    first > UINT32_MAX - 1 || count > UINT32_MAX - first || count <= *ret_count)
			continue;
		*colon = 0;
		if (strcmp(line, pw->pw_name) != 0 && strcmp(line, uid) != 0)
			continue;
		*ret_first = (uint32_t)first;
		*ret_count = (uint32_t)count;
	}
	return *ret_count > 0;
}

static const char *find_helpers(void)
{
	static const char *const dirs[] = { "/run/wrappers/bin", "/usr/bin", "/bin",
					    "/usr/local/bin" };

	for (size_t i = 0; i < ELEMENTS(dirs); i++) {
		char a[64], b[64];

		snprintf(a, sizeof(a), "%s/newuidmap", dirs[i]);
		snprintf(b, sizeof(b), "%s/newgidmap", dirs[i]);
		if (access(a, X_OK) == 0 && access(b, X_OK) == 0)
			return dirs[i];
	}
	return NULL;
}

static uint32_t n_ranges(const struct subid *s)
{
	uint32_t n = s->count < PLAIN_SLOTS ? 0 : (s->count - PLAIN_SLOTS) / IDS_SLOT;

	return n < RANGE_SLOTS_MAX ? n : RANGE_SLOTS_MAX;
}

static int open_dir(const struct subid *s, const char *name, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	int r;

	if (asprintf(&path, "%s/%s", s->path, name) < 0) {
		path = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	r = mkdir_p(path, 0700);
	if (r == 0)
		r = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (r < 0)
		return err_errno(e, r == -1 ? -errno : r, "opening directory '%s'", path);
	return r;
}

/* When somebody deletes the state directory under the daemon, builds of before hold locks in the
 * old one; that their ids are in use is seen by their processes. */
static int open_slots(struct subid *s, struct err *e)
{
	uint32_t n = s->count < PLAIN_SLOTS ? s->count : PLAIN_SLOTS;
	int r;

	close_fdp(&s->plain.dir);
	close_fdp(&s->range.dir);
	r = open_dir(s, "plain", e);
	if (r >= 0)
		r = slots_open(&s->plain, r, s->first_uid, 1, n, e);
	if (r >= 0)
		r = open_dir(s, "range", e);
	if (r >= 0)
		r = slots_open(&s->range, r, s->first_uid + PLAIN_SLOTS, IDS_SLOT, n_ranges(s), e);
	return r;
}

/* 0, or a sentence saying what is missing. */
int subid_setup(struct lease *l, const char *state_dir, struct err *e)
{
	const struct passwd *pw = getpwuid(l->uid);
	const char *helpers = find_helpers();
	uint32_t n_uids, n_gids;
	struct subid *s;

	if (!helpers)
		return err_set(e, -ENOENT,
			       "newuidmap and newgidmap are not installed (package uidmap)");
	if (!pw)
		return err_set(e, -ENOENT, "uid %u has no entry in the user database", l->uid);
	s = l->subid = calloc(1, sizeof(*s));
	if (!s)
		return err_set(e, -ENOMEM, "out of memory");
	s->plain.dir = s->range.dir = -1;
	if (!find_grant("/etc/subuid", pw, &s->first_uid, &n_uids))
		return err_set(e, -ENOENT, "/etc/subuid grants nothing to '%s'", pw->pw_name);
	if (!find_grant("/etc/subgid", pw, &s->first_gid, &n_gids))
		return err_set(e, -ENOENT, "/etc/subgid grants nothing to '%s'", pw->pw_name);
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
		return err_set(e, -EPERM, "newuidmap cannot work under no_new_privs");
	s->count = n_uids < n_gids ? n_uids : n_gids;
	s->user = strdup(pw->pw_name);
	s->helpers = strdup(helpers);
	if (!s->user || !s->helpers || asprintf(&s->path, "%s/airplant/ids", state_dir) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	return open_slots(s, e);
}

void subid_free(struct subid *s)
{
	if (!s)
		return;
	close_fdp(&s->plain.dir);
	close_fdp(&s->range.dir);
	free(s->user);
	free(s->helpers);
	free(s->path);
	free(s);
}

void subid_log(const struct subid *s)
{
	log_info("ids: subid — %u single ids and %u ranges from %u by newuidmap; the daemon runs "
		 "without no_new_privs and without a system call filter",
		 s->plain.n, s->range.n, s->first_uid);
}

/* Waits for a child with a limit; kills it when that is over. 0 when it exited with 0. */
static int wait_bounded(pid_t pid)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { pidfd, POLLIN, 0 };
	int status, r;

	do
		r = pidfd < 0 ? 0 : poll(&p, 1, HELPER_TIMEOUT_MSEC);
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		(void)kill(pid, SIGKILL); /* our own child, not yet waited for */
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (r <= 0)
		return -ETIMEDOUT;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

/* newuidmap PID 0 FIRST COUNT COUNT OWN 1; no environment, no foreign signal mask. */
static int run_helper(const struct subid *s, const char *helper, pid_t pid, uint32_t first,
		      uint32_t count, uint32_t own, struct err *e)
{
	char path[96], pid_s[16], first_s[16], count_s[16], own_s[16];
	char *argv[] = { path, pid_s, "0", first_s, count_s, count_s, own_s, "1", NULL };
	char *envp[] = { NULL };
	posix_spawnattr_t attr;
	sigset_t none;
	pid_t child;
	int r;

	snprintf(path, sizeof(path), "%s/%s", s->helpers, helper);
	snprintf(pid_s, sizeof(pid_s), "%d", pid);
	snprintf(first_s, sizeof(first_s), "%u", first);
	snprintf(count_s, sizeof(count_s), "%u", count);
	snprintf(own_s, sizeof(own_s), "%u", own);
	sigemptyset(&none);
	r = posix_spawnattr_init(&attr);
	if (r != 0)
		return err_errno(e, -r, "starting '%s'", path);
	r = posix_spawnattr_setsigmask(&attr, &none);
	if (r == 0)
		r = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	if (r == 0)
		r = posix_spawn(&child, path, NULL, &attr, argv, envp);
	(void)posix_spawnattr_destroy(&attr);
	if (r != 0)
		return err_errno(e, -r, "starting '%s'", path);
	r = wait_bounded(child);
	return r < 0 ? err_errno(e, r, "'%s' did not map ids for a build (see the log)", path) : 0;
}

/* As the broker does, so that a build sees the same in every mode. The file is the daemon's to
 * write: it owns the namespace. */
static int deny_setgroups(pid_t pid, struct err *e)
{
	_cleanup_close_ int fd = -1;
	char path[48];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/setgroups", pid);
	fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	r = fd < 0 ? -errno : write_full(fd, "deny", 4);
	return r < 0 ? err_errno(e, r, "writing '%s'", path) : 0;
}

/* The maps for a slot, of which `count` ids are used. */
static int map_slot(const struct lease *l, const struct slots *set, const struct slot *slot,
		    uint32_t count, bool setgroups, pid_t pid, struct build_ids *ret_ids,
		    struct err *e)
{
	const struct subid *s = l->subid;
	uint32_t uid = slot_first_id(set, slot), gid = s->first_gid + (uid - s->first_uid);
	int r = setgroups ? 0 : deny_setgroups(pid, e);

	if (r == 0)
		r = run_helper(s, "newgidmap", pid, gid, count, l->gid, e);
	if (r == 0)
		r = run_helper(s, "newuidmap", pid, uid, count, l->uid, e);
	if (r == 0)
		*ret_ids = (struct build_ids){ IDS_SUBID, count, uid };
	return r;
}

bool subid_offers(const struct subid *s, enum lease_kind kind)
{
	return kind == LEASE_PLAIN || s->range.n >= (kind == LEASE_RANGE4 ? SLOTS_WIDE : 1);
}

static int too_small(const struct subid *s, uint32_t width, struct err *e)
{
	return err_set(e, -EOPNOTSUPP,
		       "a build that needs %u ids (feature 'uid-range') is not possible: "
		       "/etc/subuid and /etc/subgid grant %u ids to '%s'. Let them grant at least "
		       "%u, for example with the line '%s:%u:%u', and start the daemon again",
		       width * IDS_SLOT, s->count, s->user, PLAIN_SLOTS + width * IDS_SLOT, s->user,
		       1U << 30, 128 * IDS_SLOT);
}

static int take(struct subid *s, enum lease_kind kind, struct slot *ret)
{
	if (kind == LEASE_PLAIN)
		return slots_take(&s->plain, 1, 1, ret);
	if (kind == LEASE_RANGE)
		return slots_take(&s->range, 1, IDS_SLOT, ret);
	return slots_take(&s->range, SLOTS_WIDE, IDS_SLOT4, ret);
}

int subid_map(struct lease *l, enum lease_kind kind, pid_t pid, struct build_ids *ret_ids,
	      int *ret_fd, struct err *e)
{
	struct subid *s = l->subid;
	uint32_t width = kind == LEASE_RANGE4 ? SLOTS_WIDE : 1;
	uint32_t count = kind == LEASE_PLAIN ? 1 : width * IDS_SLOT;
	struct slot slot = { .fd = -1 };
	_cleanup_close_ int fd = -1;
	int r;

	if (kind != LEASE_PLAIN && s->range.n < width)
		return too_small(s, width, e);
	r = take(s, kind, &slot);
	if (r == -ENOENT) {
		r = open_slots(s, e);
		if (r < 0)
			return r;
		r = take(s, kind, &slot);
	}
	if (r == -EBUSY)
		return LEASE_BUSY;
	if (r < 0)
		return err_errno(e, r, "leasing an id slot in '%s'", s->path);
	fd = slot.fd;
	r = map_slot(l, kind == LEASE_PLAIN ? &s->plain : &s->range, &slot, count, true, pid,
		     ret_ids, e);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* The slots that the lease belongs to, or NULL. */
static struct slots *set_of(struct subid *s, int lease_fd, struct slot *ret)
{
	if (slots_find(&s->plain, lease_fd, ret) == 0)
		return &s->plain;
	return slots_find(&s->range, lease_fd, ret) == 0 ? &s->range : NULL;
}

static struct slots *stale_set(struct subid *s, struct slot *ret)
{
	if (slots_stale(&s->plain, ret) == 0)
		return &s->plain;
	return slots_stale(&s->range, ret) == 0 ? &s->range : NULL;
}

int subid_clean(struct lease *l, int lease_fd, pid_t pid, struct build_ids *ret_ids, int *ret_fd,
		struct err *e)
{
	struct slot slot = { .fd = -1 };
	struct slots *set =
		lease_fd < 0 ? stale_set(l->subid, &slot) : set_of(l->subid, lease_fd, &slot);
	_cleanup_close_ int fd = slot.fd;
	int r;

	if (!set)
		return lease_fd < 0 ? LEASE_NONE
				    : err_set(e, -EPERM, "the fd is not a lease of ids");
	if (lease_fd >= 0) {
		fd = fcntl(lease_fd, F_DUPFD_CLOEXEC, 3);
		if (fd < 0)
			return err_errno(e, -errno, "duplicating a lease of ids");
	}
	r = map_slot(l, set, &slot, slot.width * set->ids, false, pid, ret_ids, e);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int subid_return(struct lease *l, int lease_fd, struct err *e)
{
	struct slot slot;
	struct slots *set = set_of(l->subid, lease_fd, &slot);
	int r = set ? slots_return(set, lease_fd) : -EPERM;

	return r < 0 ? err_errno(e, r, "returning a slot of ids in '%s'", l->subid->path) : 0;
}
