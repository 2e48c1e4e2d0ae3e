/* See trash.h. It never follows a symlink, and never deletes by path. Linked by airplantd. */
#include "core/trash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/rm_tree.h"
#include "confine/confine.h"
#include "core/core.h"
#include "core/process.h"

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

/* The child starts this long after something fell into the trash. After a failure it starts again,
 * later each time. */
enum { DELAY_USEC = 50 * 1000 };
#define AGAIN_USEC     (2ULL * 1000 * 1000)
#define AGAIN_MAX_USEC (24ULL * 3600 * 1000 * 1000)

struct trash_wait {
	struct trash_wait *next, **link;
	uint64_t round; /* the first that has seen everything it waits for */
	void (*done)(void *ctx, bool complete);
	void *ctx;
};

struct trash {
	struct core *core;
	char *path; /* for people */
	int fd;
	uint64_t next; /* number of the next entry; never used twice in one life */
	struct loop_timer *timer;
	struct child *child;
	uint64_t round;	     /* of the child that works now, or worked last */
	bool dirty;	     /* something was put in since the child started */
	bool retry;	     /* the timer is there because a child failed */
	uint64_t again_usec; /* how long after the last failure; 0 when there was none */
	struct trash_wait *waits;
	uint64_t *freed; /* shared with the child, which alone writes it while it is there */
};

static void start(void *ctx);

static void start_in(struct trash *t, uint64_t usec)
{
	if (t->child || !t->core->loop || (t->timer && !t->retry))
		return;
	loop_timer_cancel(t->timer);
	t->timer = NULL;
	t->retry = false;
	/* Without a timer the trash waits for the next occasion; nothing is lost. */
	if (loop_timer(t->core->loop, usec, start, t, &t->timer) < 0)
		t->timer = NULL;
}

static void start_again(struct trash *t)
{
	t->again_usec = t->again_usec ? 2 * t->again_usec : AGAIN_USEC;
	if (t->again_usec > AGAIN_MAX_USEC)
		t->again_usec = AGAIN_MAX_USEC;
	start_in(t, t->again_usec);
	t->retry = true;
}

/* Each call may add and remove others. */
static void tell_waiting(struct trash *t, bool complete)
{
	struct trash_wait *w = t->waits;

	while (w) {
		if (w->round > t->round) {
			w = w->next;
			continue;
		}
		void (*done)(void *, bool) = w->done;
		void *ctx = w->ctx;

		trash_forget(w);
		done(ctx, complete);
		w = t->waits;
	}
}

static void ended(void *ctx, int status)
{
	struct trash *t = ctx;

	t->child = NULL;
	if (status != 0)
		start_again(t);
	else
		t->again_usec = 0;
	if (t->dirty)
		start_in(t, DELAY_USEC);
	tell_waiting(t, status == 0);
}

static bool is_counted(const char *name)
{
	return name[0] == 'o';
}

static int delete_one(struct trash *t, const char *name)
{
	struct rm_report rep = { .foreign_uid = (uid_t)-1 };
	int r = rm_tree(t->fd, name, &rep);

	if (is_counted(name))
		__atomic_add_fetch(t->freed, rep.bytes, __ATOMIC_RELAXED);
	if (r < 0 && !t->again_usec) /* once is enough */
		log_error("'%s/%s' cannot be deleted: %s ('%s' in it, of uid %u)", t->path, name,
			  strerror(-r), rep.name, rep.uid);
	return r;
}

