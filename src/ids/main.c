/* airplant-ids, the id broker: leases slots of ids to processes of the daemon.
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
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/fd.h"
#include "base/log.h"
#include "helper/helper.h"

enum { MSG_ODD = 1, MSG_END = 2 };
enum { REQUESTS_PER_SEC = 500 };

struct request {
	uint32_t kind;
	int fds[2]; /* see ipc/ids.h; -1 where there is none */
};

static bool is_request(const struct ids_request *r, ssize_t len, int n_fds)
{
	return len == sizeof(*r) && r->version == IDS_VERSION && r->kind >= IDS_PLAIN &&
	       r->kind <= IDS_RETURN && n_fds >= 1 && n_fds <= (r->kind == IDS_CLEAN ? 2 : 1);
}

/* Anything that is no request is MSG_ODD, and whatever fds came are closed. */
static int receive(int fd, struct request *ret)
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
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&mh) : NULL;
	int n_fds = 0;

	*ret = (struct request){ 0, { -1, -1 } };
	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? -EAGAIN : MSG_END;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
		n_fds = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(ret->fds, CMSG_DATA(c), (n_fds > 2 ? 2 : n_fds) * sizeof(int));
	}
	ret->kind = req[0].kind;
	return is_request(req, n, n_fds) && !(mh.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) ? 0
										       : MSG_ODD;
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

/* A slot for a request, in ret->fd its lock. For IDS_CLEAN an fd that the daemon has is the lease
 * itself. 0, a status that is the whole answer, or -errno. */
static int find_slot(struct broker *b, struct request *req, struct slot *ret, uint32_t *ret_count)
{
	uint32_t width = req->kind == IDS_RANGE4 ? SLOTS_WIDE : 1;
	int r;

	if (req->kind == IDS_CLEAN) {
		if (req->fds[1] < 0) {
			r = slots_stale(&b->slots, ret);
		} else {
			r = slots_find(&b->slots, req->fds[1], ret);
			if (r == 0)
				ret->fd = TAKE_FD(req->fds[1]);
		}
		if (r == -ENOENT)
			return IDS_NONE;
		*ret_count = ret->width * IDS_SLOT;
		return r;
	}
	*ret_count = req->kind == IDS_PLAIN ? 1 : width * IDS_SLOT;
	r = slots_take(&b->slots, width, *ret_count, ret);
	return r == -EBUSY ? IDS_BUSY : r;
}

/* Checks first, then a slot, then the maps: a refused process never costs a slot. A slot that was
 * found and did not reach the daemon is quarantined as soon as its fd is closed. */
static void lease(struct broker *b, struct request *req, struct target *t, int *ret_fd,
		  struct ids_reply *reply)
{
	bool build = req->kind != IDS_CLEAN; /* which has groups to drop */
	struct slot slot = { .fd = -1 };
	_cleanup_close_ int fd = -1;
	uint32_t base, count = 0;
	int r;

	if (!target_open(&b->machine, TAKE_FD(req->fds[0]), t, reply->reason))
		return;
	r = find_slot(b, req, &slot, &count);
	fd = slot.fd;
	if (r > 0)
		reply->status = (uint32_t)r;
	else if (r < 0)
		snprintf(reply->reason, sizeof(reply->reason), "no slot: %s", strerror(-r));
	if (r != 0)
		return;
	base = slot_first_id(&b->slots, &slot);
	if (!target_map(&b->machine, t, base, count, build, reply->reason))
		return;
	reply->status = IDS_OK;
	reply->base = base;
	reply->count = count;
	*ret_fd = TAKE_FD(fd);
}

static void give_back(struct broker *b, struct request *req, struct ids_reply *reply)
{
	int r = slots_return(&b->slots, req->fds[0]);

	if (r == 0)
		reply->status = IDS_OK;
	else
		snprintf(reply->reason, sizeof(reply->reason),
			 "the fd is not the lease of a slot: %s", strerror(-r));
}

static int serve(struct broker *b, struct request *req)
{
	struct ids_reply reply = { .version = IDS_VERSION, .status = IDS_REFUSED };
	struct target t = TARGET_INIT;
	_cleanup_close_ int fd = -1;
	int r;

	if (req->kind == IDS_RETURN)
		give_back(b, req, &reply);
	else
		lease(b, req, &t, &fd, &reply);
	if (reply.status == IDS_REFUSED)
		log_warn("refused a request of the daemon: %s", reply.reason);
	r = answer(b->client, &reply, fd);
	if (r < 0 && fd >= 0)
		target_kill(&t); /* it has ids that nobody holds a lease of */
	target_done(&t);
	return r;
}

/* Two requests a build are never that many: who asks more often waits for the next second. */
static void pace(void)
{
	static time_t second;
	static int n;
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail */
	n = now.tv_sec == second ? n + 1 : 1;
	second = now.tv_sec;
	if (n > REQUESTS_PER_SEC)
		(void)poll(NULL, 0, (int)(1000 - now.tv_nsec / 1000000));
}

/* An odd message costs the connection, not the process: no state here can be confused by it, and a
 * restart would only add a pause for every build. */
static void on_client(struct broker *b)
{
	struct request req;
	int r = receive(b->client, &req);

	if (r == -EAGAIN)
		return;
	pace();
	if (r == MSG_ODD)
		log_error("the daemon sent a message that is no request; closing its connection");
	if (r != 0 || serve(b, &req) < 0)
		close_fdp(&b->client);
	close_fdp(&req.fds[0]);
	close_fdp(&req.fds[1]);
}

static void on_listener(struct broker *b)
{
	_cleanup_close_ int fd = helper_accept(b->listener, b->machine.daemon.uid, SOCK_NONBLOCK);

	if (fd < 0)
		return;
	if (b->client >= 0)
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
		.block = { 872415232, 128 * IDS_SLOT },
		.listener = -1,
		.client = -1,
	};
	_cleanup_err_ struct err e = { 0 };
	int r;

	log_setup("airplant-ids", LOG_LEVEL_INFO);
	if (broker_start(&b, argc, argv, &e) < 0) {
		log_error("%s", err_msg(&e));
		return 1;
	}
	log_info("%u slots from id %u, for uid %u", b.slots.n, b.block.start, b.machine.daemon.uid);
	r = loop(&b);
	log_error("poll: %s", strerror(-r));
	return 1;
}
