/* See cgroup.h. Everything goes through the fd of the delegated directory. Nothing here reads what
 * a build wrote: names of groups below a leaf are its supervisor's business. */
#include "core/cgroup.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/core.h"

enum { PROC_MAX = 1 << 20, DEPTH_MAX = 32, DESCENDANTS_MAX = 4096 };

#define LEAF_PREFIX "build-"
#define HOOK_PREFIX "hook-"
static const char own_leaf[] = "airplantd";

enum controller { MEMORY, PIDS, CPU, N_CONTROLLERS };
static const char *const controllers[N_CONTROLLERS] = { "memory", "pids", "cpu" };

struct cgroups {
	int dir;
	char *path;
	bool has[N_CONTROLLERS];
	unsigned long next; /* makes names unique */
	struct strv left;   /* of hooks that have ended: something is in them still */
};

static int write_at(int dir, const char *name, const char *text)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : write_full(fd, text, strlen(text));
}

/* ---- where ---- */

/* The v2 line of /proc/self/cgroup: "0::/path". */
static int own_group(char **ret)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL;
	int r = read_file_at(AT_FDCWD, "/proc/self/cgroup", PROC_MAX, &text, NULL);

	for (char *l = r < 0 ? NULL : strtok_r(text, "\n", &save); l;
	     l = strtok_r(NULL, "\n", &save))
		if (!strncmp(l, "0::/", 4)) {
			*ret = strdup(l + 3);
			return *ret ? 0 : -ENOMEM;
		}
	return r < 0 ? r : -ENOENT;
}

/* A line of mountinfo: the directory in which the group `own` is seen through it, or NULL. */
static char *seen_through(char *line, const char *own)
{
	char *root, *point, *type = strstr(line, " - "), *save = NULL, *ret = NULL;
	size_t len;

	if (!type || strncmp(type + 3, "cgroup2 ", 8) != 0)
		return NULL;
	for (int i = 0; i < 3; i++)
		if (!strtok_r(i ? NULL : line, " ", &save))
			return NULL;
	root = strtok_r(NULL, " ", &save);
	point = strtok_r(NULL, " ", &save);
	if (!root || !point || strchr(point, '\\'))
		return NULL;
	len = strcmp(root, "/") ? strlen(root) : 0;
	if (strncmp(own, root, len) != 0 || (own[len] && own[len] != '/'))
		return NULL;
	if (asprintf(&ret, "%s%s", point, strcmp(own + len, "/") ? own + len : "") < 0)
		return NULL;
	return ret;
}

