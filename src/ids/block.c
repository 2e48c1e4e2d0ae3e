/* Are the configured ids really nobody's? Asked once at start; any doubt and the broker does not
 * run. The kernel guards host uid 0 in a map, but no gid at all: this is the only wall. */
#include "broker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"

static bool overlaps(const struct block *b, uint64_t first, uint64_t count)
{
	uint64_t end = (uint64_t)b->start + b->count;

	if (first > UINT32_MAX || count == 0)
		return false;
	if (count > UINT32_MAX)
		count = UINT32_MAX;
	return first < end && first + count > b->start;
}

static int collides(const struct block *b, struct err *e, const char *what, const char *name)
{
	return err_set(e, -EEXIST,
		       "the ids %u to %u are not free: they overlap %s '%s' (choose another block "
		       "with --start-id)",
		       b->start, b->start + (b->count - 1), what, name);
}

static int check_users(const struct block *b, struct err *e)
{
	const struct passwd *pw;
	int r = 0;

	setpwent();
	while (r == 0 && (errno = 0, pw = getpwent()))
		if (overlaps(b, pw->pw_uid, 1) || overlaps(b, pw->pw_gid, 1))
			r = collides(b, e, "the user", pw->pw_name);
	if (r == 0 && errno && errno != ENOENT)
		r = err_errno(e, -errno, "cannot list the users of this machine");
	endpwent();
	return r;
}

static int check_groups(const struct block *b, struct err *e)
{
	const struct group *gr;
	int r = 0;

	setgrent();
	while (r == 0 && (errno = 0, gr = getgrent()))
		if (overlaps(b, gr->gr_gid, 1))
			r = collides(b, e, "the group", gr->gr_name);
	if (r == 0 && errno && errno != ENOENT)
		r = err_errno(e, -errno, "cannot list the groups of this machine");
	endgrent();
	return r;
}

/* name:first:count per line, as newuidmap reads it; lines that grant nothing to it are skipped. */
static int check_grants(const struct block *b, const char *path, struct err *e)
{
	FILE *f = fopen(path, "re");
	char *line = NULL, *colon;
	size_t size = 0;
	int r = 0;

	if (!f)
		return errno == ENOENT ? 0 : err_errno(e, -errno, "cannot read '%s'", path);
	while (r == 0 && getline(&line, &size, f) >= 0) {
		unsigned long long first, count;
		char what[64];

		colon = strchr(line, ':');
		if (!colon || sscanf(colon, ":%llu:%llu", &first, &count) != 2 ||
		    !overlaps(b, first, count))
			continue;
		*colon = 0;
		snprintf(what, sizeof(what), "the entry in %s for", path);
		r = collides(b, e, what, line);
	}
	if (r == 0 && ferror(f))
		r = err_set(e, -EIO, "cannot read '%s'", path);
	free(line);
	fclose(f);
	return r;
}

int block_check(const struct block *b, const struct identity *own, const struct identity *daemon,
		struct err *e)
{
	int r;

	/* Below 65536 lie 0, all system and most human users, dynamic users, and nobody (65534). */
	if (b->start < IDS_SLOT || b->start % IDS_SLOT || b->count < IDS_SLOT ||
	    b->count % IDS_SLOT || b->count / IDS_SLOT > SLOTS_MAX ||
	    (uint64_t)b->start + b->count > (uint64_t)UINT32_MAX - 1)
		return err_set(e, -ERANGE,
			       "the ids %u (%u of them) are no usable block: start and number must "
			       "be multiples of %d, not 0, the number %u at most, and the last id "
			       "less than %u",
			       b->start, b->count, IDS_SLOT, SLOTS_MAX * IDS_SLOT, UINT32_MAX - 2);
	if (overlaps(b, own->uid, 1) || overlaps(b, own->gid, 1))
		return collides(b, e, "the broker's own user", "airplant-ids");
	if (overlaps(b, daemon->uid, 1) || overlaps(b, daemon->gid, 1))
		return collides(b, e, "the user of", "--daemon-user");
	r = check_users(b, e);
	if (r == 0)
		r = check_groups(b, e);
	if (r == 0)
		r = check_grants(b, "/etc/subuid", e);
	if (r == 0)
		r = check_grants(b, "/etc/subgid", e);
	return r;
}

/* An id of this line of /proc/PID/status ("Uid:" or "Gid:", four numbers) that is in the block and
 * not in a slot of which we know that it is in use: another one's. UINT32_MAX: there is none. */
static uint32_t foreign_id(const struct block *b, const struct slots *s, const char *status,
			   const char *line)
{
	const char *at = strstr(status, line);
	uint32_t id[4];

	if (!at || sscanf(at + strlen(line), "%u %u %u %u", &id[0], &id[1], &id[2], &id[3]) != 4)
		return UINT32_MAX;
	for (size_t i = 0; i < ELEMENTS(id); i++)
		if (overlaps(b, id[i], 1) && !slots_known(s, (id[i] - b->start) / IDS_SLOT))
			return id[i];
	return UINT32_MAX;
}

static int check_process(const struct block *b, const struct slots *s, int proc, const char *pid,
			 struct err *e)
{
	_cleanup_close_ int fd = -1;
	char name[32], text[4096] = { 0 };
	uint32_t id;

	snprintf(name, sizeof(name), "%.10s/status", pid);
	fd = openat(proc, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		return errno == ENOENT || errno == ESRCH
			       ? 0
			       : err_errno(e, -errno,
					   "cannot see whose the process %s is (is /proc mounted "
					   "with hidepid?)",
					   pid);
	if (strstr(text, "\nState:\tZ"))
		return 0; /* it will do nothing any more */
	id = foreign_id(b, s, text, "\nUid:\t");
	if (id == UINT32_MAX)
		id = foreign_id(b, s, text, "\nGid:\t");
	if (id == UINT32_MAX)
		return 0;
	snprintf(name, sizeof(name), "%.10s", pid);
	return collides(b, e, "the ids of the running process", name);
}

int block_check_running(const struct block *b, const struct slots *s, struct err *e)
{
	DIR *dir = opendir("/proc");
	const struct dirent *d;
	bool all = false; /* pid 1 is seen when all are */
	int r = 0;

	if (!dir)
		return err_errno(e, -errno, "cannot open /proc");
	while (r == 0 && (errno = 0, d = readdir(dir))) {
		if (d->d_name[0] < '0' || d->d_name[0] > '9')
			continue;
		all = all || !strcmp(d->d_name, "1");
		r = check_process(b, s, dirfd(dir), d->d_name, e);
	}
	if (r == 0 && (errno || !all))
		r = err_set(e, -EPERM,
			    "cannot see which ids are in use: /proc does not show all processes "
			    "(it must be mounted without hidepid)");
	closedir(dir);
	return r;
}
