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

enum { ENTRIES_MAX = 64 };

enum { ACL_USER_OBJ = 1, ACL_USER = 2, ACL_GROUP_OBJ = 4, ACL_MASK = 16, ACL_OTHER = 32 };
enum { RWX = 7, R_X = 5, NONE = 0, WRITE = 2 };

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

int acl_writer(int fd, uid_t uid, uid_t *ret_other)
{
	struct {
		uint32_t version;
		struct acl_entry entries[ENTRIES_MAX];
	} acl;
	ssize_t n = fgetxattr(fd, "system.posix_acl_access", &acl, sizeof(acl));
	int found = ACL_NOBODY;

	if (n < 0)
		return errno == ENODATA || errno == EOPNOTSUPP ? ACL_NOBODY : -errno;
	if (n < (ssize_t)sizeof(acl.version) || acl.version != 2)
		return -EBADMSG;
	for (size_t i = 0; i < ((size_t)n - sizeof(acl.version)) / sizeof(acl.entries[0]); i++) {
		const struct acl_entry *entry = &acl.entries[i];

		if (entry->tag != ACL_USER || !(entry->perm & WRITE))
			continue;
		if (entry->id == uid)
			return ACL_HE;
		if (found == ACL_NOBODY)
			*ret_other = entry->id;
		found = ACL_ANOTHER;
	}
	return found;
}
