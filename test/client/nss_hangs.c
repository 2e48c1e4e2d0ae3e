/* A module of NSS for test_names.py: "passwd: files hangs". What happens depends on the uid. */
#include <errno.h>
#include <nss.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

enum { HANGS = 3000000001U, CRASHES, FAILS };

enum nss_status _nss_hangs_getpwuid_r(uid_t uid, struct passwd *ret, char *buf, size_t len, int *error)
{
	(void)ret, (void)buf, (void)len;
	while (uid == HANGS)
		pause();
	if (uid == CRASHES)
		abort();
	*error = uid == FAILS ? EIO : ENOENT;
	return uid == FAILS ? NSS_STATUS_UNAVAIL : NSS_STATUS_NOTFOUND;
}
