/* The builder's file system: an almost empty tmpfs with the store directory, /tmp and the build
 * directory from the scratch, inputs bind-mounted read-only, and /dev, /proc, /etc of its own.
 *
 * Everything in it belongs to the builder's one id, since in mode single there is no other; what
 * upstream protects by root's ownership is protected here by modes without a write bit.
 * Runs in the child before any foreign code does, with the capabilities of O and no others.
 * Linked by airplant-build alone. Source of the layout: feature rows D5 to D14. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "build/bind.h"
#include "build/network.h"
#include "build/supervisor.h"

enum { RESOLVER_MAX = 64 * 1024 };

/* Directories of the scratch that the build uses, made by the slot's id. */
int root_scratch(struct build *b, struct err *e)
{
	static const struct {
		const char *name;
		mode_t mode;
	} dirs[] = { { "build", 0700 }, { "store", 01775 }, { "tmp", 01777 } };

	for (size_t i = 0; i < ELEMENTS(dirs); i++)
		if (mkdirat(b->top, dirs[i].name, 0700) < 0 ||
		    fchmodat(b->top, dirs[i].name, dirs[i].mode, 0) < 0)
			return err_errno(e, -errno, "creating directory '%s/%s'", b->s.scratch,
					 dirs[i].name);
	_cleanup_close_ int dir = open_beneath(b->top, "build", O_RDONLY | O_DIRECTORY, 0);

	if (dir < 0)
		return err_errno(e, dir, "opening '%s/build'", b->s.scratch);
	for (size_t i = 0; i < b->s.files.n; i++) {
		const struct build_pair *f = &b->s.files.v[i];
		_cleanup_close_ int fd = -1;

		if (!*f->name || strchr(f->name, '/') || !strcmp(f->name, ".") ||
		    !strcmp(f->name, ".."))
			return err_set(e, -EINVAL, "invalid file name '%s' in the build directory",
				       f->name);
		fd = open_beneath(dir, f->name, O_WRONLY | O_CREAT | O_EXCL, 0666);
		if (fd < 0)
			return err_errno(e, fd, "creating file '%s'", f->name);
		int r = write_full(fd, f->value, strlen(f->value));

		if (r < 0)
			return err_errno(e, r, "writing file '%s'", f->name);
	}
	return b->s.recursive ? show_bind(b, dir, e) : 0;
}

static int put_file(const char *path, const char *text, mode_t mode)
{
	_cleanup_close_ int fd =
		open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);

	if (fd < 0)
		return errno == EEXIST ? 0 : -errno; /* another bind stands there already */
	return write_full(fd, text, strlen(text));
}

/* The host's file behind `path`, symlinks resolved, as upstream resolves those it adds itself.
 * Nothing where there is none. */
static int bind_resolved(const struct build *b, const char *path, struct err *e)
{
	_cleanup_free_ char *real = realpath(path, NULL);

	return real ? bind_path(b, real, path, true, 0, e) : 0;
}

static int set_attr(const char *path, unsigned int flags, uint64_t set, uint64_t clear)
{
	struct mount_attr attr = { .attr_set = set, .attr_clr = clear };

	return syscall(SYS_mount_setattr, AT_FDCWD, path, flags, &attr, sizeof(attr)) < 0 ? -errno
											  : 0;
}

/* `name` of the scratch, which by now is covered by the new root and reached through its fd. */
static int scratch_dir(struct build *b, const char *name, const char *target, struct err *e)
{
	char source[64];
	int r = bind_make_dirs(target);

	snprintf(source, sizeof(source), "/proc/self/fd/%d/%s", b->top, name);
	if (r == 0 && mount(source, target, NULL, MS_BIND, NULL) < 0)
		r = -errno;
	if (r == 0)
		r = set_attr(target, 0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0);
	return r < 0 ? err_errno(e, r, "bind mount of '%s/%s' to '/%s' failed", b->s.scratch, name,
				 target)
		     : 0;
}

static bool is_output(const struct build *b, const char *base)
{
	for (size_t i = 0; i < b->s.outputs.n; i++)
		if (!strcmp(b->s.outputs.v[i].path, base))
			return true;
	return false;
}

/* The place for one input beneath `dirfd`: a directory, a file to be covered, or the symlink
 * itself. `ret_bind` says that something is to be mounted on it. */
