/* Access list entries: how a daemon that cannot give a file away lets one user in. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/* Lets `uid` into the directory `fd`, which is the daemon's: to write as well, for a directory that
 * everybody may read; or to read alone, and nobody else, with the same for all that is made in it
 * from now on. 0 or -errno (-EOPNOTSUPP: the file system has no access lists). */
int acl_grant_writing(int fd, uid_t uid);
int acl_grant_reading(int fd, uid_t uid);

/* Who may write to the directory `fd`, which is the daemon's, by its access list? */
enum { ACL_NOBODY, ACL_HE, ACL_ANOTHER };

/* One of these, or -errno. `uid` is he; `ret_other`: the first of the others, with ACL_ANOTHER. No
 * access list, or a file system that has none: ACL_NOBODY. */
int acl_writer(int fd, uid_t uid, uid_t *ret_other);
