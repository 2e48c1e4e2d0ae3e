/* Are the configured ids really nobody's? Asked once at start; any doubt and the broker does not
 * run. The kernel guards host uid 0 in a map, but no gid at all: this is the only wall. */
#include "broker.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>

#include "base/macro.h"

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
	char *line = NULL;
	size_t size = 0;
	int r = 0;

	if (!f)
		return errno == ENOENT ? 0 : err_errno(e, -errno, "cannot read '%s'", path);
	while (r == 0 && getline(&line, &size, f) >= 0) {
		unsigned long long first, count;
		char name[64];

		if (sscanf(line, "%63[^:]:%llu:%llu", name, &first, &count) == 3 &&
		    overlaps(b, first, count)) {
			char what[64];

			snprintf(what, sizeof(what), "the entry in %s for", path);
			r = collides(b, e, what, name);
		}
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
