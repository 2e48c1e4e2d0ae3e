/* See lease_int.h. The core's side of ipc/ids.h: one connection, one request at a time, in the
 * order in which they came. A broker that does not answer holds up those who want something of it.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/unix.h"
#include "core/core.h"
#include "core/lease_int.h"

enum { RETRY_USEC = 100 * 1000, DEFAULT_START_ID = 872415232, DEFAULT_ID_COUNT = 8388608 };

int broker_connect(const char *path)
{
	return unix_connect(path, SOCK_SEQPACKET | SOCK_NONBLOCK);
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
		return -errno;
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

static void failed(struct lease_call *c, int r)
{
	_cleanup_err_ struct err e = {};

	(void)err_errno(&e, r, "cannot get ids for a build from the id broker at '%s'",
			c->lease->socket_path);
	call_end(c, r, NULL, -1, &e);
}

static void answered(struct lease_call *c, const struct ids_reply *reply, int fd)
{
	_cleanup_err_ struct err e = {};
	struct build_ids ids = { IDS_BROKER, reply->count, reply->base };
	int r = 0;

	if (reply->status == IDS_OK)
		check_block(c->lease, reply->base, reply->count);
	else if (reply->status == IDS_BUSY)
		r = LEASE_BUSY;
	else if (reply->status == IDS_NONE)
		r = LEASE_NONE;
	else
		r = err_set(&e, -EPERM, "the id broker refused ids for a build: %s", reply->reason);
	call_end(c, r, &ids, fd, &e);
}

void broker_close(struct lease *l)
{
	loop_remove(l->watch);
	l->watch = NULL;
	close_fdp(&l->broker);
}

/* A connection that failed is made anew once: the broker may have been restarted meanwhile. */
static void lost(struct lease_call *c, int r)
{
	broker_close(c->lease);
	c->begun = false;
	if ((r != -EPIPE && r != -ECONNRESET) || c->attempts++ > 0)
		failed(c, r);
}

static void on_broker(void *ctx, uint32_t events)
{
	struct lease *l = ctx;
	struct lease_call *c = l->calls;
	struct ids_reply reply;
	int fd = -1, r;

	(void)events;
	if (!c || !c->begun) { /* it has ended, or speaks without being asked */
		broker_close(l);
		return;
	}
	r = broker_receive(l->broker, c->kind != IDS_RETURN, &reply, &fd);
	if (r == -EAGAIN)
		return;
	if (r == 0)
		answered(c, &reply, fd);
	else
		lost(c, r);
	broker_go(l);
}

static void on_retry(void *ctx)
{
	struct lease *l = ctx;

	l->retry = NULL;
	broker_go(l);
}

static int ask(struct lease *l, struct lease_call *c)
{
	int r;

	if (l->broker < 0) {
		l->broker = broker_connect(l->socket_path);
		if (l->broker < 0)
			return TAKE_FD(l->broker);
	}
	if (!l->watch) {
		r = loop_add(l->core->loop, l->broker, EPOLLIN, on_broker, l, &l->watch);
		if (r < 0) {
			l->watch = NULL;
			return r;
		}
	}
	return broker_send(l->broker, c->kind, c->fds, c->fds[1] < 0 ? 1 : 2);
}

void broker_go(struct lease *l)
{
	while (l->calls && !l->calls->begun && !l->retry) {
		struct lease_call *c = l->calls;
		int r = ask(l, c);

		/* Its queue is full: it is slow, or others connect without end. */
		if (r == -EAGAIN &&
		    loop_timer(l->core->loop, RETRY_USEC, on_retry, l, &l->retry) == 0)
			return;
		if (r == 0)
			c->begun = true;
		else
			lost(c, r);
	}
}
