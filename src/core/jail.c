/* Making the jail of sessions. See jail.h. Linked by airplantd.
 *
 * A child makes the namespaces and the mounts, drops what it needs no more, and becomes the porter
 * (jail_spawn.c).
 *
 * Never: a mount that shows more than jail.h says; a session started when one step failed. */
#include "core/jail.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "confine/confine.h"
#include "core/core.h"
#include "core/jail_session.h"
#include "core/process.h"
#include "core/spool.h"

struct bind {
	const char *from, *to;
	uint64_t attrs;
	int fd;
};

struct helper {
	struct core *core;
	pid_t parent;
	int report; /* where a sentence goes when something fails */
	int null_fd, program;
	bool dynamic;
};

/* In the helper: the sentence is the message, the exit status only says that there is one. */
_noreturn_ static void fail(const struct helper *h, const char *fmt, ...) _printf_(2, 3);
_noreturn_ static void fail(const struct helper *h, const char *fmt, ...)
{
	int saved = errno;
	char text[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text) - 80, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(text) - 81)
		n = (int)sizeof(text) - 81;
	n += snprintf(text + n, 80, ": %s", strerror(saved));
	(void)write_full(h->report, text, (size_t)n); /* a silent failure is one too: no "ready" */
	_exit(1);
}

static void write_proc(const struct helper *h, const char *name, const char *text)
{
	char path[64];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write_full(fd, text, strlen(text)) < 0)
		fail(h, "writing %s", path);
}

static void unshare_or_fail(const struct helper *h, int flags)
{
	char why[400];
	int saved;

	if (unshare(flags) == 0)
		return;
	saved = errno;
	confine_explain_namespaces(flags, why, sizeof(why));
	errno = saved;
	fail(h, "sessions cannot be isolated: %s", why);
}