/* In the child, whose fd 3 the trash is. Whole trees go; what cannot go is tried again later. */
static int delete_all(void *ctx)
{
	struct trash *t = ctx;
	_cleanup_close_ int fd = -1;
	_cleanup_err_ struct err e = {};
	struct dirent *de;
	bool failed = false, any;
	DIR *d;

	(void)setpriority(PRIO_PROCESS, 0, 10); /* deleting may take its time */
	if (confine_seal(CONFINE_DELETER, &e) < 0) {
		log_error("the trash cannot be emptied: %s", err_msg(&e));
		return 1;
	}
	fd = openat(t->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return 1;
	fd = -1;
	/* What comes meanwhile is deleted too: starting a child costs the core more than a file. */
	do {
		any = false;
		while ((de = readdir(d))) {
			if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
				continue;
			if (delete_one(t, de->d_name) < 0)
				failed = true;
			any = true;
		}
		rewinddir(d);
	} while (any && !failed);
	closedir(d);
	return failed;
}

static void start(void *ctx)
{
	struct trash *t = ctx;

	t->timer = NULL;
	t->retry = t->dirty = false;
	t->round++;
	if (child_run(t->core->loop, delete_all, t, &t->fd, ended, t, &t->child) < 0) {
		start_again(t);
		tell_waiting(t, false);
	}
}

/* A sealed directory cannot change its parent: its ".." would have to be written. It is ours, so
 * it may be opened up first. */
static int open_up(int dirfd, const char *name)
{
	_cleanup_close_ int fd =
		openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && !(st.st_mode & S_IWUSR) && fchmod(fd, 0700) == 0
		       ? 0
		       : -EACCES;
}

/* For what is a directory: refused as sealed, or as one. Linux 6.6 can do without opening it. */
static int open_up_dir(int dirfd, const char *name)
{
	if (syscall(SYS_fchmodat2, dirfd, name, 0700, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	return open_up(dirfd, name);
}

static int put(struct trash *t, char kind, int dirfd, const char *name)
{
	char fresh[32];
	int r;

	do {
		snprintf(fresh, sizeof(fresh), "%c%llu", kind, (unsigned long long)t->next++);
		r = renameat2(dirfd, name, t->fd, fresh, RENAME_NOREPLACE) < 0 ? -errno : 0;
		if (r == -EACCES && open_up(dirfd, name) == 0)
			r = -EEXIST; /* once more: it cannot be opened up twice */
	} while (r == -EEXIST);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	t->dirty = true;
	start_in(t, DELAY_USEC);
	return 0;
}

int trash_put(struct core *core, int dirfd, const char *name)
{
	return put(core->trash, 'o', dirfd, name);
}

int trash_put_known(struct core *core, int dirfd, const char *name, enum trash_hint hint)
{
	if (hint == TRASH_SMALL) {
		if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
			return 0;
		/* Sealed most likely: a rename would be refused at first. */
		if (errno == EISDIR)
			(void)open_up_dir(dirfd, name); /* the rename says what is wrong */
	}
	return put(core->trash, 'o', dirfd, name);
}

int trash_put_uncounted(struct core *core, int dirfd, const char *name)
{
	return put(core->trash, 't', dirfd, name);
}

uint64_t trash_freed(const struct core *core)
{
	return __atomic_load_n(core->trash->freed, __ATOMIC_RELAXED);
}

int trash_when_empty(struct core *core, void (*done)(void *ctx, bool complete), void *ctx,
		     struct trash_wait **ret)
{
	struct trash *t = core->trash;
	struct trash_wait *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->done = done;
	w->ctx = ctx;
	/* A child that works now has seen everything unless something came after its start. */
	w->round = t->child && !t->dirty ? t->round : t->round + 1;
	w->link = &t->waits;
	w->next = t->waits;
	if (w->next)
		w->next->link = &w->next;
	t->waits = w;
	t->again_usec = 0; /* somebody asks: not in a day, and the log says why again */
	start_in(t, 0);
	*ret = w;
	return 0;
}

void trash_forget(struct trash_wait *w)
{
	if (!w)
		return;
	*w->link = w->next;
	if (w->next)
		w->next->link = w->link;
	free(w);
}

int trash_open(struct core *core, int spool_fd, const char *spool_dir, struct trash **ret,
	       struct err *e)
{
	struct trash *t = calloc(1, sizeof(*t));

	if (!t)
		return err_set(e, -ENOMEM, "out of memory");
	t->core = core;
	t->fd = -1;
	t->freed = mmap(NULL, sizeof(*t->freed), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	if (t->freed == MAP_FAILED)
		t->freed = NULL;
	if (!t->freed || asprintf(&t->path, "%s/trash", spool_dir) < 0) {
		t->path = NULL;
		trash_close(t);
		return err_set(e, -ENOMEM, "out of memory");
	}
	if (mkdirat(spool_fd, "trash", 0700) == 0 || errno == EEXIST)
		t->fd = openat(spool_fd, "trash", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (t->fd < 0) {
		(void)err_errno(e, -errno, "opening '%s'", t->path);
		trash_close(t);
		return e->code;
	}
	start_in(t, DELAY_USEC); /* what an earlier life left */
	*ret = t;
	return 0;
}

void trash_close(struct trash *t)
{
	if (!t)
		return;
	while (t->waits)
		trash_forget(t->waits);
	loop_timer_cancel(t->timer);
	child_stop(t->child);
	close_fdp(&t->fd);
	if (t->freed)
		(void)munmap(t->freed, sizeof(*t->freed));
	free(t->path);
	free(t);
}
