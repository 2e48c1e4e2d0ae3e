/* airplant-ids, the id broker: leases a slot of ids to a process of the daemon.
 *
 *   airplant-ids --daemon-user NAME|UID --locks DIR (--socket PATH | socket activation)
 *                [--start-id N] [--id-count N]
 *
 * It starts as a user of its own with CAP_SETUID and CAP_SETGID and nothing else. The kernel lets
 * only the owner of a namespace map it, so its effective uid becomes the daemon's, once. Real and
 * saved uid stay its own: the daemon can neither signal nor trace it. Then it seals itself, and
 * no id can change any more. See broker.h for what it must never do. */
#include "broker.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fd.h"
#include "base/log.h"
#include "confine/confine.h"
#include "ipc/ids.h"

struct broker {
	const char *socket, *daemon_user, *locks;
	struct block block;
	struct identity own;
	struct machine machine;
	struct slots slots;
	int listener, client;
};

static int parse_number(const char *text, uint32_t *ret)
{
	unsigned long long v;
	char *end;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || v > UINT32_MAX)
		return -EINVAL;
	*ret = (uint32_t)v;
	return 0;
}

static int parse_options(struct broker *b, int argc, char **argv, struct err *e)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "daemon-user", required_argument, NULL, 'u' },
		{ "locks", required_argument, NULL, 'l' },
		{ "start-id", required_argument, NULL, 'i' },
		{ "id-count", required_argument, NULL, 'n' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		int r = 0;

		if (c == 's')
			b->socket = optarg;
		else if (c == 'u')
			b->daemon_user = optarg;
		else if (c == 'l')
			b->locks = optarg;
		else if (c == 'i')
			r = parse_number(optarg, &b->block.start);
		else if (c == 'n')
			r = parse_number(optarg, &b->block.count);
		else
			return err_set(e, -EINVAL, "unknown option");
		if (r < 0)
			return err_set(e, r, "'%s' is not a number of an id", optarg);
	}
	if (optind != argc || !b->daemon_user || !b->locks || !b->socket == (b->listener < 0))
		return err_set(
			e, -EINVAL,
			"usage: airplant-ids --daemon-user NAME|UID --locks DIR --socket PATH "
			"[--start-id N] [--id-count N] (no --socket under socket activation)");
	return 0;
}

/* One listening socket from the service manager, as fd 3; every other fd is closed. */
static int inherited_listener(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	uint32_t v, n;
	int given = pid && fds && parse_number(pid, &v) == 0 && (pid_t)v == getpid() &&
		    parse_number(fds, &n) == 0 && n == 1;
	int type;
	socklen_t len = sizeof(type);

	if (close_range(given ? 4 : 3, ~0U, 0) < 0)
		return -errno;
	if (!given)
		return -1;
	if (getsockopt(3, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET ||
	    fcntl(3, F_SETFD, FD_CLOEXEC) < 0 || fcntl(3, F_SETFL, O_NONBLOCK) < 0)
		return -1;
	return 3;
}

/* Its own user, no foreign groups; the daemon is another user, and neither is root. */
static int check_identity(struct broker *b, struct err *e)
{
	const struct passwd *pw;
	uint32_t uid;
	gid_t groups[32];
	int n = getgroups(ELEMENTS(groups), groups);

	b->own = (struct identity){ getuid(), getgid() };
	if (n < 0)
		return err_errno(e, -errno, "cannot read the supplementary groups");
	for (int i = 0; i < n; i++)
		if (groups[i] != b->own.gid)
			return err_set(e, -EPERM, "airplant-ids must not be in the group %u",
				       groups[i]);
	pw = parse_number(b->daemon_user, &uid) == 0 ? getpwuid(uid) : getpwnam(b->daemon_user);
	if (!pw)
		return err_set(e, -ENOENT, "there is no user '%s'", b->daemon_user);
	b->machine.daemon = (struct identity){ pw->pw_uid, pw->pw_gid };
	if (b->own.uid == 0 || b->own.gid == 0 || geteuid() != b->own.uid ||
	    getegid() != b->own.gid)
		return err_set(e, -EPERM,
			       "airplant-ids must not run as root: give it a user of its own");
	if (pw->pw_uid == 0 || pw->pw_gid == 0)
		return err_set(e, -EPERM, "the daemon's user must not be root");
	if (pw->pw_uid == b->own.uid || pw->pw_gid == b->own.gid)
		return err_set(e, -EPERM,
			       "airplant-ids needs a user and a group apart from the daemon's");
	return 0;
}

/* Made under another name first: where the socket is, somebody listens. The daemon is another user,
 * so the mode lets all in; who may stay is decided at accept. */
static int listen_at(const char *path, struct err *e)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (snprintf(sa.sun_path, sizeof(sa.sun_path), "%s.new", path) >= (int)sizeof(sa.sun_path))
		return err_set(e, -ENAMETOOLONG, "the socket path '%s' is too long", path);
	(void)unlink(sa.sun_path); /* bind says what is wrong otherwise */
	umask(0111);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 16) < 0 ||
	    rename(sa.sun_path, path) < 0)
		return err_errno(e, -errno, "cannot listen on '%s'", path);
	umask(0077);
	return TAKE_FD(fd);
}

