/* The build's cgroup, made and limited by the core: entered at clone, given to a build that is root
 * of its own ids, ended, asked what it cost, and emptied of the groups that such a build made.
 *
 * Names below it are the builder's: one component at a time, never a path, no symlinks. Linked by
 * airplant-build alone. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "build/supervisor.h"

/* The core limits depth and number of the groups below (core/cgroup.c): 32 and 4096. */
enum { FILE_MAX = 64 * 1024, DEPTH_MAX = 40, REMOVALS_MAX = 8192 };

int cgroup_delegate(struct build *b, struct err *e)
{
	/* What the kernel names in /sys/kernel/cgroup/delegate. The limits stay the daemon's. */
	static const char *const files[] = { ".", "cgroup.procs", "cgroup.threads",
					     "cgroup.subtree_control" };

	for (size_t i = 0; b->cgroup >= 0 && i < ELEMENTS(files); i++)
		if (fchownat(b->cgroup, files[i], 0, 0, AT_SYMLINK_NOFOLLOW) < 0)
			return err_errno(e, -errno, "giving the build its cgroup ('%s')", files[i]);
	return 0;
}

void cgroup_kill(struct build *b)
{
	_cleanup_close_ int fd = -1;

	if (b->cgroup < 0)
		return;
	fd = openat(b->cgroup, "cgroup.kill", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) /* kernels before 5.14: the pid namespace ends all the same */
		(void)write_full(fd, "1", 1);
}

/* ---- what it cost ---- */

/* The number in a file of one number, or behind `key` in a file of "key number" lines. */
static bool read_number(int dir, const char *file, const char *key, uint64_t *ret)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL;

	if (read_file_at(dir, file, FILE_MAX, &text, NULL) < 0)
		return false;
	if (!key)
		return sscanf(text, "%" SCNu64, ret) == 1;
	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		size_t len = strlen(key);

		if (!strncmp(l, key, len) && l[len] == ' ')
			return sscanf(l + len, "%" SCNu64, ret) == 1;
	}
	return false;
}

static uint64_t usec(struct timeval t)
{
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_usec;
}

void cgroup_account(const struct build *b, struct build_end *end)
{
	end->cpu_user_usec = usec(b->usage.ru_utime);
	end->cpu_system_usec = usec(b->usage.ru_stime);
	end->peak_memory_bytes = (uint64_t)b->usage.ru_maxrss * 1024;
	if (b->cgroup < 0)
		return;
	/* What a kernel or a missing controller does not tell stays as it is. */
	(void)read_number(b->cgroup, "cpu.stat", "user_usec", &end->cpu_user_usec);
	(void)read_number(b->cgroup, "cpu.stat", "system_usec", &end->cpu_system_usec);
	(void)read_number(b->cgroup, "memory.peak", NULL, &end->peak_memory_bytes);
	(void)read_number(b->cgroup, "pids.peak", NULL, &end->peak_procs);
}

static int print_size(struct buf *t, uint64_t bytes)
{
	if (bytes >= 1 << 20)
		return buf_printf(t, "%" PRIu64 " MiB", bytes >> 20);
	return buf_printf(t, "%" PRIu64 " bytes", bytes);
}

int cgroup_print_end(const struct build *b, struct buf *t)
{
	uint64_t hit = 0, killed = 0, limit = 0;
	int r;

	/* Its own limit, not one that it set below, nor the machine's memory. */
	if (b->cgroup < 0 || !read_number(b->cgroup, "memory.events.local", "oom", &hit) || !hit ||
	    !read_number(b->cgroup, "memory.events", "oom_kill", &killed) || !killed ||
	    !read_number(b->cgroup, "memory.max", NULL, &limit))
		return 0;
	r = buf_append_str(t, "was killed because it used more than its memory limit of ");
	if (r == 0)
		r = print_size(t, limit);
	return r < 0 ? r : 1;
}

int cgroup_print_note(const struct build *b, struct buf *t)
{
	uint64_t hit = 0, limit = 0;

	if (b->cgroup < 0 || !read_number(b->cgroup, "pids.events", "max", &hit) || !hit ||
	    !read_number(b->cgroup, "pids.max", NULL, &limit))
		return 0;
	return buf_printf(t,
			  "\nnote: build failure may have been caused by its limit of %" PRIu64
			  " processes",
			  limit);
}

/* ---- emptying ---- */

/* The first group in `dir`: its name in `ret`, 0 when there is none. */
static int first_group(int dir, char ret[static 256])
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;
	int found = 0;

	if (!d) {
		int r = -errno;

		if (fd >= 0)
			close(fd);
		return r;
	}
	while (!found && (de = readdir(d))) {
		if (de->d_type != DT_DIR || !strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		snprintf(ret, 256, "%s", de->d_name);
		found = 1;
	}
	closedir(d);
	return found;
}

/* Removes one group that has none below it. 1: did, 0: there is none. */
static int remove_one(struct build *b)
{
	_cleanup_close_ int dir = openat(b->cgroup, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char name[256] = "", next[256];
	int r = dir < 0 ? -errno : first_group(dir, name);

	if (r <= 0)
		return r;
	for (int depth = 0; depth < DEPTH_MAX; depth++) {
		_cleanup_close_ int below =
			openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		r = below < 0 ? -errno : first_group(below, next);
		if (r == 0)
			return unlinkat(dir, name, AT_REMOVEDIR) < 0 ? -errno : 1;
		if (r < 0)
			return r;
		close(dir);
		dir = TAKE_FD(below);
		memcpy(name, next, sizeof(name));
	}
	return -ELOOP;
}

int cgroup_empty(struct build *b)
{
	int r = b->cgroup < 0 ? 0 : 1;

	for (int i = 0; r > 0 && i < REMOVALS_MAX; i++)
		r = remove_one(b);
	return r > 0 ? -E2BIG : r;
}
