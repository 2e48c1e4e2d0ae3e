/* See lease_int.h. The grant is cut up: its first ids are leased one by one to plain builds, what
 * lies behind in slots of 65536. */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/lease_int.h"

enum {
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

/* The maps for a slot, of which `count` ids are used. Takes slot->fd. */
static void map_slot(struct lease_call *c, const struct slots *set, struct slot *slot,
		     uint32_t count, bool setgroups)
{
	const struct subid *s = c->lease->subid;
	uint32_t uid = slot_first_id(set, slot);
	_cleanup_err_ struct err e = {};
	int r = setgroups ? 0 : deny_setgroups(c->pid, &e);

	c->lease_fd = TAKE_FD(slot->fd);
	c->ids = (struct build_ids){ IDS_SUBID, count, uid };
	c->first_gid = s->first_gid + (uid - s->first_uid);
	if (r < 0)
		call_end(c, r, NULL, -1, &e);
	else
		helpers_run(c, s->helpers);
}

const char *subid_helpers(const struct subid *s)
{
	return s->helpers;
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

/* 0, LEASE_BUSY, or a sentence. */
static int take_slot(struct subid *s, enum lease_kind kind, struct slot *ret, struct err *e)
{
	uint32_t width = kind == LEASE_RANGE4 ? SLOTS_WIDE : 1;
	int r;

	if (kind != LEASE_PLAIN && s->range.n < width)
		return too_small(s, width, e);
	r = take(s, kind, ret);
	if (r == -ENOENT) {
		r = open_slots(s, e);
		if (r < 0)
			return r;
		r = take(s, kind, ret);
	}
	if (r == -EBUSY)
		return LEASE_BUSY;
	return r < 0 ? err_errno(e, r, "leasing an id slot in '%s'", s->path) : 0;
}

void subid_map(struct lease_call *c, enum lease_kind kind)
{
	struct subid *s = c->lease->subid;
	_cleanup_err_ struct err e = {};
	struct slot slot = { .fd = -1 };
	int r = take_slot(s, kind, &slot, &e);

	c->begun = true;
	if (r != 0)
		call_end(c, r, NULL, -1, &e);
	else if (kind == LEASE_PLAIN)
		map_slot(c, &s->plain, &slot, 1, true);
	else
		map_slot(c, &s->range, &slot, slot.width * IDS_SLOT, true);
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

void subid_clean(struct lease_call *c, int lease_fd)
{
	struct subid *s = c->lease->subid;
	struct slot slot = { .fd = -1 };
	struct slots *set = lease_fd < 0 ? stale_set(s, &slot) : set_of(s, lease_fd, &slot);
	_cleanup_err_ struct err e = {};
	int r = 0;

	c->begun = true;
	if (!set && lease_fd < 0)
		r = LEASE_NONE;
	else if (!set)
		r = err_set(&e, -EPERM, "the fd is not a lease of ids");
	else if (lease_fd >= 0 && (slot.fd = fcntl(lease_fd, F_DUPFD_CLOEXEC, 3)) < 0)
		r = err_errno(&e, -errno, "duplicating a lease of ids");
	if (r != 0)
		call_end(c, r, NULL, -1, &e);
	else
		map_slot(c, set, &slot, slot.width * set->ids, false);
}

int subid_return(struct lease *l, int lease_fd, struct err *e)
{
	struct slot slot;
	struct slots *set = set_of(l->subid, lease_fd, &slot);
	int r = set ? slots_return(set, lease_fd) : -EPERM;

	return r < 0 ? err_errno(e, r, "returning a slot of ids in '%s'", l->subid->path) : 0;
}
