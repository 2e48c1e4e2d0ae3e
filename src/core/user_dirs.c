/* See user_dirs.h. Linked by airplantd.
 *
 * It follows no link, and opens nothing but directories that are the daemon's own. */
#include "core/user_dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/acl.h"
#include "core/core.h"
#include "core/trust.h"

enum { KEPT_MAX = 100 }; /* directories of one name and one former owner */

/* What is there under a user's name. */
enum state { MISSING, READY, OPEN_TO_NOBODY, ANOTHERS };

/* A name that is one plain component and no option of anybody's. Those that begin with a dot are
 * our own (set_aside). */
static bool is_plain(const char *name)
{
	return *name && *name != '.' && *name != '-' && !strchr(name, '/') && strlen(name) < 200;
}

static bool needs_no_entry(const struct core *core, const struct peer *peer)
{
	return peer->uid == core->uid || peer->uid == 0;
}

/* Whose is it? `ret_owner`: of what is ANOTHERS. */
static int look(const struct core *core, int top, const struct peer *peer, enum state *ret,
		uid_t *ret_owner)
{
	_cleanup_close_ int dir = -1;
	struct stat st;
	int r;

	*ret = READY;
	if (fstatat(top, peer->name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		*ret = MISSING;
		return errno == ENOENT ? 0 : -errno;
	}
	/* What root made here, or the daemon that is not a directory, an administrator wanted. */
	if (st.st_uid == peer->uid || st.st_uid == 0 ||
	    (st.st_uid == core->uid && !S_ISDIR(st.st_mode)))
		return 0;
	*ret_owner = st.st_uid;
	*ret = ANOTHERS;
	if (st.st_uid != core->uid)
		return 0;
	dir = openat(top, peer->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	r = acl_writer(dir, peer->uid, ret_owner);
	if (r < 0)
		return r;
	if (r == ACL_ANOTHER)
		return 0;
	*ret = r == ACL_HE || needs_no_entry(core, peer) ? READY : OPEN_TO_NOBODY;
	return 0;
}

static int grant(const struct core *core, int top, const struct peer *peer)
{
	_cleanup_close_ int dir = -1;

	if (needs_no_entry(core, peer))
		return 0;
	dir = openat(top, peer->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return dir < 0 ? -errno : acl_grant_writing(dir, peer->uid);
}

static int make(const struct core *core, int top, const struct peer *peer)
{
	int r;

	if (mkdirat(top, peer->name, 0755) < 0)
		return -errno;
	r = grant(core, top, peer);
	if (r < 0)
		(void)unlinkat(top, peer->name, AT_REMOVEDIR); /* r is what counts */
	return r;
}

/* The account that had this name before, or whoever could make names here when the directory was
 * open to all (CVE-2019-17365), may still write there. What is in it stays, and keeps what it
 * kept: the directory gets a name that no account can have. */
static int set_aside(const char *parent, int top, const struct peer *peer, uid_t owner)
{
	char name[NAME_MAX + 1];

	for (int i = 0; i < KEPT_MAX; i++) {
		snprintf(name, sizeof(name), ".%s.%u.%d", peer->name, (unsigned int)owner, i);
		if (renameat2(top, peer->name, top, name, RENAME_NOREPLACE) == 0) {
			log_warn("'%s/%s' belonged to uid %u and not to this user, who is uid %u: "
				 "it is now '%s/%s', and he has a new one",
				 parent, peer->name, (unsigned int)owner, (unsigned int)peer->uid,
				 parent, name);
			return 0;
		}
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

static int provide(const struct core *core, const char *parent, const struct peer *peer)
{
	_cleanup_close_ int top = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	enum state state = MISSING;
	uid_t owner = 0;
	int r = top < 0 ? -errno : look(core, top, peer, &state, &owner);

	if (r < 0 || state == READY)
		return r;
	/* An account without a name has none here either: the number could be another's name. Of
	 * two accounts with one name, one is known by it. */
	if (!peer->owns_name)
		return 0;
	if (state == OPEN_TO_NOBODY)
		return grant(core, top, peer);
	if (state == ANOTHERS)
		r = set_aside(parent, top, peer, owner);
	return r < 0 ? r : make(core, top, peer);
}

void user_dirs_make(struct core *core, const struct peer *peer)
{
	static const char *const parents[] = { "profiles/per-user", "gcroots/per-user" };
	static uid_t told = (uid_t)-1;

	if (!is_plain(peer->name))
		return;
	for (size_t i = 0; i < ELEMENTS(parents); i++) {
		char parent[PATH_MAX];
		int r = -ENAMETOOLONG;

		if (snprintf(parent, sizeof(parent), "%s/%s", core->state_dir, parents[i]) <
		    (int)sizeof(parent))
			r = provide(core, parent, peer);
		if (r >= 0 || told == peer->uid)
			continue;
		log_warn("making '%s/%s' for its user: %s. Clients older than 2.14 keep his "
			 "profile there; root can make it and give it to uid %u",
			 parent, peer->name, strerror(-r), (unsigned int)peer->uid);
		told = peer->uid;
	}
}
