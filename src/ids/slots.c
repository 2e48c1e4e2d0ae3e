/* Slots are files, leases are locks on them: whoever holds a copy of the fd holds the lease, and
 * the kernel ends it with the last copy. Nothing is remembered, so nothing is lost by a restart.
 *
 * The files belong to the broker's own user and group. Once its effective uid is the daemon's, the
 * group is what still lets it in; the daemon is in no such group and can open none of them. */
#include "broker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/fd.h"

enum { SLOT_MODE = 0660 };

static void slot_name(uint32_t slot, char ret[32])
{
	snprintf(ret, 32, "slot-%u", slot);
}

/* Makes sure that a slot's file is there and is ours, and tells when it was last leased. */
static int prepare(int dir, uint32_t slot, struct timespec *ret, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct stat st;
	char name[32];
	bool fresh;

	slot_name(slot, name);
	fd = openat(dir, name, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, SLOT_MODE);
	fresh = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, -errno, "cannot open the slot file '%s'", name);
	if (fresh && fchmod(fd, SLOT_MODE) < 0) /* whatever the umask was */
		return err_errno(e, -errno, "cannot set the mode of the slot file '%s'", name);
	if (!S_ISREG(st.st_mode) || st.st_uid != getuid() || st.st_gid != getgid() ||
	    st.st_nlink != 1 || (!fresh && (st.st_mode & 07777) != SLOT_MODE))
		return err_set(e, -EPERM, "the slot file '%s' is not the broker's own", name);
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

int slots_open(struct slots *s, const char *path, uint32_t n, struct err *e)
{
	static struct dated all[SLOTS_MAX];
	struct stat st;
	mode_t search; /* what lets us in when our effective uid is the daemon's */

	s->n = n < SLOTS_MAX ? n : SLOTS_MAX;
	s->dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->dir < 0 || fstat(s->dir, &st) < 0)
		return err_errno(e, -errno, "cannot open the directory for locks '%s'", path);
	search = st.st_gid == getgid() ? 0010 : 0001;
	if (st.st_uid != getuid() || (st.st_mode & 0022) || !(st.st_mode & search))
		return err_set(
			e, -EPERM,
			"the directory for locks '%s' must belong to the broker's own user, be "
			"writable for nobody else, and be searchable for its group",
			path);
	for (uint32_t i = 0; i < s->n; i++) {
		int r = prepare(s->dir, i, &all[i].when, e);

		if (r < 0)
			return r;
		all[i].slot = i;
	}
	qsort(all, s->n, sizeof(all[0]), by_age);
	for (uint32_t i = 0; i < s->n; i++)
		s->order[i] = all[i].slot;
	return 0;
}

int slots_take(struct slots *s, uint32_t *ret_slot, int *ret_fd)
{
	for (uint32_t i = 0; i < s->n; i++) {
		_cleanup_close_ int fd = -1;
		uint32_t slot = s->order[i];
		char name[32];

		slot_name(slot, name);
		/* A fresh open: a lock belongs to the open file, and each lease must have its own.
		 */
		fd = openat(s->dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (errno == EWOULDBLOCK)
				continue;
			return -errno;
		}
		(void)futimens(fd, NULL); /* only the order after a restart hangs on it */
		memmove(&s->order[i], &s->order[i + 1], (s->n - i - 1) * sizeof(s->order[0]));
		s->order[s->n - 1] = slot;
		*ret_slot = slot;
		*ret_fd = TAKE_FD(fd);
		return 0;
	}
	return -EBUSY;
}