static int start(struct broker *b, int argc, char **argv, struct err *e)
{
	int r;

	b->listener = inherited_listener();
	/* NSS is asked below; what it may load must not hang on whoever started us. */
	if (clearenv() != 0)
		return err_set(e, -ENOMEM, "cannot clear the environment");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_errno(e, -errno, "cannot become undumpable");
	r = parse_options(b, argc, argv, e);
	if (r == 0)
		r = check_identity(b, e);
	if (r == 0)
		r = block_check(&b->block, &b->own, &b->machine.daemon, e);
	if (r == 0)
		r = slots_open(&b->slots, b->locks, b->block.count / SLOT_IDS, e);
	if (r == 0)
		r = machine_init(&b->machine, e);
	if (r < 0)
		return r;
	if (b->socket) {
		b->listener = listen_at(b->socket, e);
		if (b->listener < 0)
			return b->listener;
	}
	if (setresuid((uid_t)-1, b->machine.daemon.uid, (uid_t)-1) < 0)
		return err_errno(e, -errno,
				 "cannot take the daemon's uid (is CAP_SETUID granted?)");
	return confine_seal(CONFINE_IDS, e);
}

enum { MSG_ODD = 1, MSG_END = 2 };

/* One request and exactly one fd. Anything else is MSG_ODD, and whatever fds came are closed. */
static int receive(int fd, int *ret_pidfd)
{
	struct ids_request req[2]; /* room to see that a message is too long */
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { req, sizeof(req) };
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	int fds[2] = { -1, -1 }, n_fds = 0;

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? -EAGAIN : MSG_END;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n_fds = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), (n_fds > 2 ? 2 : n_fds) * sizeof(int));
	}
	if (n == sizeof(req[0]) && n_fds == 1 && !(mh.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) &&
	    req[0].version == IDS_VERSION && req[0].kind == IDS_PLAIN) {
		*ret_pidfd = fds[0];
		return 0;
	}
	close_fdp(&fds[0]);
	close_fdp(&fds[1]);
	return MSG_ODD;
}

static int answer(int client, const struct ids_reply *reply, int lease)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)reply, sizeof(*reply) };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (lease >= 0) {
		struct cmsghdr *c = &control.align;

		mh.msg_control = &control;
		mh.msg_controllen = sizeof(control);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &lease, sizeof(int));
	}
	return sendmsg(client, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(*reply) ? 0 : -EPIPE;
}

/* Checks first, then a slot, then the maps: a refused process never costs a slot. */
static int serve(struct broker *b, int pidfd)
{
	struct ids_reply reply = { .version = IDS_VERSION, .status = IDS_REFUSED };
	struct target t = TARGET_INIT;
	_cleanup_close_ int lease = -1;
	uint32_t slot = 0;
	int r;

	if (target_open(&b->machine, pidfd, &t, reply.reason)) {
		r = slots_take(&b->slots, &slot, &lease);
		reply.base = b->block.start + slot * SLOT_IDS;
		if (r == -EBUSY)
			reply.status = IDS_BUSY;
		else if (r < 0)
			snprintf(reply.reason, sizeof(reply.reason), "no slot: %s", strerror(-r));
		else if (target_map(&b->machine, &t, reply.base, reply.reason))
			reply.status = IDS_OK;
	}
	if (reply.status == IDS_OK) {
		reply.count = 1;
	} else {
		reply.base = 0;
		close_fdp(&lease);
	}
	if (reply.status == IDS_REFUSED)
		log_warn("refused ids to a process of the daemon: %s", reply.reason);
	r = answer(b->client, &reply, lease);
	if (r < 0 && reply.status == IDS_OK)
		target_kill(&t); /* it has ids that nobody holds a lease of */
	target_done(&t);
	return r;
}

static void hang_up(struct broker *b)
{
	close_fdp(&b->client);
}

/* An odd message costs the connection, not the process: no state here can be confused by it, and a
 * restart would only add a pause for every build. */
static void on_client(struct broker *b)
{
	int pidfd, r = receive(b->client, &pidfd);

	if (r == -EAGAIN)
		return;
	if (r == MSG_ODD)
		log_error("the daemon sent a message that is no request; closing its connection");
	if (r != 0 || serve(b, pidfd) < 0)
		hang_up(b);
}

static void on_listener(struct broker *b)
{
	static bool told; /* once: anybody may connect, and must not be able to fill the log */
	_cleanup_close_ int fd = accept4(b->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || len != sizeof(cred) ||
	    cred.uid != b->machine.daemon.uid) {
		if (!told)
			log_warn("a user that is not the daemon's connected; refused");
		told = true;
	} else if (b->client >= 0)
		log_error("the daemon connected a second time; refused");
	else
		b->client = TAKE_FD(fd);
}

static int loop(struct broker *b)
{
	for (;;) {
		struct pollfd p[2] = { { b->client, POLLIN, 0 }, { b->listener, POLLIN, 0 } };

		if (poll(p, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		/* The client first: its end makes room for the next in the same round. */
		if (p[0].revents)
			on_client(b);
		if (p[1].revents)
			on_listener(b);
	}
}

int main(int argc, char **argv)
{
	static struct broker b = {
		.block = { 872415232, 128 * SLOT_IDS },
		.listener = -1,
		.client = -1,
	};
	_cleanup_err_ struct err e = { 0 };
	int r;

	log_setup("airplant-ids", LOG_LEVEL_INFO);
	if (start(&b, argc, argv, &e) < 0) {
		log_error("%s", err_msg(&e));
		return 1;
	}
	log_info("%u slots from id %u, for uid %u", b.slots.n, b.block.start, b.machine.daemon.uid);
	r = loop(&b);
	log_error("poll: %s", strerror(-r));
	return 1;
}
