/* See user_dirs.h. */
#include "core/user_dirs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/acl.h"
#include "core/core.h"
#include "core/trust.h"

/* A name that is one plain component and no option of anybody's. */
static bool is_plain(const char *name)
{
	return *name && *name != '.' && *name != '-' && !strchr(name, '/') && strlen(name) < 200;
}

static int make(const struct core *core, const char *parent, const struct peer *peer)
{
	_cleanup_close_ int top = -1, dir = -1;
	char path[4096];
	struct stat st;
	int r = 0;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", core->state_dir, parent) >= sizeof(path))
		return -ENAMETOOLONG;
	top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (top < 0)
		return -errno;
	if (fstatat(top, peer->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 0; /* whoever made it could do so only with the daemon's rights */
	if (mkdirat(top, peer->name, 0755) < 0)
		return errno == EEXIST ? 0 : -errno;
	if (peer->uid == core->uid)
		return 0;
	dir = openat(top, peer->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = dir < 0 ? -errno : acl_grant_writing(dir, peer->uid);
	if (r < 0)
		(void)unlinkat(top, peer->name, AT_REMOVEDIR); /* r is what counts */
	return r;
}

void user_dirs_make(struct core *core, const struct peer *peer)
{
	static const char *const parents[] = { "profiles/per-user", "gcroots/per-user" };
	static bool told;

	if (!is_plain(peer->name))
		return;
	for (size_t i = 0; i < ELEMENTS(parents); i++) {
		int r = make(core, parents[i], peer);

		if (r < 0 && !told)
			log_warn("making '%s/%s/%s' for its user: %s (old clients keep their "
				 "default profile there)",
				 core->state_dir, parents[i], peer->name, strerror(-r));
		told = told || r < 0;
	}
}
