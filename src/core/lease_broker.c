/* See lease_int.h. The core's side of ipc/ids.h: one connection, one request at a time. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/lease_int.h"
#include "ipc/ids.h"

enum { BROKER_TIMEOUT_SEC = 2, DEFAULT_START_ID = 872415232, DEFAULT_ID_COUNT = 8388608 };

int broker_connect(const char *path)
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

static int broker_send(int fd, enum ids_kind kind, const int *fds, size_t n_fds)
{
	struct ids_request req = { .version = IDS_VERSION, .kind = kind };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { &req, sizeof(req) };
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(n_fds * sizeof(int)),
	};

	control.align.cmsg_level = SOL_SOCKET;
	control.align.cmsg_type = SCM_RIGHTS;
	control.align.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
	memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
	return sendmsg(fd, &mh, MSG_NOSIGNAL) == sizeof(req) ? 0 : -errno;
}

/* `maps`: the answer "yes" has an fd with it. */
static int broker_receive(int fd, bool maps, struct ids_reply *reply, int *ret_fd)
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
	    reply->version != IDS_VERSION || (reply->status == IDS_OK && maps) != (lease >= 0))
		return -EBADMSG;
	reply->reason[sizeof(reply->reason) - 1] = 0;
	*ret_fd = TAKE_FD(lease);
	return 0;
}

/* A connection that failed is made anew once: the broker may have been restarted meanwhile. After a
 * timeout it is closed as well, lest a late answer be taken for the next one's. */
static int broker_ask(struct lease *l, enum ids_kind kind, const int *fds, size_t n_fds,
		      struct ids_reply *reply, int *ret_fd)
{
	int r = -ENOTCONN;

	for (int attempt = 0; attempt < 2; attempt++) {
		if (l->broker < 0) {
			l->broker = broker_connect(l->socket_path);
			if (l->broker < 0)
				return TAKE_FD(l->broker);
		}
		r = broker_send(l->broker, kind, fds, n_fds);
		if (r == 0)
			r = broker_receive(l->broker, kind != IDS_RETURN, reply, ret_fd);
		if (r == 0)
			return 0;
		close_fdp(&l->broker);
		if (r != -EPIPE && r != -ECONNRESET)
			break;
	}
	return r;
}

/* The block is the broker's to know: nothing that the daemon reads can change it. An administrator
 * who wrote another one into nix.conf must hear that. */
static void check_block(struct lease *l, uint64_t first, uint64_t count)
{
	uint64_t start = l->start_id ? l->start_id : DEFAULT_START_ID;
	uint64_t end = start + (l->id_count ? l->id_count : DEFAULT_ID_COUNT);

	if (l->told_block || count == 0 || !(l->start_id || l->id_count) ||
	    (first >= start && first + count <= end))
		return;
	l->told_block = true;
	log_warn("the settings 'start-id' and 'id-count' say that builds get the ids %llu to %llu, "
		 "but the id broker gives them %llu: it has its block from its options --start-id "
		 "and --id-count (systemctl edit airplant-ids)",
		 (unsigned long long)start, (unsigned long long)(end - 1),
		 (unsigned long long)first);
}

/* 0, LEASE_BUSY, LEASE_NONE, or a sentence. */
static int ask(struct lease *l, enum ids_kind kind, const int *fds, size_t n_fds,
	       struct build_ids *ret_ids, int *ret_fd, struct err *e)
{
	struct ids_reply reply;
	int r = broker_ask(l, kind, fds, n_fds, &reply, ret_fd);

	if (r < 0)
		return err_errno(e, r, "cannot get ids for a build from the id broker at '%s'",
				 l->socket_path);
	if (reply.status == IDS_BUSY)
		return LEASE_BUSY;
	if (reply.status == IDS_NONE)
		return LEASE_NONE;
	if (reply.status != IDS_OK)
		return err_set(e, -EPERM, "the id broker refused ids for a build: %s",
			       reply.reason);
	check_block(l, reply.base, reply.count);
	*ret_ids = (struct build_ids){ IDS_BROKER, reply.count, reply.base };
	return 0;
}

int broker_map(struct lease *l, enum lease_kind kind, int pidfd, struct build_ids *ret_ids,
	       int *ret_fd, struct err *e)
{
	static const enum ids_kind kinds[] = {
		[LEASE_PLAIN] = IDS_PLAIN, [LEASE_RANGE] = IDS_RANGE, [LEASE_RANGE4] = IDS_RANGE4
	};

	return ask(l, kinds[kind], &pidfd, 1, ret_ids, ret_fd, e);
}

int broker_clean(struct lease *l, int lease_fd, int pidfd, struct build_ids *ret_ids, int *ret_fd,
		 struct err *e)
{
	return ask(l, IDS_CLEAN, (int[]){ pidfd, lease_fd }, lease_fd < 0 ? 1 : 2, ret_ids, ret_fd,
		   e);
}

int broker_return(struct lease *l, int lease_fd, struct err *e)
{
	struct build_ids none;
	int fd = -1;

	return ask(l, IDS_RETURN, &lease_fd, 1, &none, &fd, e);
}
