/* airplant-build clean DIR: deletes what builds left in DIR when nobody cleaned up after them, with
 * the ids of one slot, and exits. The same boundary as a build's supervisor (ipc/build.h), and less
 * of it: BUILD_NEED_IDS, BUILD_IDS, BUILD_BYE.
 *
 * It needs far less than a build does: no network, no process, no file of the host's. DIR becomes
 * its root directory before it looks at a single name in it, and its profile cannot make a file. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/rm_tree.h"
#include "build/supervisor.h"
#include "confine/confine.h"

enum { ARENA_MAX = 64 << 10, OVERFLOW_ID = 65534 };
/* So long it may take while a process runs under an id of the slot, which none should. */
#define ALIVE_USEC (10ULL * 1000 * 1000)

struct cleaner {
	struct arena arena;
	struct build_ids ids;
	int lease_fd; /* held until the end */
	int top;
	uint64_t look_usec; /* when to look for processes */
	uint64_t alive;	    /* the id that one has, or the count of ids */
};

static bool chan_peer_gone(int fd)
{
	struct pollfd p = { .fd = fd };

	return poll(&p, 1, 0) != 0; /* POLLHUP is always told */
}

/* 0, BUILD_CANCELLED when there is nothing to clean, or an error. */
static int get_ids(struct cleaner *c, uid_t uid, gid_t gid, struct err *e)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	int r = chan_send(BUILD_FD, BUILD_NEED_IDS, 0, NULL, 0, NULL, 0);

	if (r == 0)
		r = chan_recv(BUILD_FD, CHAN_INLINE, &m);
	if (r < 0 || r == CHAN_EOF)
		return BUILD_CANCELLED;
	if (r != 0 || m.type != BUILD_IDS || m.n_fds > 1 ||
	    msg_decode(&m, &build_ids_layout, &c->arena, &c->ids) ||
	    (m.n_fds == 0) != (c->ids.count == 0))
		return err_set(e, -EPROTO, "the daemon sent something else than the ids of a slot");
	if (c->ids.count == 0)
		r = ns_map_own(uid, gid, e);
	else
		c->lease_fd = TAKE_FD(m.fds[0]);
	if (r < 0)
		return r;
	/* The maps are what was promised, or nothing happens. */
	if (geteuid() != c->ids.count || getegid() != c->ids.count)
		return err_set(e, -EPERM,
			       "the user namespace does not map the ids that were promised");
	return 0;
}

static int enter(struct cleaner *c, const char *dir, struct err *e)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	int r;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
		    CLONE_NEWCGROUP) < 0)
		return err_errno(e, -errno, "making namespaces to clean '%s' in", dir);
	r = get_ids(c, uid, gid, e);
	if (r != 0)
		return r;
	if (mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0)
		return err_errno(e, -errno, "unable to make '/' private");
	r = ns_retreat_to(dir, &c->top, e);
	if (r < 0)
		return r;
	/* It holds a lease that the next daemon wants to have. Changes of ids are behind us, which
	 * would undo it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return err_errno(e, -errno, "asking to die with the daemon");
	if (chan_peer_gone(BUILD_FD))
		return BUILD_CANCELLED;
	return confine_seal(CONFINE_CLEANER, e);
}

/* No builder is left. But whoever has an id of the slot, from wherever, could make names as fast as
 * they are deleted. The kernel looks an id up in a hash: that takes it no time. */
static bool is_hindered(void *ctx)
{
	struct cleaner *c = ctx;

	if (now_usec() < c->look_usec)
		return false;
	c->look_usec += ALIVE_USEC;
	for (c->alive = 0; c->alive < c->ids.count; c->alive++) {
		errno = 0;
		if (getpriority(PRIO_USER, (id_t)c->alive) != -1 || errno != ESRCH)
			return true;
	}
	return false;
}

/* Files of other slots may lie beside this one's: they show as the overflow id, and are not our
 * business. Where the slot has so many ids that one of them may be that number, they count as
 * failures: then it is tried again when the others are gone. */
static int delete_all(struct cleaner *c, struct err *e)
{
	struct rm_report rep = { .foreign_uid =
					 c->ids.count > OVERFLOW_ID ? (uid_t)-1 : OVERFLOW_ID,
				 .give_up = is_hindered,
				 .ctx = c };
	int r;

	c->look_usec = now_usec() + ALIVE_USEC;
	r = rm_contents(c->top, &rep);
	if (r == -ECANCELED)
		return err_set(
			e, -EBUSY,
			"a process runs as its uid %llu, and deleting takes longer than %llu "
			"seconds",
			(unsigned long long)(c->ids.host_base + c->alive), ALIVE_USEC / 1000000);
	if (rep.failed == 0 && rep.foreign > 0)
		return c->ids.count ? 0
				    : err_set(e, -EPERM,
					      "%llu entries in it belong to ids that the daemon "
					      "has not got, or not yet",
					      (unsigned long long)rep.foreign);
	if (r < 0 && rep.failed > 0)
		return err_errno(e, r, "'%s' of uid %llu (and %llu others)", rep.name,
				 (unsigned long long)(rep.uid < c->ids.count
							      ? c->ids.host_base + rep.uid
							      : rep.uid),
				 (unsigned long long)rep.failed - 1);
	return r < 0 ? err_errno(e, r, "reading the directory") : 0;
}

int clean_main(const char *dir)
{
	struct cleaner c = { .arena = ARENA_INIT(ARENA_MAX), .lease_fd = -1, .top = -1 };
	_cleanup_err_ struct err e = { 0 };
	struct build_bye bye = { 0 };
	int r;

	(void)setpriority(PRIO_PROCESS, 0, 10); /* deleting may take its time */
	r = enter(&c, dir, &e);
	if (r == BUILD_CANCELLED)
		return 0;
	if (r == 0)
		r = delete_all(&c, &e);
	bye.clean = r == 0;
	bye.error = r < 0 ? e.msg : NULL;
	(void)chan_send_record(BUILD_FD, BUILD_BYE, 0, &build_bye_layout, &bye, NULL, 0);
	return r < 0;
}
