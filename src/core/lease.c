/* See lease.h. The three sources of ids: the broker (a socket), newuidmap (a set-user-ID program
 * and grants in /etc/subuid and /etc/subgid), and none. A lease is a locked file in each: it ends
 * when its last holder is gone. Linked by the core. Never blocks for longer than a few seconds. */
#include "core/lease.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/core.h"
#include "ipc/ids.h"

enum {
	BROKER_TIMEOUT_SEC = 2,
	HELPER_TIMEOUT_MSEC = 5000,
	SUBID_SLOTS_MAX = 1024, /* of one id each */
};

struct lease {
	enum build_ids_mode mode;
	uid_t uid;
	gid_t gid;
	/* broker */
	char *socket_path;
	int broker;
	/* subid */
	char *helpers; /* the directory newuidmap and newgidmap are in */
	uint32_t first_uid, first_gid, n_slots, next_slot;
	int locks; /* directory of slot locks */
	char *locks_path;
};

/* ---- the broker ---- */

static int broker_connect(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = BROKER_TIMEOUT_SEC };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, strlen(path));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
	    connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static int broker_send(int fd, int pidfd)
{
	struct ids_request req = { .version = IDS_VERSION, .kind = IDS_PLAIN };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { &req, sizeof(req) };
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.align), &pidfd, sizeof(int));
	return sendmsg(fd, &mh, MSG_NOSIGNAL) == sizeof(req) ? 0 : -errno;
}

static int broker_receive(int fd, struct ids_reply *reply, int *ret_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { reply, sizeof(*reply) };
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	_cleanup_close_ int lease = -1;
	struct cmsghdr *c;
	ssize_t n;

	do
		n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	c = CMSG_FIRSTHDR(&mh);
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(sizeof(int)))
		memcpy(&lease, CMSG_DATA(c), sizeof(int));
	if (n == 0)
		return -ECONNRESET;
	if (n != sizeof(*reply) || (mh.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) ||
	    reply->version != IDS_VERSION || (reply->status == IDS_OK) != (lease >= 0))
		return -EBADMSG;
	reply->reason[sizeof(reply->reason) - 1] = 0;
	*ret_fd = TAKE_FD(lease);
	return 0;
}

/* A connection that failed is made anew once: the broker may have been restarted meanwhile. After a
 * timeout it is closed as well, lest a late answer be taken for the next one's. */
static int broker_ask(struct lease *l, int pidfd, struct ids_reply *reply, int *ret_fd)
{
	int r = -ENOTCONN;

	for (int attempt = 0; attempt < 2; attempt++) {
		if (l->broker < 0) {
			l->broker = broker_connect(l->socket_path);
			if (l->broker < 0)
				return TAKE_FD(l->broker);
		}
		r = broker_send(l->broker, pidfd);
		if (r == 0)
			r = broker_receive(l->broker, reply, ret_fd);
		if (r == 0)
			return 0;
		close_fdp(&l->broker);
		if (r != -EPIPE && r != -ECONNRESET)
			break;
	}
	return r;
}

static int broker_map(struct lease *l, int pidfd, struct build_ids *ret_ids, int *ret_fd,
		      struct err *e)
{
	struct ids_reply reply;
	int r = broker_ask(l, pidfd, &reply, ret_fd);

	if (r < 0)
		return err_errno(e, r, "cannot get ids for a build from the id broker at '%s'",
				 l->socket_path);
	if (reply.status == IDS_BUSY)
		return LEASE_BUSY;
	if (reply.status != IDS_OK)
		return err_set(e, -EPERM, "the id broker refused ids for a build: %s",
			       reply.reason);
	*ret_ids = (struct build_ids){ IDS_BROKER, reply.count, reply.base };
	return 0;
}

/* ---- newuidmap ---- */

/* The first grant of at least one id to this user, by name or number. False: there is none. */
static bool find_grant(const char *path, const struct passwd *pw, uint32_t *ret_first,
		       uint32_t *ret_count)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL, uid[16];

	snprintf(uid, sizeof(uid), "%u", pw->pw_uid);
	if (read_file_at(AT_FDCWD, path, 1 << 20, &text, NULL) < 0)
		return false;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long long first, count;
		char name[64];

		if (sscanf(line, "%63[^:]:%llu:%llu", name, &first, &count) != 3 || count == 0 ||
		    first == 0 || first > UINT32_MAX - 1 || count > UINT32_MAX - first)
			continue;
		if (strcmp(name, pw->pw_name) != 0 && strcmp(name, uid) != 0)
			continue;
		*ret_first = (uint32_t)first;
		*ret_count = (uint32_t)count;
		return true;
	}
	return false;
}