static int own_directory(char **ret, struct err *e)
{
	_cleanup_free_ char *own = NULL, *mounts = NULL;
	char *save = NULL;
	int r = own_group(&own);

	if (r == 0)
		r = read_file_at(AT_FDCWD, "/proc/self/mountinfo", PROC_MAX, &mounts, NULL);
	if (r < 0)
		return err_errno(e, r, "this machine shows no cgroup v2");
	for (char *l = strtok_r(mounts, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		*ret = seen_through(l, own);
		if (*ret)
			return 0;
	}
	return err_set(e, -ENOENT, "this machine has no cgroup v2 mounted");
}

/* The directory to use; `ret_inside` is whether this process is directly in it. */
static int find(const struct core *core, char **ret, bool *ret_inside, struct err *e)
{
	const char *named = core->settings.build_cgroup;
	_cleanup_free_ char *own = NULL;
	size_t len = strlen(named);
	int r = own_directory(&own, e);

	if (r < 0)
		return r;
	if (len && (strncmp(own, named, len) != 0 || (own[len] && own[len] != '/')))
		return err_set(e, -EXDEV,
			       "the daemon's own cgroup '%s' does not lie in '%s', which "
			       "'build-cgroup' names",
			       own, named);
	*ret_inside = !len || !own[len];
	*ret = len ? strdup(named) : TAKE_PTR(own);
	return *ret ? 0 : err_set(e, -ENOMEM, "out of memory");
}

/* ---- what ---- */

static void read_controllers(struct cgroups *g)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL;

	/* Unreadable means none. */
	if (read_file_at(g->dir, "cgroup.controllers", 4096, &text, NULL) < 0)
		return;
	for (char *w = strtok_r(text, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
		for (int i = 0; i < N_CONTROLLERS; i++)
			if (!strcmp(w, controllers[i]))
				g->has[i] = true;
}

/* Turns on what there is; what cannot be turned on is missing. */
static int enable_controllers(struct cgroups *g)
{
	int first = 0;

	for (int i = 0; i < N_CONTROLLERS; i++) {
		char text[16];
		int r;

		if (!g->has[i])
			continue;
		snprintf(text, sizeof(text), "+%s", controllers[i]);
		r = write_at(g->dir, "cgroup.subtree_control", text);
		g->has[i] = r == 0;
		if (r < 0 && !first)
			first = r;
	}
	return first;
}

static int enter_leaf(struct cgroups *g, struct err *e)
{
	_cleanup_close_ int leaf = -1;
	int r;

	if (mkdirat(g->dir, own_leaf, 0755) < 0 && errno != EEXIST)
		return err_errno(e, -errno, "creating directory '%s/%s'", g->path, own_leaf);
	leaf = openat(g->dir, own_leaf, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = leaf < 0 ? -errno : write_at(leaf, "cgroup.procs", "0");
	if (r < 0)
		return err_errno(e, r, "moving the daemon into '%s/%s'", g->path, own_leaf);
	return 0;
}

/* Leaves of a daemon that was killed; their supervisors end by themselves when it is gone. */
static void remove_leftovers(struct cgroups *g)
{
	int fd = openat(g->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	while (dir && (de = readdir(dir))) {
		_cleanup_close_ int leaf = -1;

		if (!strncmp(de->d_name, HOOK_PREFIX, sizeof(HOOK_PREFIX) - 1))
			(void)unlinkat(g->dir, de->d_name, AT_REMOVEDIR); /* or it goes on */

		if (strncmp(de->d_name, LEAF_PREFIX, sizeof(LEAF_PREFIX) - 1) != 0)
			continue;
		leaf = openat(g->dir, de->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (leaf >= 0)
			(void)write_at(leaf, "cgroup.kill", "1"); /* or it is empty already */
		if (unlinkat(g->dir, de->d_name, AT_REMOVEDIR) < 0 && errno != EBUSY)
			log_warn("removing the cgroup '%s/%s': %s", g->path, de->d_name,
				 strerror(errno));
	}
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
}

static void say(const struct cgroups *g, int enable_error)
{
	_cleanup_buf_ struct buf missing = BUF_INIT(256);

	for (int i = 0; i < N_CONTROLLERS; i++)
		if (!g->has[i] &&
		    buf_printf(&missing, "%s%s", missing.len ? ", " : "", controllers[i]) < 0)
			return; /* no memory, and nothing but a line lost */
	if (!missing.len)
		log_info("cgroups: one per build below '%s', with limits", g->path);
	else
		log_warn("cgroups: one per build below '%s', but without the controllers %.*s%s%s: "
			 "these limits of builds do not hold%s; they need cgroup v2 alone (kernel "
			 "parameter systemd.unified_cgroup_hierarchy=1) and Delegate=yes in the "
			 "daemon's unit",
			 g->path, (int)missing.len, (char *)missing.data, enable_error ? ": " : "",
			 enable_error ? strerror(-enable_error) : "",
			 g->has[PIDS] ? "" : ", except for processes (RLIMIT_NPROC)");
}

static int open_delegated(struct cgroups *g, const struct core *core, bool *ret_inside,
			  struct err *e)
{
	int r = find(core, &g->path, ret_inside, e);

	if (r < 0)
		return r;
	g->dir = open(g->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (g->dir < 0)
		return err_errno(e, -errno, "opening '%s'", g->path);
	if (faccessat(g->dir, ".", W_OK, 0) < 0 || faccessat(g->dir, "cgroup.procs", W_OK, 0) < 0)
		return err_errno(e, -errno, "the cgroup '%s' is not delegated to this user",
				 g->path);
	return 0;
}

struct cgroups *cgroups_new(const struct core *core)
{
	struct cgroups *g = calloc(1, sizeof(*g));
	_cleanup_err_ struct err e = {};
	bool inside = false;
	int r;

	if (!g)
		return NULL;
	g->dir = -1;
	r = open_delegated(g, core, &inside, &e);
	if (r == 0 && inside)
		r = enter_leaf(g, &e);
	if (r < 0) {
		log_warn("cgroups: none for builds, because %s: limits on their memory and "
			 "processor time do not hold (processes are counted by RLIMIT_NPROC); put "
			 "Delegate=yes into the daemon's unit, or name a cgroup v2 directory that "
			 "belongs to its user with 'build-cgroup' and start the daemon in it",
			 err_msg(&e));
		cgroups_free(g);
		return NULL;
	}
	read_controllers(g);
	r = enable_controllers(g);
	remove_leftovers(g);
	say(g, r);
	return g;
}

static void remove_left(struct cgroups *g)
{
	size_t n = 0;

	for (size_t i = 0; i < g->left.n; i++) {
		if (unlinkat(g->dir, g->left.v[i], AT_REMOVEDIR) < 0 && errno == EBUSY)
			g->left.v[n++] = g->left.v[i];
		else
			free(g->left.v[i]);
	}
	g->left.n = n;
}

void cgroups_free(struct cgroups *g)
{
	if (!g)
		return;
	if (g->dir >= 0)
		remove_left(g);
	strv_done(&g->left);
	close_fdp(&g->dir);
	free(g->path);
	free(g);
}

bool cgroups_count_pids(const struct cgroups *g)
{
	return g && g->has[PIDS];
}

/* ---- one build's ---- */

static int limit(const struct cgroups *g, const struct cgroup *c, const char *file, uint64_t value,
		 struct err *e)
{
	char text[24];
	int r;

	if (value == UINT64_MAX || value == 0)
		return 0; /* none, or the kernel's default */
	snprintf(text, sizeof(text), "%" PRIu64, value);
	r = write_at(c->fd, file, text);
	return r < 0 ? err_errno(e, r, "writing '%s' to '%s/%s/%s'", text, g->path, c->name, file)
		     : 0;
}

static int set_limits(const struct cgroups *g, const struct cgroup *c, const struct settings *s,
		      bool divisible, struct err *e)
{
	const struct {
		enum controller needs;
		const char *file;
		uint64_t value;
	} limits[] = {
		{ PIDS, "pids.max", s->build_pids_max },
		{ MEMORY, "memory.max", s->build_memory_max },
		{ MEMORY, "memory.high", s->build_memory_high },
		{ MEMORY, "memory.oom.group", 1 },
		{ CPU, "cpu.weight", s->build_cpu_weight },
	};
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTS(limits); i++)
		if (g->has[limits[i].needs])
			r = limit(g, c, limits[i].file, limits[i].value, e);
	if (r == 0 && divisible)
		r = limit(g, c, "cgroup.max.depth", DEPTH_MAX, e);
	if (r == 0 && divisible)
		r = limit(g, c, "cgroup.max.descendants", DESCENDANTS_MAX, e);
	return r;
}

/* "build-hello-1.0.7": what the derivation is called, without what tools would quote. */
static void name_leaf(struct cgroup *c, const char *prefix, const char *name, unsigned long n)
{
	size_t len = strlen(name);

	if (len > 4 && !strcmp(name + len - 4, ".drv"))
		len -= 4;
	if (len > 200)
		len = 200;
	snprintf(c->name, sizeof(c->name), "%s%.*s.%lu", prefix, (int)len, name, n);
	for (char *p = c->name; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("-._", *p))
			*p = '_';
}

static int make_leaf(struct cgroups *g, const struct core *core, const char *prefix,
		     const char *name, bool divisible, struct cgroup *ret, struct err *e)
{
	struct cgroup c = CGROUP_INIT;
	int r;

	do
		name_leaf(&c, prefix, name, ++g->next);
	while ((r = mkdirat(g->dir, c.name, 0755) < 0 ? -errno : 0) == -EEXIST);
	if (r == 0) {
		c.fd = openat(g->dir, c.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (c.fd < 0)
			r = -errno;
	}
	if (r < 0)
		return err_errno(e, r, "creating the cgroup '%s/%s'", g->path, c.name);
	r = set_limits(g, &c, &core->settings, divisible, e);
	if (r < 0)
		(void)cgroup_remove(g, &c); /* nothing is in it */
	else
		*ret = c;
	return r;
}

int cgroup_make(struct cgroups *g, const struct core *core, const char *drv_base, bool divisible,
		struct cgroup *ret, struct err *e)
{
	const char *dash = strchr(drv_base, '-');

	return make_leaf(g, core, LEAF_PREFIX, dash ? dash + 1 : drv_base, divisible, ret, e);
}

int cgroup_make_hook(struct cgroups *g, const struct core *core, const char *program,
		     struct cgroup *ret, struct err *e)
{
	const char *slash = strrchr(program, '/');

	remove_left(g);
	return make_leaf(g, core, HOOK_PREFIX, slash ? slash + 1 : program, false, ret, e);
}

int cgroup_enter(const struct cgroup *c, pid_t pid)
{
	char text[24];

	snprintf(text, sizeof(text), "%d", (int)pid);
	return write_at(c->fd, "cgroup.procs", text);
}

void cgroup_leave(struct cgroups *g, struct cgroup *c)
{
	/* Without memory it stays until the daemon's next start. */
	if (cgroup_remove(g, c) == -EBUSY)
		(void)strv_add(&g->left, c->name);
	close_fdp(&c->fd);
}

void cgroup_kill(const struct cgroup *c)
{
	/* Kernels before 5.14 cannot; the build's pid namespace has ended its processes before. */
	if (c->fd >= 0)
		(void)write_at(c->fd, "cgroup.kill", "1");
}

int cgroup_remove(struct cgroups *g, struct cgroup *c)
{
	if (c->fd < 0)
		return 0;
	if (unlinkat(g->dir, c->name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return -errno;
	close_fdp(&c->fd);
	return 0;
}
