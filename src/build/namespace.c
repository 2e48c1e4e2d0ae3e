/* The supervisor's own namespaces: the user namespace O in which it owns the build's ids, and a
 * mount namespace in which, once the builder runs, nothing but the scratch is left.
 *
 * Never: an id chosen here (the broker or the kernel's own rule for single ids decides), a map
 * written twice. Linked by airplant-build alone. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <termios.h>

#include "build/supervisor.h"
#include "confine/confine.h"

static int write_proc(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : write_full(fd, text, strlen(text));
}

int ns_map_own(uid_t uid, gid_t gid, struct err *e)
{
	char text[64];
	int r;

	r = write_proc("/proc/self/setgroups", "deny");
	if (r == 0) {
		snprintf(text, sizeof(text), "0 %u 1", (unsigned int)uid);
		r = write_proc("/proc/self/uid_map", text);
	}
	if (r == 0) {
		snprintf(text, sizeof(text), "0 %u 1", (unsigned int)gid);
		r = write_proc("/proc/self/gid_map", text);
	}
	if (r < 0)
		return err_errno(e, r,
				 "mapping this process's own id into a user namespace failed");
	return 0;
}

/* 0 with b->ids filled, BUILD_CANCELLED, or an error. */
static int receive_ids(struct build *b, struct err *e)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	int r = chan_recv(b->chan, CHAN_INLINE, &m);

	if (r == CHAN_EOF || (r == 0 && m.type == BUILD_CANCEL))
		return BUILD_CANCELLED;
	if (r != 0 || m.type != BUILD_IDS || msg_decode(&m, &build_ids_layout, &b->arena, &b->ids))
		return err_set(e, -EPROTO, "the daemon sent something else than this build's ids");
	if (m.n_fds > 0)
		b->lease_fd = TAKE_FD(m.fds[0]);
	return 0;
}

void ns_warm(struct build *b)
{
	b->warm = true;
	b->host_uid = geteuid();
	b->host_gid = getegid();
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		b->warm_error = -errno;
	else
		b->warm_error = root_loopback();
	/* A core that hung up is noticed by the next receive. */
	if (b->warm_error == 0)
		(void)chan_send(b->chan, BUILD_NEED_IDS, 0, NULL, 0, NULL, 0);
}

/* The mount namespace is made now in any case: it is to show what is mounted now. */
static int make_outer(struct build *b, struct err *e)
{
	int r = b->warm_error;
	char why[512];

	if (!b->warm) {
		b->host_uid = geteuid();
		b->host_gid = getegid();
	}
	if (r == 0 && unshare(b->warm ? CLONE_NEWNS : CLONE_NEWUSER | CLONE_NEWNS) < 0)
		r = -errno;
	if (r == 0)
		return 0;
	/* One that started warm has its user namespace, unless that failed. */
	confine_explain_namespaces(b->warm && b->warm_error == 0
					   ? CLONE_NEWNS
					   : CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWNET |
						     CLONE_NEWIPC | CLONE_NEWUTS,
				   why, sizeof(why));
	return err_errno(e, r, "a build cannot be isolated: %s", why);
}

int ns_outer(struct build *b, struct err *e)
{
	int r = make_outer(b, e);

	if (r < 0)
		return r;
	if (!b->warm && chan_send(b->chan, BUILD_NEED_IDS, 0, NULL, 0, NULL, 0) < 0)
		return BUILD_CANCELLED;
	if (b->warm && (b->s.network || b->s.sandbox != SANDBOX_ON))
		return err_set(e, -EPROTO, "this supervisor has given up the host's network");
	r = receive_ids(b, e);
	if (r != 0)
		return r;
	if (b->ids.count != b->s.n_ids)
		return err_set(e, -EINVAL, "this build was given %llu ids instead of %llu",
			       (unsigned long long)b->ids.count, (unsigned long long)b->s.n_ids);
	if (b->ids.mode == IDS_SINGLE) {
		r = ns_map_own(b->host_uid, b->host_gid, e);
		if (r < 0)
			return r;
		b->owner_uid = 0;
		b->owner_gid = 0;
	} else {
		b->owner_uid = (uid_t)b->ids.count;
		b->owner_gid = (gid_t)b->ids.count;
	}
	/* The maps are what was promised, or nothing happens. */
	if (geteuid() != b->owner_uid || getegid() != b->owner_gid)
		return err_set(e, -EPERM,
			       "this build's user namespace does not map the ids it was promised");
	b->mapped = true;
	if (mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0)
		return err_errno(e, -errno, "unable to make '/' private");
	return 0;
}

/* A detached devpts: reachable through the returned fd alone. */
static int private_devpts(void)
{
	_cleanup_close_ int fs = (int)syscall(SYS_fsopen, "devpts", FSOPEN_CLOEXEC);
	static const char *const options[][2] = {
		{ "uid", "0" },
		{ "gid", "0" },
		{ "mode", "0600" },
		{ "ptmxmode", "0666" },
	};
	long fd;

	if (fs < 0)
		return -errno;
	for (size_t i = 0; i < ELEMENTS(options); i++)
		if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, options[i][0], options[i][1],
			    0) < 0)
			return -errno;
	if (syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	fd = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	return fd < 0 ? -errno : (int)fd;
}

int ns_terminal(struct build *b, struct err *e)
{
	int pts = private_devpts();
	struct termios term;
	int unlock = 0;

	if (pts < 0)
		return err_errno(e, pts, "mounting a private devpts");
	b->pts_fd = pts; /* closing it waits for the kernel's other processors */
	b->master = openat(pts, "ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (b->master < 0)
		return err_errno(e, -errno, "opening pseudoterminal master");
	if (ioctl(b->master, TIOCSPTLCK, &unlock) < 0)
		return err_errno(e, -errno, "unlocking pseudoterminal");
	b->slave = ioctl(b->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (b->slave < 0)
		return err_errno(e, -errno, "opening pseudoterminal slave");
	/* Raw, so that "\n" stays "\n". */
	if (tcgetattr(b->slave, &term) < 0)
		return err_errno(e, -errno, "getting pseudoterminal attributes");
	cfmakeraw(&term);
	if (tcsetattr(b->slave, TCSANOW, &term) < 0)
		return err_errno(e, -errno, "putting pseudoterminal into raw mode");
	return 0;
}

int ns_retreat_to(const char *dir, int *top, struct err *e)
{
	if (mount(dir, dir, NULL, MS_BIND, NULL) < 0)
		return err_errno(e, -errno, "unable to bind mount '%s'", dir);
	if (chdir(dir) < 0)
		return err_errno(e, -errno, "changing into '%s'", dir);
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return err_errno(e, -errno, "making '%s' the root directory", dir);
	if (umount2(".", MNT_DETACH) < 0)
		return err_errno(e, -errno, "unmounting the host's file systems");
	if (chdir("/") < 0)
		return err_errno(e, -errno, "changing into '/'");
	/* From here on all work is done through the new mount: rename between the old one and this
	 * would be EXDEV. */
	close_fdp(top);
	*top = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return *top < 0 ? err_errno(e, -errno, "opening '/'") : 0;
}

int ns_retreat(struct build *b, struct err *e)
{
	return ns_retreat_to(b->s.scratch, &b->top, e);
}