static const char *find_helpers(void)
{
	static const char *const dirs[] = { "/run/wrappers/bin", "/usr/bin", "/bin",
					    "/usr/local/bin" };

	for (size_t i = 0; i < ELEMENTS(dirs); i++) {
		char a[64], b[64];

		snprintf(a, sizeof(a), "%s/newuidmap", dirs[i]);
		snprintf(b, sizeof(b), "%s/newgidmap", dirs[i]);
		if (access(a, X_OK) == 0 && access(b, X_OK) == 0)
			return dirs[i];
	}
	return NULL;
}

static void slot_name(uint32_t slot, char ret[32])
{
	snprintf(ret, 32, "slot-%u", slot);
}

/* Goes on behind the slot that was leased last, so that a restart does not reuse ids early. */
static uint32_t slot_after_newest(int dir, uint32_t n)
{
	struct timespec newest = { 0 };
	uint32_t next = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct stat st;
		char name[32];

		slot_name(i, name);
		if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (st.st_mtim.tv_sec > newest.tv_sec ||
		    (st.st_mtim.tv_sec == newest.tv_sec && st.st_mtim.tv_nsec > newest.tv_nsec)) {
			newest = st.st_mtim;
			next = (i + 1) % n;
		}
	}
	return next;
}

/* (Re)opens the directory of slot locks. When somebody deleted the state directory under the
 * daemon, builds of before still hold locks in the old one: slots go on from where they were, and
 * come round to theirs last. */
static int open_locks(struct lease *l, struct err *e)
{
	int r = mkdir_p(l->locks_path, 0700);

	if (r < 0)
		return err_errno(e, r, "creating directory '%s'", l->locks_path);
	close_fdp(&l->locks);
	l->locks = open(l->locks_path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (l->locks < 0)
		return err_errno(e, -errno, "opening directory '%s'", l->locks_path);
	return 0;
}

/* 0, or a sentence saying what is missing. */
static int subid_setup(struct lease *l, const char *state_dir, struct err *e)
{
	const struct passwd *pw = getpwuid(l->uid);
	const char *helpers = find_helpers();
	uint32_t n_uids, n_gids;
	int r;

	if (!helpers)
		return err_set(e, -ENOENT,
			       "newuidmap and newgidmap are not installed (package uidmap)");
	if (!pw)
		return err_set(e, -ENOENT, "uid %u has no entry in the user database", l->uid);
	if (!find_grant("/etc/subuid", pw, &l->first_uid, &n_uids))
		return err_set(e, -ENOENT, "/etc/subuid grants nothing to '%s'", pw->pw_name);
	if (!find_grant("/etc/subgid", pw, &l->first_gid, &n_gids))
		return err_set(e, -ENOENT, "/etc/subgid grants nothing to '%s'", pw->pw_name);
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
		return err_set(e, -EPERM, "newuidmap cannot work under no_new_privs");
	l->n_slots = n_uids < n_gids ? n_uids : n_gids;
	if (l->n_slots > SUBID_SLOTS_MAX)
		l->n_slots = SUBID_SLOTS_MAX;
	if (asprintf(&l->locks_path, "%s/airplant/ids", state_dir) < 0)
		return err_set(e, -ENOMEM, "out of memory");
	r = open_locks(l, e);
	if (r < 0)
		return r;
	l->next_slot = slot_after_newest(l->locks, l->n_slots);
	l->helpers = strdup(helpers);
	return l->helpers ? 0 : err_set(e, -ENOMEM, "out of memory");
}

static int subid_take(struct lease *l, uint32_t *ret_slot, int *ret_fd, struct err *e)
{
	for (uint32_t i = 0; i < l->n_slots; i++) {
		uint32_t slot = (l->next_slot + i) % l->n_slots;
		_cleanup_close_ int fd = -1;
		char name[32];

		slot_name(slot, name);
		fd = openat(l->locks, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0 && errno == ENOENT) {
			int r = open_locks(l, e);

			if (r < 0)
				return r;
			fd = openat(l->locks, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
				    0600);
		}
		if (fd < 0)
			return err_errno(e, -errno, "opening the lock of id slot %u", slot);
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (errno == EWOULDBLOCK)
				continue;
			return err_errno(e, -errno, "locking id slot %u", slot);
		}
		(void)futimens(fd, NULL); /* only the order after a restart hangs on it */
		l->next_slot = (slot + 1) % l->n_slots;
		*ret_slot = slot;
		*ret_fd = TAKE_FD(fd);
		return 0;
	}
	return LEASE_BUSY;
}

