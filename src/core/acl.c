/* See acl.h. Linked by airplantd. */
#include "core/acl.h"

#include <errno.h>
#include <stdint.h>
#include <sys/xattr.h>

/* The value of system.posix_acl_access (linux/posix_acl_xattr.h): version 2, then entries in the
 * order of their tags; little endian. */
struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
};

struct acl {
	uint32_t version;
	struct acl_entry entries[5];
};

enum { ACL_USER_OBJ = 1, ACL_USER = 2, ACL_GROUP_OBJ = 4, ACL_MASK = 16, ACL_OTHER = 32 };
enum { RWX = 7, R_X = 5, NONE = 0 };

static int set(int fd, const char *name, uid_t uid, uint16_t user, uint16_t others)
{
	const uint32_t none = UINT32_MAX;
	const struct acl acl = {
		.version = 2,
		.entries = { { ACL_USER_OBJ, RWX, none },
			     { ACL_USER, user, uid },
			     { ACL_GROUP_OBJ, others, none },
			     { ACL_MASK, user, none },
			     { ACL_OTHER, others, none } },
	};

	return fsetxattr(fd, name, &acl, sizeof(acl), 0) < 0 ? -errno : 0;
}

int acl_grant_writing(int fd, uid_t uid)
{
	return set(fd, "system.posix_acl_access", uid, RWX, R_X);
}

int acl_grant_reading(int fd, uid_t uid)
{
	int r = set(fd, "system.posix_acl_default", uid, R_X, NONE);

	return r < 0 ? r : set(fd, "system.posix_acl_access", uid, R_X, NONE);
}
