/* What processes hold. The looker's; see tracer.h.
 *
 * The names below /proc/PID stand here as literals, and no other is ever opened: mem in particular.
 *
 * Every text here is chosen by some user. None is parsed: kernel texts escape what would break a
 * line, base names of store paths hold nothing that is escaped, so a search for base names
 * finds them in maps as well as in an environment. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/nsfs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "ipc/roots.h"
#include "roots/tracer.h"

enum {
	CHUNK = 64 * 1024,
	/* execve takes 6 MB of arguments and environment at most; prctl can claim the whole address
	 * space to be the environment. */
	ENVIRON_MAX = 8 * 1024 * 1024,
	NO_LIMIT = -1,
};

struct process {
	struct looker *l;
	char name[40]; /* "/proc/PID" or "/proc/PID/task/TID" */
	int dir;
	bool cheap, denied, hindered;
	char memory[32]; /* the first thread that has some */
};

/* A process that has ended answers EACCES in some places (Linux, proc_pid_readlink). */
static bool is_gone(const struct process *p, int r)
{
	struct stat st;

	return r == -ENOENT || r == -ESRCH ||
	       (r == -EACCES && fstatat(p->dir, "comm", &st, 0) < 0 &&
		(errno == ENOENT || errno == ESRCH));
}

static void failed(struct process *p, const char *name, int r)
{
	char what[64];

	if (is_gone(p, r))
		return;
	snprintf(what, sizeof(what), "%s/%s", p->name, name);
	if (r == -EACCES || r == -EPERM)
		p->denied = true;
	else
		say_failed(p->l, what, r);
}