/* Waits for a child with a limit; kills it when that is over. 0 when it exited with 0. */
static int wait_bounded(pid_t pid)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { pidfd, POLLIN, 0 };
	int status, r;

	do
		r = pidfd < 0 ? 0 : poll(&p, 1, HELPER_TIMEOUT_MSEC);
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		(void)kill(pid, SIGKILL); /* our own child, not yet waited for */
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (r <= 0)
		return -ETIMEDOUT;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

/* newuidmap PID 0 FIRST 1 1 OWN 1; no environment, no foreign signal mask. */
static int run_helper(const struct lease *l, const char *helper, pid_t pid, uint32_t first,
		      uint32_t own, struct err *e)
{
	char path[96], pid_s[16], first_s[16], own_s[16];
	char *argv[] = { path, pid_s, "0", first_s, "1", "1", own_s, "1", NULL };
	char *envp[] = { NULL };
	posix_spawnattr_t attr;
	sigset_t none;
	pid_t child;
	int r;

	snprintf(path, sizeof(path), "%s/%s", l->helpers, helper);
	snprintf(pid_s, sizeof(pid_s), "%d", pid);
	snprintf(first_s, sizeof(first_s), "%u", first);
	snprintf(own_s, sizeof(own_s), "%u", own);
	sigemptyset(&none);
	r = posix_spawnattr_init(&attr);
	if (r != 0)
		return err_errno(e, -r, "starting '%s'", path);
	r = posix_spawnattr_setsigmask(&attr, &none);
	if (r == 0)
		r = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
	if (r == 0)
		r = posix_spawn(&child, path, NULL, &attr, argv, envp);
	(void)posix_spawnattr_destroy(&attr);
	if (r != 0)
		return err_errno(e, -r, "starting '%s'", path);
	r = wait_bounded(child);
	return r < 0 ? err_errno(e, r, "'%s' did not map ids for a build (see the log)", path) : 0;
}

/* As the broker does, so that a build sees the same in every mode. The file is the daemon's to
 * write: it owns the namespace. */
static int deny_setgroups(pid_t pid, struct err *e)
{
	_cleanup_close_ int fd = -1;
	char path[48];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/setgroups", pid);
	fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	r = fd < 0 ? -errno : write_full(fd, "deny", 4);
	return r < 0 ? err_errno(e, r, "writing '%s'", path) : 0;
}

static int subid_map(struct lease *l, pid_t pid, struct build_ids *ret_ids, int *ret_fd,
		     struct err *e)
{
	_cleanup_close_ int fd = -1;
	uint32_t slot = 0;
	int r = subid_take(l, &slot, &fd, e);