static int make_place(struct build *b, int store, const char *base, int dirfd, bool *ret_bind)
{
	struct stat st;
	char to[4096];
	ssize_t n;
	int r;

	*ret_bind = false;
	if (!*base || *base == '.' || strchr(base, '/') || strlen(base) > 255)
		return -EINVAL;
	if (is_output(b, base))
		return 0; /* rebuilding a path that is also in the closure of a sandbox path */
	if (fstatat(store, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	*ret_bind = !S_ISLNK(st.st_mode);
	if (S_ISLNK(st.st_mode)) {
		n = readlinkat(store, base, to, sizeof(to) - 1);
		if (n < 0 || (size_t)n == sizeof(to) - 1)
			return n < 0 ? -errno : -ENAMETOOLONG;
		to[n] = 0;
		r = symlinkat(to, dirfd, base);
	} else if (S_ISDIR(st.st_mode)) {
		r = mkdirat(dirfd, base, 0555);
	} else {
		r = mknodat(dirfd, base, S_IFREG | 0444, 0);
	}
	return r < 0 ? -errno : 0;
}

static int input_failed(const struct build *b, const char *base, int r, struct err *e)
{
	return err_errno(e, r, "making '%s/%s' available to the builder", b->s.store_dir, base);
}

/* `bind` has one byte per input. */
static int make_places(struct build *b, int store, int dirfd, bool *bind, struct err *e)
{
	for (size_t i = 0; i < b->s.inputs.n; i++) {
		int r = make_place(b, store, b->s.inputs.v[i], dirfd, &bind[i]);

		if (r == -EEXIST) {
			bind[i] = false; /* named twice */
			r = 0;
		}
		if (r < 0)
			return input_failed(b, b->s.inputs.v[i], r, e);
	}
	return 0;
}

/* The working directory is the builder's store. */
static int bind_inputs(struct build *b, const bool *bind, struct err *e)
{
	size_t prefix = strlen(b->s.real_store) + 1;
	_cleanup_free_ char *source = malloc(prefix + 256);
	int r;

	if (!source)
		return err_set(e, -ENOMEM, "out of memory");
	memcpy(source, b->s.real_store, prefix - 1);
	source[prefix - 1] = '/';
	for (size_t i = 0; i < b->s.inputs.n; i++) {
		const char *base = b->s.inputs.v[i];

		if (!bind[i])
			continue;
		memcpy(source + prefix, base, strlen(base) + 1);
		if (mount(source, base, NULL, MS_BIND | MS_REC, NULL) < 0)
			return input_failed(b, base, -errno, e);
	}
	/* One call makes all of them read-only; the builder's store itself stays writable. */
	r = set_attr(".", AT_RECURSIVE, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
		     0);
	if (r == 0)
		r = set_attr(".", 0, 0, MOUNT_ATTR_RDONLY);
	return r < 0 ? err_errno(e, r, "making the builder's inputs read-only") : 0;
}

/* Thousands of mount points cost a disk file system a second to make and to delete again, and a
 * tmpfs nothing: so they lie on a tmpfs under the scratch's store directory. Where the kernel or
 * the file system cannot do that (-errno), the caller makes them on disk. */
static int overlay_store(struct build *b, int store, const char *target, bool *bind, struct err *e)
{
	_cleanup_close_ int lower = -1;
	char options[256];
	int r;

	if (mkdirat(b->top, "work", 0700) < 0 || mkdir("../lower", 01775) < 0 ||
	    chmod("../lower", 01775) < 0)
		return -errno;
	lower = open("../lower", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lower < 0)
		return -errno;
	r = make_places(b, store, lower, bind, e);
	if (r < 0)
		return r;
	snprintf(options, sizeof(options),
		 "userxattr,lowerdir=/proc/self/fd/%d,upperdir=/proc/self/fd/%d/store,"
		 "workdir=/proc/self/fd/%d/work",
		 lower, b->top, b->top);
	return mount("overlay", target, "overlay", MS_NOSUID | MS_NODEV, options) < 0 ? -errno : 0;
}

enum { MANY_INPUTS = 100 };

/* The working directory is the new root, before and after. */
static int make_store(struct build *b, struct err *e)
{
	_cleanup_close_ int store = open(b->s.real_store, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int root = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ bool *bind = calloc(b->s.inputs.n + 1, sizeof(*bind));
	const char *target = bind_rel(b->s.store_dir);
	int r = store < 0 || root < 0 || !bind ? -errno : bind_make_dirs(target);

	if (r < 0)
		return err_errno(e, r, "opening the store '%s'", b->s.real_store);
	if (b->s.inputs.n < MANY_INPUTS || overlay_store(b, store, target, bind, e) < 0) {
		err_done(e);
		r = scratch_dir(b, "store", target, e);
		if (r == 0 && chdir(target) < 0)
			r = err_errno(e, -errno, "changing into '%s'", b->s.store_dir);
		if (r == 0)
			r = make_places(b, store, AT_FDCWD, bind, e);
	} else if (chdir(target) < 0) {
		r = err_errno(e, -errno, "changing into '%s'", b->s.store_dir);
	}
	if (r == 0)
		r = bind_inputs(b, bind, e);
	if (r == 0 && fchdir(root) < 0)
		r = err_errno(e, -errno, "changing into '/'");
	return r;
}

static int make_dev(struct build *b, struct err *e)
{
	static const char *const nodes[] = { "/dev/full", "/dev/null",	  "/dev/random",
					     "/dev/tty",  "/dev/urandom", "/dev/zero" };
	static const char *const links[][2] = { { "/proc/self/fd", "dev/fd" },
						{ "/proc/self/fd/0", "dev/stdin" },
						{ "/proc/self/fd/1", "dev/stdout" },
						{ "/proc/self/fd/2", "dev/stderr" },
						{ "/dev/pts/ptmx", "dev/ptmx" } };
	char options[64];

	if (mkdir("dev", 0755) < 0 || mkdir("dev/shm", 0755) < 0 || mkdir("dev/pts", 0755) < 0)
		return err_errno(e, -errno, "creating '/dev'");
	for (size_t i = 0; i < ELEMENTS(nodes); i++) {
		int r = bind_path(b, nodes[i], nodes[i], false, MOUNT_ATTR_NOEXEC, e);

		if (r < 0)
			return r;
	}
	if (b->s.kvm) {
		int r = bind_path(b, "/dev/kvm", "/dev/kvm", false, MOUNT_ATTR_NOEXEC, e);

		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < ELEMENTS(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0)
			return err_errno(e, -errno, "creating symlink '/%s'", links[i][1]);
	snprintf(options, sizeof(options), "mode=1777,size=%s",
		 *b->s.shm_size ? b->s.shm_size : "50%");
	if (mount("none", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, options) < 0)
		return err_errno(e, -errno, "mounting /dev/shm");
	if (mount("none", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		  "newinstance,mode=0620,ptmxmode=0666") < 0)
		return err_errno(e, -errno, "mounting /dev/pts");
	return 0;
}

/* The host's resolv.conf with pasta in place of its name servers, which may listen on the host's
 * loopback. Without one on the host there is none, as in upstream. */
static int put_resolver(void)
{
	_cleanup_free_ char *host = NULL;
	_cleanup_buf_ struct buf text = BUF_INIT(RESOLVER_MAX);
	int r = read_file_at(AT_FDCWD, "/etc/resolv.conf", RESOLVER_MAX / 2, &host, NULL);
	char *at = host, *line;

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	r = buf_append_str(&text, "nameserver " NETWORK_DNS "\n");
	while (r == 0 && (line = strsep(&at, "\n")))
		if (!strncmp(line, "search", 6) || !strncmp(line, "domain", 6) ||
		    !strncmp(line, "options", 7))
			r = buf_printf(&text, "%s\n", line);
	if (r == 0)
		r = buf_append(&text, "", 1);
	return r < 0 ? r : put_file("etc/resolv.conf", (char *)text.data, 0444);
}

static int make_etc(struct build *b, struct err *e)
{
	char passwd[512], group[256];
	unsigned int uid = (unsigned int)b->s.uid, gid = (unsigned int)b->s.gid;
	int r;

	snprintf(passwd, sizeof(passwd),
		 "root:x:0:0:Nix build user:%3$s:/noshell\n"
		 "nixbld:x:%1$u:%2$u:Nix build user:%3$s:/noshell\n"
		 "nobody:x:65534:65534:Nobody:/:/noshell\n",
		 uid, gid, b->s.build_dir);
	snprintf(group, sizeof(group), "root:x:0:\nnixbld:!:%u:\nnogroup:x:65534:\n", gid);
	r = bind_make_dirs("etc");
	if (r == 0)
		r = put_file("etc/passwd", passwd, 0444);
	if (r == 0)
		r = put_file("etc/group", group, 0444);
	if (r == 0 && !b->s.network)
		r = put_file("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0444);
	if (r == 0 && b->s.network)
		r = put_file("etc/nsswitch.conf", "hosts: files dns\nservices: files\n", 0444);
	if (r == 0 && b->s.network)
		r = put_resolver();
	if (r < 0)
		return err_errno(e, r, "writing the builder's /etc");
	static const char *const network[] = { "/etc/services", "/etc/hosts" };

	for (size_t i = 0; b->s.network && i < ELEMENTS(network); i++) {
		r = bind_resolved(b, network[i], e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct build_pair *)a)->name, ((const struct build_pair *)b)->name);
}

/* What a configured path may not be written through: anything in the store; and where the builder
 * has the daemon's own id (mode single), what leads to the store or to other builds' scratches. */
static bool is_protected(const struct build *b, const char *source)
{
	_cleanup_free_ char *real = realpath(source, NULL);
	_cleanup_free_ char *store = realpath(b->s.real_store, NULL);
	_cleanup_free_ char *scratch = realpath(b->s.scratch, NULL);

	if (!real || !store || !scratch || bind_lies_in(real, store))
		return true; /* what cannot be told is treated with care */
	return b->ids.mode == IDS_SINGLE &&
	       (bind_lies_in(store, real) || bind_lies_in(scratch, real));
}

static int bind_one(struct build *b, const char *source, const char *target, bool optional,
		    struct err *e)
{
	bool protect = is_protected(b, source);

	return bind_path(b, source, target, optional,
			 protect ? MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV : 0, e);
}

/* The configured paths, parents before what lies in them. */
static int bind_configured(struct build *b, struct err *e)
{
	qsort(b->s.binds.v, b->s.binds.n, sizeof(*b->s.binds.v), by_name);
	for (size_t i = 0; i < b->s.binds.n; i++) {
		struct build_pair *p = &b->s.binds.v[i];
		size_t len = strlen(p->value);
		bool optional = len > 0 && p->value[len - 1] == '?';
		int r;

		if (optional)
			p->value[len - 1] = 0;
		if (!strcmp(p->value, "/proc"))
			continue; /* there is one already */
		if (p->name[0] != '/' || strstr(p->name, "/../") || !*bind_rel(p->name))
			return err_set(e, -EINVAL, "invalid sandbox path '%s'", p->name);
		r = bind_one(b, p->value, p->name, optional, e);
		if (r < 0)
			return r;
	}
	return 0;
}

bool root_shares(const struct build *b)
{
	for (size_t i = 0; i < b->s.binds.n; i++) {
		_cleanup_free_ char *path = strdup(b->s.binds.v[i].value);
		struct stat st;
		size_t len;

		if (!path)
			return true;
		len = strlen(path);
		if (len && path[len - 1] == '?')
			path[len - 1] = 0;
		if (strcmp(path, b->s.real_store) && bind_lies_in(path, b->s.real_store) &&
		    !strstr(path, "/../"))
			continue; /* there are no sockets in a store */
		if (stat(path, &st) < 0 ? errno != ENOENT
					: !S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode))
			return true;
	}
	return false;
}

static bool has_bind(const struct build *b, const char *target)
{
	for (size_t i = 0; i < b->s.binds.n; i++)
		if (!strcmp(b->s.binds.v[i].name, target))
			return true;
	return false;
}

int root_loopback(void)
{
	_cleanup_close_ int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING };

	if (s < 0)
		return -errno;
	return ioctl(s, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

static int set_names(struct err *e)
{
	/* The terminating zero belongs to it: upstream passes it, and builders see it. */
	if (sethostname("localhost", sizeof("localhost")) < 0 ||
	    setdomainname("(none)", sizeof("(none)")) < 0)
		return err_errno(e, -errno, "cannot set host name");
	return 0;
}

/* Takes the write bits from every directory that upstream's builder cannot write to either. */
static int seal_dirs(struct build *b, struct err *e)
{
	_cleanup_free_ char *parents = strdup(bind_rel(b->s.store_dir));
	char *slash;

	if (!parents)
		return err_set(e, -ENOMEM, "out of memory");
	while ((slash = strrchr(parents, '/'))) {
		*slash = 0;
		if (strcmp(parents, "tmp") != 0 && chmod(parents, 0555) < 0)
			return err_errno(e, -errno, "sealing '/%s'", parents);
	}
	if (is_range(b))
		return 0; /* its root may write everywhere; these are for containers as well */
	if (!has_bind(b, "/dev") && (chmod("dev", 0555) < 0 || chmod("etc", 0555) < 0))
		return err_errno(e, -errno, "sealing '/dev' and '/etc'");
	return chmod(".", 0555) < 0 ? err_errno(e, -errno, "sealing '/'") : 0;
}

static int build_root(struct build *b, struct err *e)
{
	int r = scratch_dir(b, "tmp", "tmp", e); /* first: the store may lie below it */

	if (r == 0)
		r = make_store(b, e);
	if (r == 0)
		r = scratch_dir(b, "build", bind_rel(b->s.build_dir), e);
	if (r == 0 && !has_bind(b, "/dev"))
		r = make_dev(b, e);
	if (r == 0)
		r = make_etc(b, e);
	if (r == 0)
		r = bind_configured(b, e);
	if (r == 0 && !is_range(b))
		r = root_proc(b, e);
	if (r == 0)
		r = seal_dirs(b, e);
	return r;
}

/* Where there are many inputs: a tmpfs around the root's that gives the store its mount points
 * without touching the disk, and is out of the builder's reach. */
static int enter_outer_root(const struct build *b)
{
	if (b->s.inputs.n < MANY_INPUTS)
		return 0;
	if (mount("airplant", b->s.scratch, "tmpfs", MS_NOSUID | MS_NODEV,
		  "mode=0700,nr_inodes=0") < 0 ||
	    chdir(b->s.scratch) < 0)
		return -1;
	return mkdir("root", 0700);
}

void root_path(const struct build *b, char *ret, size_t size)
{
	snprintf(ret, size, "%s%s", b->s.scratch, b->s.inputs.n < MANY_INPUTS ? "" : "/root");
}

int root_make(struct build *b, struct err *e)
{
	char root[4096];

	root_path(b, root, sizeof(root));
	if (enter_outer_root(b) < 0 ||
	    mount("airplant", root, "tmpfs", MS_NOSUID | MS_NODEV,
		  "mode=0755,size=16m,nr_inodes=64k") < 0 ||
	    chdir(root) < 0)
		return err_errno(e, -errno, "mounting the builder's root directory");
	return build_root(b, e);
}

/* The working directory is the new root; the old one goes. */
static int pivot(const struct build *b, struct err *e)
{
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return err_errno(e, -errno, "cannot pivot old root directory");
	if (umount2(".", MNT_DETACH) < 0)
		return err_errno(e, -errno, "cannot unmount real root filesystem");
	if (chdir("/") < 0 || chdir(b->s.build_dir) < 0)
		return err_errno(e, -errno, "changing into " Q_PATH, b->s.build_dir);
	return 0;
}

int root_enter(struct build *b, struct err *e)
{
	int r = set_names(e);

	if (r == 0)
		r = root_make(b, e);
	return r < 0 ? r : pivot(b, e);
}

/* /sys of the build's network namespace, and its cgroup. A fixed output's network is not its own.
 */
static int make_sys(const struct build *b, struct err *e)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	if (mkdir("sys", 0555) < 0)
		return err_errno(e, -errno, "creating '/sys'");
	if (!b->s.fixed && mount("none", "sys", "sysfs", flags | MS_RDONLY, NULL) < 0)
		return err_errno(e, -errno, "mounting /sys");
	if (b->s.fixed && bind_make_dirs("sys/fs/cgroup") < 0)
		return err_errno(e, -errno, "creating '/sys/fs/cgroup'");
	if (b->cgroup >= 0 && mount("none", "sys/fs/cgroup", "cgroup2", flags, NULL) < 0)
		return err_errno(e, -errno, "mounting /sys/fs/cgroup");
	return 0;
}

/* The builder's own, whose flags are not locked: container managers mount what lies there again
 * with flags of theirs. */
static int make_run(const struct build *b, struct err *e)
{
	if (has_bind(b, "/run"))
		return 0;
	if ((mkdir("run", 0755) < 0 && errno != EEXIST) ||
	    mount("airplant", "run", "tmpfs", 0, "mode=0755,size=16m,nr_inodes=64k") < 0)
		return err_errno(e, -errno, "mounting /run");
	return 0;
}

/* Every mount came locked to its place from the namespace before, and a locked one cannot become
 * the root: a copy of the whole tree can. */
static int unlock_root(struct err *e)
{
	_cleanup_close_ int fd = (int)syscall(SYS_open_tree, AT_FDCWD, ".",
					      OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

	if (fd < 0 || syscall(SYS_move_mount, fd, "", AT_FDCWD, ".", MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
	    fchdir(fd) < 0)
		return err_errno(e, -errno, "copying the builder's root directory");
	return 0;
}

int root_finish(struct build *b, struct err *e)
{
	int r = set_names(e);

	/* Its own network namespace, where that is not the one that net_start() made. */
	if (r == 0 && !b->s.fixed) {
		r = root_loopback();
		if (r < 0)
			(void)err_errno(e, r, "cannot set loopback interface flags");
	}
	if (r == 0)
		r = root_proc(b, e);
	if (r == 0)
		r = make_sys(b, e);
	if (r == 0)
		r = make_run(b, e);
	if (r == 0)
		r = unlock_root(e);
	return r < 0 ? r : pivot(b, e);
}
