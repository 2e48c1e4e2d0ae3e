/* See slots.h. One thread of one process works on a directory of slots; flock tells it of leases
 * that it, or one before it, has given away. */
#include "slots/slots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/fd.h"

enum { SLOT_MODE = 0660, FREE = '-', LEASED = '1', LEASED_WIDE = '4' };

static void slot_name(const struct slots *s, uint32_t slot, char ret[32])
{
	snprintf(ret, 32, "ids-%u", s->base + slot * s->ids);
}

/* A fresh open each time: a lock belongs to the open file, and each lease must have its own. */
static int open_slot(const struct slots *s, uint32_t slot, int flags)
{
	char name[32];
	int fd;

	slot_name(s, slot, name);
	fd = openat(s->dir, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Makes sure that a slot's file is there and is ours, and tells when it was last used. */
static int prepare(struct slots *s, uint32_t slot, struct timespec *ret, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct stat st;
	char name[32];
	bool fresh;

	slot_name(s, slot, name);
	fd = openat(s->dir, name, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, SLOT_MODE);
	fresh = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = openat(s->dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, -errno, "cannot open the slot file '%s'", name);
	if (fresh && fchmod(fd, SLOT_MODE) < 0) /* whatever the umask was */
		return err_errno(e, -errno, "cannot set the mode of the slot file '%s'", name);
	if (!S_ISREG(st.st_mode) || st.st_uid != getuid() || st.st_gid != getgid() ||
	    st.st_nlink != 1 || (!fresh && (st.st_mode & 07777) != SLOT_MODE))
		return err_set(e, -EPERM, "the slot file '%s' is not this user's own", name);
	s->inode[slot] = st.st_ino;
	*ret = fresh ? (struct timespec){ 0 } : st.st_mtim;
	return 0;
}

struct dated {
	struct timespec when;
	uint32_t slot;
};

static int by_age(const void *a, const void *b)
{
	const struct dated *x = a, *y = b;

	if (x->when.tv_sec != y->when.tv_sec)
		return x->when.tv_sec < y->when.tv_sec ? -1 : 1;
	if (x->when.tv_nsec != y->when.tv_nsec)
		return x->when.tv_nsec < y->when.tv_nsec ? -1 : 1;
	return x->slot < y->slot ? -1 : 1;
}

int slots_open(struct slots *s, int dir, uint32_t base, uint32_t ids, uint32_t n, struct err *e)
{
	static struct dated all[SLOTS_MAX];

	s->dir = dir;
	s->base = base;
	s->ids = ids;
	s->n = n < SLOTS_MAX ? n : SLOTS_MAX;
	for (uint32_t i = 0; i < s->n; i++) {
		int r = prepare(s, i, &all[i].when, e);

		if (r < 0)
			return r;
		all[i].slot = i;
	}
	qsort(all, s->n, sizeof(all[0]), by_age);
	for (uint32_t i = 0; i < s->n; i++)
		s->order[i] = all[i].slot;
	return 0;
}

/* The mark of a slot, or -errno. An empty file has none yet. */
static int get_mark(const struct slots *s, uint32_t slot)
{
	_cleanup_close_ int fd = open_slot(s, slot, O_RDONLY);
	char mark = FREE;

	if (fd < 0)
		return fd;
	return read(fd, &mark, 1) < 0 ? -errno : mark;
}

/* On disk before it counts: after a power cut the files of a build may be there. The other way
 * round costs a look at a clean slot at most. */
static int set_mark(struct slots *s, uint32_t slot, char mark)
{
	_cleanup_close_ int fd = open_slot(s, slot, O_WRONLY);

	if (fd < 0)
		return fd;
	if (write(fd, &mark, 1) != 1 || (mark != FREE && fdatasync(fd) < 0))
		return -errno;
	return 0;
}

/* To the end of the queue. */
static void touch(struct slots *s, uint32_t slot)
{
	uint32_t i = 0;

	while (i < s->n && s->order[i] != slot)
		i++;
	memmove(&s->order[i], &s->order[i + 1], (s->n - i - 1) * sizeof(s->order[0]));
	s->order[s->n - 1] = slot;
}

static int lock(const struct slots *s, uint32_t slot, int *ret)
{
	_cleanup_close_ int fd = open_slot(s, slot, O_RDONLY);

	if (fd < 0)
		return fd;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	*ret = TAKE_FD(fd);
	return 0;
}

/* Locks a slot that neither it nor the wide lease it may be part of has a mark on. */
static int lock_free(const struct slots *s, uint32_t slot, int *ret)
{
	_cleanup_close_ int fd = -1;
	int r = lock(s, slot, &fd), mark;

	if (r < 0)
		return r;
	mark = get_mark(s, slot);
	if (mark == FREE && slot % SLOTS_WIDE) {
		mark = get_mark(s, slot - slot % SLOTS_WIDE);
		if (mark == LEASED)
			mark = FREE; /* a neighbour's lease */
	}
	if (mark != FREE)
		return mark < 0 ? mark : -EBUSY;
	*ret = TAKE_FD(fd);
	return 0;
}

bool slots_known(const struct slots *s, uint32_t slot)
{
	_cleanup_close_ int fd = -1;

	return lock_free(s, slot, &fd) == -EBUSY;
}

/* Whoever is told that a slot is clean may have been told wrong. The kernel looks a uid up in a
 * hash and finds nothing, unless a process (or an open file of one) has it. */
static int check_idle(uint32_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		errno = 0;
		if (getpriority(PRIO_USER, first + i) != -1 || errno != ESRCH)
			return -EBUSY;
	}
	return 0;
}

/* The first file's lock and mark speak for all slots of a wide lease. */
static int take(struct slots *s, uint32_t first, uint32_t width, uint32_t used, struct slot *ret)
{
	_cleanup_close_ int fd = -1;
	int r = lock_free(s, first, &fd);

	for (uint32_t i = 1; r == 0 && i < width; i++) {
		_cleanup_close_ int other = -1;

		r = lock_free(s, first + i, &other);
	}
	if (r == 0)
		r = check_idle(s->base + first * s->ids, used);
	if (r == 0)
		r = set_mark(s, first, width > 1 ? LEASED_WIDE : LEASED);
	if (r == 0)
		*ret = (struct slot){ first, width, TAKE_FD(fd) };
	return r;
}

int slots_take(struct slots *s, uint32_t width, uint32_t used, struct slot *ret)
{
	int r = -EBUSY;

	for (uint32_t i = 0; i < s->n && r == -EBUSY; i++) {
		uint32_t first = s->order[i];

		if (first % width == 0 && s->n - first >= width)
			r = take(s, first, width, used, ret);
	}
	if (r == 0)
		touch(s, ret->number);
	return r;
}

int slots_stale(struct slots *s, struct slot *ret)
{
	for (uint32_t i = 0; i < s->n; i++) {
		_cleanup_close_ int fd = -1;
		uint32_t slot = s->order[i];
		int mark = get_mark(s, slot), r;

		if (mark == FREE)
			continue;
		r = mark < 0 ? mark : lock(s, slot, &fd);
		if (r == -EBUSY)
			continue;
		if (r < 0)
			return r;
		touch(s, slot);
		*ret = (struct slot){ slot, mark == LEASED_WIDE ? SLOTS_WIDE : 1, TAKE_FD(fd) };
		return 0;
	}
	return -ENOENT;
}

int slots_find(const struct slots *s, int fd, struct slot *ret)
{
	struct stat st, dir;
	uint32_t i = 0;
	int mark;

	if (fstat(fd, &st) < 0 || fstat(s->dir, &dir) < 0 || st.st_dev != dir.st_dev)
		return -EPERM;
	while (i < s->n && s->inode[i] != st.st_ino)
		i++;
	/* An fd of an earlier lease cannot have the lock when a later one does. */
	if (i == s->n || !S_ISREG(st.st_mode) || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -EPERM;
	mark = get_mark(s, i);
	if (mark != LEASED && mark != LEASED_WIDE)
		return mark < 0 ? mark : -EPERM;
	*ret = (struct slot){ i, mark == LEASED_WIDE ? SLOTS_WIDE : 1, -1 };
	return 0;
}

int slots_return(struct slots *s, int fd)
{
	struct slot slot;
	int r = slots_find(s, fd, &slot);

	if (r == 0)
		r = set_mark(s, slot.number, FREE);
	if (r == 0)
		touch(s, slot.number);
	return r;
}