	if (r != 0)
		return r;
	r = deny_setgroups(pid, e);
	if (r == 0)
		r = run_helper(l, "newgidmap", pid, l->first_gid + slot, l->gid, e);
	if (r == 0)
		r = run_helper(l, "newuidmap", pid, l->first_uid + slot, l->uid, e);
	if (r < 0)
		return r;
	*ret_ids = (struct build_ids){ IDS_SUBID, 1, l->first_uid + slot };
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* ---- choosing ---- */

static const char *socket_path(const struct core *core)
{
	const char *path = core->settings.ids_socket;

	return path && *path ? path : "/run/airplant/ids/socket";
}

/* The mode is broker from now on. That none answers at this moment (`e` says so) changes nothing:
 * it may be starting, and each build asks anew and is refused while nobody answers. */
static int use_broker(struct lease *l, const struct core *core, struct err *e)
{
	const char *path = socket_path(core);
	int r;

	l->socket_path = strdup(path);
	if (!l->socket_path)
		return err_set(e, -ENOMEM, "out of memory");
	l->mode = IDS_BROKER;
	r = broker_connect(path);
	if (r < 0)
		return err_errno(e, r, "no id broker answers at '%s'", path);
	l->broker = r;
	return 0;
}

/* For "auto": is this machine set up for a broker? 0 when its socket is there, whether somebody
 * answers now or not; else what is missing, in `e`. */
static int look_for_broker(const struct core *core, struct err *e)
{
	const char *path = socket_path(core);
	struct stat st;

	if (stat(path, &st) < 0)
		return err_errno(e, -errno, "no id broker has its socket at '%s'", path);
	return S_ISSOCK(st.st_mode) ? 0 : err_set(e, -ENOTSOCK, "'%s' is no socket", path);
}

static int try_subid(struct lease *l, const struct core *core, struct err *e)
{
	int r = subid_setup(l, core->state_dir, e);

	if (r < 0)
		return r;
	l->mode = IDS_SUBID;
	return 0;
}

static int choose_broker(struct lease *l, const struct core *core, char **ret_why, struct err *e)
{
	_cleanup_err_ struct err none = { 0 };
	int r = use_broker(l, core, &none);

	if (r == -ENOMEM)
		return err_set(e, -ENOMEM, "out of memory");
	if (r < 0)
		*ret_why = strdup(err_msg(&none));
	return 0;
}

/* "auto" goes down the list; `ret_why` says why it did not stop earlier (heap, or NULL). */
static int choose(struct lease *l, const struct core *core, char **ret_why, struct err *e)
{
	_cleanup_err_ struct err no_broker = { 0 }, no_subid = { 0 };

	switch (core->settings.ids) {
	case IDS_USE_BROKER:
		return choose_broker(l, core, ret_why, e);
	case IDS_USE_SUBID:
		return try_subid(l, core, e);
	case IDS_USE_SINGLE:
		l->mode = IDS_SINGLE;
		return 0;
	default:
		break;
	}
	if (look_for_broker(core, &no_broker) == 0)
		return choose_broker(l, core, ret_why, e);
	if (try_subid(l, core, &no_subid) == 0)
		return 0;
	if (asprintf(ret_why, "%s; %s", err_msg(&no_broker), err_msg(&no_subid)) < 0)
		*ret_why = NULL;
	l->mode = IDS_SINGLE;
	return 0;
}

static void log_choice(const struct lease *l, const char *why)
{
	switch (l->mode) {
	case IDS_BROKER:
		if (l->broker < 0)
			log_warn("ids: broker, but %s; builds fail until it does",
				 why ? why : "none answers");
		else
			log_info("ids: broker at %s", l->socket_path);
		return;
	case IDS_SUBID:
		log_info("ids: subid — %u ids from %u by newuidmap; the daemon runs without "
			 "no_new_privs and without a system call filter",
			 l->n_slots, l->first_uid);
		return;
	default:
		log_info("ids: single — builds of all users share this uid; separated by "
			 "namespaces only%s%s",
			 why ? "; " : "", why ? why : "");
	}
}

static int setup(struct core *core, struct lease **ret, char **ret_why, struct err *e)
{
	struct lease *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	l->broker = l->locks = -1;
	l->uid = core->uid;
	l->gid = core->gid;
	r = choose(l, core, ret_why, e);
	if (r < 0) {
		lease_free(l);
		(void)err_prefix(e,
				 "while choosing where ids for builds come from (setting 'ids'): ");
		return r;
	}
	*ret = l;
	return 0;
}

/* What lease_probe() found, for lease_setup(): the daemon is sealed for one mode, so that there
 * must not be a second answer. */
static struct lease *probed;
static char *probed_why;

int lease_setup(struct core *core, struct lease **ret, struct err *e)
{
	_cleanup_free_ char *why = TAKE_PTR(probed_why);
	int r = 0;

	*ret = TAKE_PTR(probed);
	if (!*ret)
		r = setup(core, ret, &why, e);
	if (r == 0)
		log_choice(*ret, why);
	return r;
}

int lease_probe(struct core *core, enum build_ids_mode *ret, struct err *e)
{
	int r = probed ? 0 : setup(core, &probed, &probed_why, e);

	if (r == 0)
		*ret = probed->mode;
	return r;
}

void lease_free(struct lease *l)
{
	if (!l)
		return;
	close_fdp(&l->broker);
	close_fdp(&l->locks);
	free(l->locks_path);
	free(l->socket_path);
	free(l->helpers);
	free(l);
}

enum build_ids_mode lease_mode(const struct lease *l)
{
	return l->mode;
}

int lease_map(struct lease *l, int pidfd, pid_t pid, struct build_ids *ret_ids, int *ret_fd,
	      struct err *e)
{
	switch (l->mode) {
	case IDS_BROKER:
		return broker_map(l, pidfd, ret_ids, ret_fd, e);
	case IDS_SUBID:
		return subid_map(l, pid, ret_ids, ret_fd, e);
	default:
		*ret_ids = (struct build_ids){ IDS_SINGLE, 1, l->uid };
		*ret_fd = -1;
		return 0;
	}
}
