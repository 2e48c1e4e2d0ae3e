/* See chan.h. */
#include "ipc/chan.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fd.h"

enum { CHAN_SPILLED = 1 };
enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };

struct header {
	uint32_t type, id, length, flags;
};

void msg_done(struct msg *m)
{
	free(m->data);
	m->data = NULL;
	m->len = 0;
	for (size_t i = 0; i < m->n_fds; i++)
		if (m->fds[i] >= 0)
			close(m->fds[i]);
	m->n_fds = 0;
}

int chan_pair(int ret[2])
{
	int size = 1 << 20;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret) < 0)
		return -errno;
	/* The kernel caps this at net.core.wmem_max; the default holds a full inline message too.
	 */
	for (int i = 0; i < 2; i++)
		(void)setsockopt(ret[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return 0;
}

static int spill(const void *data, size_t len, int *ret)
{
	_cleanup_close_ int fd = memfd_create("airplant-message", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	r = write_full(fd, data, len);
	if (r < 0)
		return r;
	if (fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		return -errno;
	*ret = TAKE_FD(fd);
	return 0;
}

int chan_send(int fd, uint32_t type, uint32_t id, const void *data, size_t len, const int *fds,
	      size_t n_fds)
{
	_cleanup_close_ int spilled = -1;
	struct header h = { .type = type, .id = id, .length = (uint32_t)len };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CHAN_MAX_FDS)];
	} control = {};
	int all[CHAN_MAX_FDS];
	size_t n = 0;
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)data, len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };

	if (len > UINT32_MAX || n_fds > CHAN_MAX_FDS - 1)
		return -E2BIG;
	if (len > CHAN_INLINE) {
		int r = spill(data, len, &spilled);

		if (r < 0)
			return r;
		h.flags = CHAN_SPILLED;
		mh.msg_iovlen = 1;
		all[n++] = spilled;
	}
	for (size_t i = 0; i < n_fds; i++)
		all[n++] = fds[i];
	if (n) {
		struct cmsghdr *c;

		mh.msg_control = control.bytes;
		mh.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), all, sizeof(int) * n);
	}
	for (;;) {
		if (sendmsg(fd, &mh, MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno != EINTR)
			return errno == ECONNRESET ? -EPIPE : -errno;
	}
}

/* A spilled payload: its sender must not be able to change it any more. */
static int unspill(int fd, size_t len, uint8_t **ret)
{
	_cleanup_free_ uint8_t *data = NULL;
	int seals = fcntl(fd, F_GET_SEALS);
	size_t done = 0;

	if (seals < 0 || (seals & SEALS) != SEALS)
		return CHAN_BAD;
	data = malloc(len);
	if (!data)
		return -ENOMEM;
	while (done < len) {
		ssize_t n = pread(fd, data + done, len - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return CHAN_BAD;
		done += (size_t)n;
	}
	*ret = TAKE_PTR(data);
	return 0;
}

static void take_fds(struct msghdr *mh, struct msg *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (m->n_fds < CHAN_MAX_FDS)
				m->fds[m->n_fds++] = fd;
			else
				close(fd);
		}
	}
}

int chan_recv(int fd, size_t max, struct msg *ret)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	/* Not on the stack, which would be touched page by page; so a session that waits has eight
	 * pages less. Nobody of ours has threads. */
	static uint8_t inline_data[CHAN_INLINE];
	struct header h;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CHAN_MAX_FDS)];
	} control;
	struct iovec iov[2] = { { &h, sizeof(h) }, { inline_data, sizeof(inline_data) } };
	struct msghdr mh = { .msg_iov = iov,
			     .msg_iovlen = 2,
			     .msg_control = control.bytes,
			     .msg_controllen = sizeof(control.bytes) };
	ssize_t n;

	do
		n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? CHAN_EOF : -errno;
	take_fds(&mh, &m);
	if (n == 0)
		return CHAN_EOF;
	if ((size_t)n < sizeof(h) || (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || h.length > max)
		return CHAN_BAD;
	if (h.flags == CHAN_SPILLED) {
		int r;

		if ((size_t)n != sizeof(h) || m.n_fds < 1)
			return CHAN_BAD;
		r = unspill(m.fds[0], h.length, &m.data);
		if (r)
			return r;
		close(m.fds[0]);
		m.n_fds--;
		memmove(m.fds, m.fds + 1, m.n_fds * sizeof(int));
	} else {
		if (h.flags || h.length != (size_t)n - sizeof(h))
			return CHAN_BAD;
		m.data = malloc(h.length ? h.length : 1);
		if (!m.data)
			return -ENOMEM;
		memcpy(m.data, inline_data, h.length);
	}
	m.len = h.length;
	m.type = h.type;
	m.id = h.id;
	*ret = m;
	m = MSG_INIT;
	return 0;
}

int chan_send_record(int fd, uint32_t type, uint32_t id, const struct layout *l, const void *record,
		     const int *fds, size_t n_fds)
{
	_cleanup_buf_ struct buf b = BUF_INIT(UINT32_MAX);
	int r = l ? record_encode(l, record, &b) : 0;

	return r < 0 ? r : chan_send(fd, type, id, b.data, b.len, fds, n_fds);
}

int msg_decode(const struct msg *m, const struct layout *l, struct arena *a, void *ret)
{
	return record_decode(l, m->data, m->len, a, ret);
}
