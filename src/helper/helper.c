/* See helper.h. */
#include "helper/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

int helper_number(const char *text, uint32_t *ret)
{
	unsigned long long v;
	char *end;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || v > UINT32_MAX)
		return -EINVAL;
	*ret = (uint32_t)v;
	return 0;
}

int helper_inherit(int type, int max)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	uint32_t v, n = 0;
	int has;
	socklen_t len = sizeof(has);

	if (!pid || !fds || helper_number(pid, &v) < 0 || (pid_t)v != getpid() ||
	    helper_number(fds, &n) < 0 || n > (uint32_t)max)
		n = 0;
	for (int fd = 3; fd < 3 + (int)n; fd++)
		if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &has, &len) < 0 || has != type ||
		    fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
			return -EINVAL;
	return close_range(3 + n, ~0U, 0) < 0 ? -errno : (int)n;
}

/* Made under another name first: where the socket is, somebody listens. The daemon is another user,
 * so the mode lets all in; who may stay is decided at accept. */
int helper_listen(const char *path, int type, struct err *e)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (snprintf(sa.sun_path, sizeof(sa.sun_path), "%s.new", path) >= (int)sizeof(sa.sun_path))
		return err_set(e, -ENAMETOOLONG, "the socket path '%s' is too long", path);
	(void)unlink(sa.sun_path); /* bind says what is wrong otherwise */
	umask(0111);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 16) < 0 ||
	    rename(sa.sun_path, path) < 0)
		return err_errno(e, -errno, "cannot listen on '%s'", path);
	umask(0077);
	return TAKE_FD(fd);
}

int helper_user(const char *name, uid_t *ret, gid_t *gid, struct err *e)
{
	uint32_t v;
	bool number = helper_number(name, &v) == 0;
	const struct passwd *pw = number ? getpwuid(v) : getpwnam(name);

	if (!pw && (gid || !number))
		return err_set(e, -ENOENT, "there is no user '%s'", name);
	*ret = pw ? pw->pw_uid : v;
	if (gid)
		*gid = pw->pw_gid;
	return 0;
}

int helper_accept(int listener, uid_t peer, int flags)
{
	static bool told; /* once: anybody may connect, and must not be able to fill the log */
	_cleanup_close_ int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | flags);
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (fd < 0)
		return -1;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && len == sizeof(cred) &&
	    cred.uid == peer)
		return TAKE_FD(fd);
	if (!told)
		log_warn("a user that is not the daemon's connected; refused");
	told = true;
	return -1;
}