static void enter_namespaces(const struct helper *h)
{
	char map[64];

	/* The core is not dumpable, which makes /proc/self root's. */
	if (prctl(PR_SET_DUMPABLE, 1) < 0)
		fail(h, "becoming dumpable");
	unshare_or_fail(h, CLONE_NEWUSER);
	write_proc(h, "setgroups", "deny");
	/* Nobody is root in there: SQLite for one behaves differently when it is. */
	snprintf(map, sizeof(map), "1000 %u 1\n", (unsigned int)h->core->uid);
	write_proc(h, "uid_map", map);
	snprintf(map, sizeof(map), "100 %u 1\n", (unsigned int)h->core->gid);
	write_proc(h, "gid_map", map);
	unshare_or_fail(h, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail(h, "making mounts private");
}

static void take_tree(const struct helper *h, struct bind *b)
{
	struct mount_attr attr = { .attr_set = b->attrs };

	b->fd = (int)syscall(SYS_open_tree, AT_FDCWD, b->from,
			     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (b->fd < 0)
		fail(h, "taking a view of '%s'", b->from);
	if (syscall(SYS_mount_setattr, b->fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr,
		    sizeof(attr)) < 0)
		fail(h, "restricting the view of '%s'", b->from);
}

static void put_tree(const struct helper *h, const struct bind *b)
{
	if (mkdir(b->to, 0755) < 0 && errno != EEXIST)
		fail(h, "creating '%s' in the jail", b->to);
	if (syscall(SYS_move_mount, b->fd, "", AT_FDCWD, b->to, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		fail(h, "showing '%s' in the jail", b->from);
}

/* "lib" is a symlink into usr on merged systems: then the same symlink does. */
static void add_library_dir(const struct helper *h, const char *name)
{
	char target[64], from[32];
	ssize_t n;

	snprintf(from, sizeof(from), "/%s", name);
	n = readlink(from, target, sizeof(target) - 1);
	if (n <= 0)
		return;
	target[n] = 0;
	if (symlink(target, name) < 0)
		fail(h, "creating '%s' in the jail", from);
}

static bool is_real_dir(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void build_root(const struct helper *h)
{
	_cleanup_free_ char *db = NULL;
	const uint64_t ro = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
	struct mount_attr seal = { .attr_set = MOUNT_ATTR_RDONLY };

	if (asprintf(&db, "%s/db", h->core->state_dir) < 0)
		_exit(1);
	struct bind binds[] = {
		{ h->core->store_dir, "view/store", ro, -1 },
		{ db, "view/db", ro | MOUNT_ATTR_NOEXEC, -1 },
		{ spool_dir(h->core->spool), "spool",
		  MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, -1 },
		/* Only for a session that is linked dynamically: */
		{ "/usr", "usr", ro, -1 },
		{ "/lib", "lib", ro, -1 },
		{ "/lib64", "lib64", ro, -1 },
	};
	size_t n = h->dynamic ? ELEMENTS(binds) : 3;

	for (size_t i = 0; i < n; i++)
		if (i < 3 || is_real_dir(binds[i].from))
			take_tree(h, &binds[i]);
	/* Any directory serves to put the new root on; the spool is ours. */
	if (mount("tmpfs", binds[2].from, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64k") < 0)
		fail(h, "mounting the jail's root");
	if (chdir(binds[2].from) < 0 || mkdir("view", 0755) < 0)
		fail(h, "entering the jail's root");
	for (size_t i = 0; i < n; i++)
		if (binds[i].fd >= 0)
			put_tree(h, &binds[i]);
	if (h->dynamic) {
		add_library_dir(h, "lib");
		add_library_dir(h, "lib64");
	}
	if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		fail(h, "leaving the machine's file system");
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &seal, sizeof(seal)) < 0)
		fail(h, "sealing the jail's root");
}

/* Nothing of the core's but these: above all no listening socket and no channel, whose other end
 * must see the core's death at once. */
static void keep_three_fds(struct helper *h)
{
	const int keep[] = { h->report, h->null_fd, h->program };
	int high[ELEMENTS(keep)];

	for (size_t i = 0; i < ELEMENTS(keep); i++) {
		high[i] = fcntl(keep[i], F_DUPFD_CLOEXEC, PORTER_FIRST_FREE);
		if (high[i] < 0)
			fail(h, "keeping file descriptors");
	}
	for (size_t i = 0; i < ELEMENTS(keep); i++)
		if (dup3(high[i], PORTER_CHAN + (int)i, O_CLOEXEC) < 0)
			fail(h, "keeping file descriptors");
	h->report = PORTER_CHAN;
	if (close_range(PORTER_FIRST_FREE, ~0U, 0) < 0)
		fail(h, "closing file descriptors");
}

/* Every session inherits this: an empty bounding set, and no way back. The porter itself keeps what
 * it takes to show a spool and to change the root. */
static void seal(const struct helper *h)
{
	struct err e = {};
	int r = confine_seal(CONFINE_PORTER, &e);

	if (r < 0) {
		errno = -r;
		fail(h, "%s", err_msg(&e));
	}
	/* The change of capabilities has undone it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != h->parent)
		_exit(1);
}

/* Tells "ready" by an empty line. */
_noreturn_ static void helper_main(struct helper *h)
{
	keep_three_fds(h);
	enter_namespaces(h);
	build_root(h);
	(void)close_range(PORTER_FIRST_FREE, ~0U, 0); /* trees that are mounted now */
	(void)prctl(PR_SET_NAME, "airplant-porter");
	seal(h);
	if (write_full(h->report, "\n", 1) < 0)
		_exit(1);
	porter_serve(h->parent);
}

/* Does the program need an interpreter, and so libraries in its jail? 0, 1 or -errno. */
static int is_dynamic(int fd)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph;

	if (pread(fd, &eh, sizeof(eh), 0) != sizeof(eh) || memcmp(eh.e_ident, ELFMAG, SELFMAG))
		return -ENOEXEC;
	if (eh.e_ident[EI_CLASS] != ELFCLASS64)
		return 1;
	for (unsigned int i = 0; i < eh.e_phnum; i++) {
		off_t at = (off_t)(eh.e_phoff + (Elf64_Off)i * eh.e_phentsize);

		if (pread(fd, &ph, sizeof(ph), at) != sizeof(ph))
			return -ENOEXEC;
		if (ph.p_type == PT_INTERP)
			return 1;
	}
	return 0;
}

static int open_session(struct core *core, int *ret, bool *ret_dynamic, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	int r;

	if (asprintf(&path, "%s/airplant-session", core->libexec_dir) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, -errno, "opening the session program '%s'", path);
	r = is_dynamic(fd);
	if (r < 0)
		return err_errno(e, r, "reading the session program '%s'", path);
	*ret_dynamic = r;
	*ret = TAKE_FD(fd);
	return 0;
}

/* Waits for the porter's word. */
static int hear_ready(int report, struct err *e)
{
	char text[512];
	ssize_t n;

	do
		n = read(report, text, sizeof(text) - 1);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return err_set(e, -EIO, "the jail for sessions could not be prepared");
	text[n] = 0;
	if (strcmp(text, "\n"))
		return err_set(e, -EPERM, "the jail for sessions could not be prepared: %s", text);
	return 0;
}

static int start_porter(struct core *core, struct jail *j, int program, bool dynamic, struct err *e)
{
	int pair[2];
	_cleanup_close_ int theirs = -1, null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t pid;
	int r;

	if (null_fd < 0)
		return err_errno(e, -errno, "opening '/dev/null'");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(e, -errno, "creating a socket pair");
	j->chan = pair[0];
	theirs = pair[1];
	r = fork_pidfd(&pid, &j->pidfd);
	if (r < 0)
		return err_errno(e, r, "starting the jail's porter");
	if (r == 0) {
		struct helper h = { core, j->core, theirs, null_fd, program, dynamic };

		child_basics(j->core);
		helper_main(&h);
	}
	close_fdp(&theirs); /* else its death would not end the wait */
	return hear_ready(j->chan, e);
}

int jail_new(struct core *core, struct jail **ret, struct err *e)
{
	struct jail *j = malloc(sizeof(*j));
	_cleanup_close_ int program = -1;
	bool dynamic = true;
	int r;

	if (!j)
		return err_set(e, -ENOMEM, "out of memory");
	*j = (struct jail){ .chan = -1, .pidfd = -1, .core = getpid() };
	r = open_session(core, &program, &dynamic, e);
	if (r == 0)
		r = start_porter(core, j, program, dynamic, e);
	if (r < 0) {
		jail_free(j);
		return r;
	}
	*ret = j;
	return 0;
}

void jail_free(struct jail *j)
{
	siginfo_t si;

	if (!j)
		return;
	close_fdp(&j->chan);
	if (j->pidfd >= 0) {
		(void)syscall(SYS_pidfd_send_signal, j->pidfd, SIGKILL, NULL, 0); /* gone: fine */
		while (waitid(P_PIDFD, (id_t)j->pidfd, &si, WEXITED) < 0 && errno == EINTR)
			;
		close_fdp(&j->pidfd);
	}
	free(j);
}
