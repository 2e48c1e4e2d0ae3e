/* One process behind a pidfd: is it one whose namespace may be mapped, and the mapping.
 *
 * Everything is derived from the pidfd by the broker itself, beneath a /proc it opened at start;
 * an fd of a map file is never taken from the client. The kernel ties a map file to the namespace
 * at open; should the process have moved on since, the kernel's own rules (owner, parent) refuse
 * whatever the checks here would have refused. */
#include "broker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "base/fd.h"

static int open_proc(int dir, const char *name, int flags)
{
	_cleanup_close_ int fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC);
	struct statfs fs;

	if (fd < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	if (fs.f_type != PROC_SUPER_MAGIC)
		return -EXDEV;
	return TAKE_FD(fd);
}

static bool refuse(char reason[REASON_MAX], const char *text)
{
	snprintf(reason, REASON_MAX, "%s", text);
	return false;
}

static bool refuse_errno(char reason[REASON_MAX], const char *text, int r)
{
	snprintf(reason, REASON_MAX, "%s: %s", text, strerror(-r));
	return false;
}

int machine_init(struct machine *m, struct err *e)
{
	_cleanup_close_ int ns = -1;
	struct stat st;

	m->proc = open_proc(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY);
	if (m->proc < 0)
		return err_errno(e, m->proc, "cannot open /proc");
	/* By number, which also shows that this /proc tells of our own pid namespace. */
	char name[64];

	snprintf(name, sizeof(name), "%d/fdinfo", getpid());
	m->fdinfo = open_proc(m->proc, name, O_PATH | O_DIRECTORY);
	if (m->fdinfo < 0)
		return err_errno(e, m->fdinfo, "/proc does not show this process");
	ns = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
	if (ns < 0 || fstat(ns, &st) < 0)
		return err_errno(e, -errno, "cannot open /proc/self/ns/user");
	m->ns_dev = st.st_dev;
	m->ns_ino = st.st_ino;
	return 0;
}

/* The number of the process, from the kernel's description of the fd: only a pidfd has one. */
static pid_t pid_of(const struct machine *m, int pidfd)
{
	_cleanup_close_ int fd = -1;
	char text[1024], name[16];
	const char *line;
	ssize_t n;
	int pid;

	snprintf(name, sizeof(name), "%d", pidfd);
	fd = open_proc(m->fdinfo, name, O_RDONLY);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return -1;
	text[n] = 0;
	line = strstr(text, "\nPid:\t");
	return line && sscanf(line, "\nPid:\t%d", &pid) == 1 ? pid : -1;
}

static int send_signal(int pidfd, int sig)
{
	return syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

static bool same_ns(const struct stat *st, const struct machine *m)
{
	return st->st_dev == m->ns_dev && st->st_ino == m->ns_ino;
}

/* The daemon's own namespace, made directly beneath the broker's. */
static bool check_ns(const struct machine *m, int dir, char reason[REASON_MAX])
{
	_cleanup_close_ int ns = openat(dir, "ns/user", O_RDONLY | O_CLOEXEC), parent = -1;
	struct stat st;
	uid_t owner;

	if (ns < 0)
		return refuse_errno(reason, "cannot open its user namespace", -errno);
	if (fstat(ns, &st) < 0 || same_ns(&st, m))
		return refuse(reason, "it is in the machine's own user namespace");
	if (ioctl(ns, NS_GET_OWNER_UID, &owner) < 0 || owner != m->daemon.uid)
		return refuse(reason, "its user namespace does not belong to the daemon");
	parent = ioctl(ns, NS_GET_PARENT);
	if (parent < 0 || fstat(parent, &st) < 0 || !same_ns(&st, m))
		return refuse(reason, "its user namespace lies within another one");
	return true;
}

static bool open_map(int dir, const char *name, int *ret, char reason[REASON_MAX])
{
	char c;

	*ret = open_proc(dir, name, O_RDWR);
	if (*ret < 0)
		return refuse_errno(reason, "cannot open its map (is the process dumpable?)", *ret);
	if (read(*ret, &c, 1) != 0)
		return refuse(reason, "its user namespace has a map already");
	return true;
}

bool target_open(const struct machine *m, int pidfd, struct target *ret, char reason[REASON_MAX])
{
	_cleanup_close_ int dir = -1;
	pid_t pid;
	char name[16];
	int r;

	ret->pidfd = pidfd;
	pid = pid_of(m, pidfd);
	if (pid <= 0)
		return refuse(reason, "the fd is no pidfd of a live process");
	snprintf(name, sizeof(name), "%d", pid);
	dir = open_proc(m->proc, name, O_PATH | O_DIRECTORY);
	if (dir < 0)
		return refuse_errno(reason, "cannot open its directory in /proc", dir);
	/* Alive after the open: so the directory is this process's, not a successor's. */
	r = send_signal(pidfd, 0);
	if (r < 0)
		return refuse_errno(reason, "the process cannot be signalled", r);
	if (!check_ns(m, dir, reason) || !open_map(dir, "uid_map", &ret->uid_map, reason) ||
	    !open_map(dir, "gid_map", &ret->gid_map, reason))
		return false;
	ret->setgroups = open_proc(dir, "setgroups", O_WRONLY);
	if (ret->setgroups < 0)
		return refuse_errno(reason, "cannot open its setgroups file", ret->setgroups);
	return true;
}

/* A map takes one write(2), whole or not at all. */
static int write_map(int fd, uint32_t base, uint32_t count, uint32_t daemon)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "0 %u %u\n%u %u 1\n", base, count, count, daemon);

	return write(fd, text, (size_t)n) == n ? 0 : errno ? -errno : -EIO;
}

bool target_map(const struct machine *m, const struct target *t, uint32_t base, uint32_t count,
		bool setgroups, char reason[REASON_MAX])
{
	int r = setgroups || write(t->setgroups, "deny\n", 5) == 5 ? 0 : -errno;

	if (r == 0)
		r = write_map(t->gid_map, base, count, m->daemon.gid);
	if (r == 0)
		r = write_map(t->uid_map, base, count, m->daemon.uid);
	if (r == 0)
		r = send_signal(t->pidfd, 0);
	if (r == 0)
		return true;
	target_kill(t);
	return refuse_errno(reason, "cannot write its maps", r);
}

void target_kill(const struct target *t)
{
	(void)send_signal(t->pidfd, SIGKILL); /* fails only when it is dead already */
}

void target_done(struct target *t)
{
	close_fdp(&t->pidfd);
	close_fdp(&t->uid_map);
	close_fdp(&t->gid_map);
	close_fdp(&t->setgroups);
}