/* `what` is the name that its roots get. 0 or -errno. */
static int scan_text(struct looker *l, int fd, ssize_t max, const char *what)
{
	static char text[CHUNK + BASE_MAX + 2];
	size_t len = 0, done;
	ssize_t n;
	int r = 0;

	forget_seen(l);
	do {
		n = read(fd, text + len, CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = -errno;
		len += n > 0 ? (size_t)n : 0;
		done = say_roots(l, text, len, n <= 0, what);
		memmove(text, text + done, len - done);
		len -= done;
		max -= max > 0 ? (n < max ? n : max) : 0;
	} while (n > 0 && max != 0);
	return r;
}

static void scan_file(struct process *p, const char *name, ssize_t max)
{
	_cleanup_close_ int fd = openat(p->dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char what[64];
	int r = fd < 0 ? -errno : 0;

	if (r == -EINVAL)
		return; /* no namespaces any more: it is ending */
	snprintf(what, sizeof(what), "%s/%s", p->name, name);
	if (r == 0)
		r = scan_text(p->l, fd, max, what);
	if (r < 0)
		failed(p, name, r);
}

/* A file whose path is longer than PATH_MAX: no link shows it, but our own maps do once it is
 * mapped. Who does not own the store has no file in it; and a plain file that he owns may be
 * opened. */
static int scan_mapped(struct process *p, int dir, const char *name, const char *what)
{
	_cleanup_close_ int pinned = openat(dir, name, O_PATH | O_CLOEXEC), fd = -1, maps = -1;
	char self[64];
	struct stat st;
	void *at;
	int r;

	if (pinned < 0 || fstat(pinned, &st) < 0)
		return is_gone(p, -errno) ? 0 : -errno;
	if (st.st_uid != p->l->t->store_uid || !S_ISREG(st.st_mode))
		return 0;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", pinned);
	fd = openat(AT_FDCWD, self, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	at = fd < 0 ? MAP_FAILED : mmap(NULL, 1, PROT_NONE, MAP_PRIVATE, fd, 0);
	maps = at == MAP_FAILED ? -1 : openat(AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC);
	r = maps < 0 ? -errno : scan_text(p->l, maps, NO_LIMIT, what);
	if (at != MAP_FAILED)
		(void)munmap(at, 1);
	return r;
}

/* A path longer than PATH_MAX cannot be read, but from its directory one can climb until the rest
 * fits; the store path stands in front. */
static void scan_deep(struct process *p, int dir, const char *name, const char *what)
{
	int fd = openat(dir, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char self[64], text[PATH_MAX + 1];

	if (fd < 0 &&
	    (is_gone(p, -errno) || (errno == ENOTDIR && scan_mapped(p, dir, name, what) == 0)))
		return;
	while (fd >= 0) {
		_cleanup_close_ int below = fd;
		ssize_t n;

		snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
		n = readlinkat(AT_FDCWD, self, text, sizeof(text));
		if (n >= 0) {
			(void)say_roots(p->l, text, (size_t)n, true, what);
			return;
		}
		if (errno != ENAMETOOLONG)
			break;
		/* Eight names are shorter than half of what did not fit. */
		fd = openat(below, "../../../../../../../..", O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	p->hindered = true;
}

static bool scan_link(struct process *p, int dir, const char *prefix, const char *name)
{
	char text[PATH_MAX + 1], what[64 + NAME_MAX];
	ssize_t n = readlinkat(dir, name, text, sizeof(text));

	snprintf(what, sizeof(what), "%s/%s%s", p->name, prefix, name);
	if (n >= 0) {
		(void)say_roots(p->l, text, (size_t)n, true, what);
		return true;
	}
	if (errno == ENAMETOOLONG) {
		scan_deep(p, dir, name, what);
		return true;
	}
	failed(p, what + strlen(p->name) + 1, -errno);
	return false;
}

/* Numbered entries: open files, threads, processes. `each` gets the name. */
static void for_numbers(struct process *p, int parent, const char *name,
			void (*each)(struct process *p, int dir, const char *name))
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!d) {
		failed(p, name, -errno);
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((errno = 0, de = readdir(d)))
		if (de->d_name[0] >= '0' && de->d_name[0] <= '9')
			each(p, fd, de->d_name);
	if (errno)
		failed(p, name, -errno);
	closedir(d);
}

static void scan_fd(struct process *p, int dir, const char *name)
{
	(void)scan_link(p, dir, "fd/", name);
}

/* What is mounted is in use even where no name shows it any more; once for each namespace. */
static void scan_mounts(struct process *p)
{
	uint64_t *mounts = p->l->mounts;
	struct stat st;

	if (fstatat(p->dir, "ns/mnt", &st, 0) < 0) {
		failed(p, "ns/mnt", -errno);
		return;
	}
	if (mounts[st.st_ino % ELEMENTS(p->l->mounts)] == st.st_ino)
		return;
	mounts[st.st_ino % ELEMENTS(p->l->mounts)] = st.st_ino;
	scan_file(p, "mountinfo", NO_LIMIT);
}

static void scan_thread(struct process *p, const char *tid)
{
	bool has_exe = scan_link(p, p->dir, "", "exe");

	if (has_exe && !p->memory[0])
		snprintf(p->memory, sizeof(p->memory), "%.31s", tid);
	(void)scan_link(p, p->dir, "", "cwd");
	(void)scan_link(p, p->dir, "", "root");
	if (!p->cheap)
		for_numbers(p, p->dir, "fd", scan_fd);
}

/* Runs `scan` on a thread, by its own name. */
static void in_thread(struct process *p, int tasks, const char *tid,
		      void (*scan)(struct process *p, const char *tid))
{
	struct process all = *p;

	p->dir = openat(tasks, tid, O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(p->name, sizeof(p->name), "%.16s/task/%.10s", all.name, tid);
	if (p->dir < 0)
		failed(p, "", -errno);
	else
		scan(p, tid);
	close_fdp(&p->dir);
	p->dir = all.dir;
	memcpy(p->name, all.name, sizeof(p->name));
}

/* Other threads may have open files and a directory of their own; and once the first has ended,
 * the memory shows through them alone. */
static void look_at_task(struct process *p, int tasks, const char *tid)
{
	if (strcmp(strrchr(p->name, '/') + 1, tid) != 0)
		in_thread(p, tasks, tid, scan_thread);
}

/* Last: reading memory may take for ever. */
static void scan_memory(struct process *p, const char *tid)
{
	(void)tid;
	scan_mounts(p);
	scan_file(p, "maps", NO_LIMIT);
	scan_file(p, "environ", ENVIRON_MAX);
}

/* Time is charged to the user who made the outermost user namespace below ours: the ids within are
 * his, and there may be many. */
static uid_t account(const struct process *p, uid_t uid)
{
	int ns = openat(p->dir, "ns/user", O_RDONLY | O_CLOEXEC);
	struct stat st;

	while (ns >= 0 && fstat(ns, &st) == 0 && st.st_ino != p->l->own_ns) {
		_cleanup_close_ int child = ns;

		if (ioctl(child, NS_GET_OWNER_UID, &uid) < 0)
			return uid;
		ns = ioctl(child, NS_GET_PARENT);
	}
	close_fdp(&ns);
	return uid;
}

void look_at_process(struct looker *l, const char *pid)
{
	_cleanup_close_ int proc = openat(AT_FDCWD, l->t->proc, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int dir =
		proc < 0 ? -1 : openat(proc, pid, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct process p = { .l = l, .dir = dir };
	struct stat st;
	char granted;

	snprintf(p.name, sizeof(p.name), "/proc/%.10s", pid);
	if (dir < 0 || fstat(dir, &st) < 0) {
		failed(&p, "", -errno);
		return;
	}
	if (l->t->own_user && st.st_uid != geteuid()) {
		say(l, SAY_SKIPPED, "%s", "");
		return;
	}
	say(l, SAY_ACCOUNT, "%u", account(&p, st.st_uid));
	if (recv(l->chan, &granted, 1, 0) != 1)
		_exit(1);
	p.cheap = granted != 'y';
	forget_seen(l);
	scan_thread(&p, pid);
	if (!p.cheap) {
		_cleanup_close_ int tasks = openat(dir, "task", O_PATH | O_DIRECTORY | O_CLOEXEC);

		for_numbers(&p, dir, "task", look_at_task);
		if (!strcmp(p.memory, pid))
			scan_memory(&p, pid);
		else if (p.memory[0])
			in_thread(&p, tasks, p.memory, scan_memory);
	}
	if (p.denied && (l->t->own_user || l->t->skip_hidden))
		say(l, SAY_SKIPPED, "%s", "");
	else if (p.denied)
		say(l, ROOTS_INCOMPLETE,
		    "cannot look at %s: the kernel hides that process even from CAP_SYS_PTRACE "
		    "(airplant-roots --skip-hidden goes without such processes)",
		    p.name);
	if (p.hindered)
		say(l, SAY_HINDERED, "%s has names that are too long to be looked at", p.name);
}

static void say_process(struct process *p, int dir, const char *pid)
{
	(void)dir;
	say(p->l, SAY_NEXT, "p%s", pid);
}

void list_processes(struct looker *l)
{
	_cleanup_close_ int proc = openat(AT_FDCWD, l->t->proc, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct process p = { .l = l, .name = "/proc", .dir = proc };

	for_numbers(&p, proc, ".", say_process);
}

void look_at_kernel(struct looker *l)
{
	static const char *const names[] = { "modprobe", "fbsplash", "poweroff_cmd" };
	_cleanup_close_ int proc = openat(AT_FDCWD, l->t->proc, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int dir = openat(proc, "sys/kernel", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct process p = { .l = l, .name = "/proc/sys/kernel", .dir = dir };

	if (dir < 0)
		failed(&p, "", -errno);
	for (size_t i = 0; dir >= 0 && i < ELEMENTS(names); i++)
		scan_file(&p, names[i], CHUNK);
}
