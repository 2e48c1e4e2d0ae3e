/* See relay.h. */
#include "core/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/unix.h"

enum { CHUNK = 64 * 1024 };

/* One direction. Bytes wait in `buf` while the far side is slow, and nothing is read meanwhile. */
struct pump {
	int from, to;
	size_t at, end;
	bool eof;  /* `from` said all */
	bool over; /* ... and `to` was told */
	char buf[CHUNK];
};

static int nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static bool later(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

static int pump_in(struct pump *p)
{
	ssize_t n = read(p->from, p->buf, sizeof(p->buf));

	if (n < 0)
		return later(errno) ? 0 : -errno;
	p->at = 0;
	p->end = (size_t)n;
	p->eof = n == 0;
	return 0;
}

static int pump_out(struct pump *p)
{
	ssize_t n = write(p->to, p->buf + p->at, p->end - p->at);

	if (n < 0)
		return later(errno) ? 0 : -errno;
	p->at += (size_t)n;
	return 0;
}

/* What was said last is said on: shutdown for a socket, closing for a pipe. */
static void pump_close(struct pump *p)
{
	if (shutdown(p->to, SHUT_WR) < 0 && errno == ENOTSOCK)
		close(p->to);
	p->over = true;
}

static struct pollfd pump_wants(const struct pump *p)
{
	if (p->over)
		return (struct pollfd){ .fd = -1 };
	if (p->at < p->end)
		return (struct pollfd){ .fd = p->to, .events = POLLOUT };
	return (struct pollfd){ .fd = p->from, .events = POLLIN };
}

static int pump_step(struct pump *p)
{
	int r = p->at < p->end ? pump_out(p) : pump_in(p);

	if (r == 0 && p->eof)
		pump_close(p);
	return r;
}

/* The daemon's last word ends it; a client that has nothing more to say may still listen. */
static int carry(int sock)
{
	static struct pump up, down;

	up.from = STDIN_FILENO;
	down.to = STDOUT_FILENO;
	up.to = down.from = sock;
	while (!down.over) {
		struct pollfd fds[] = { pump_wants(&up), pump_wants(&down) };
		int r;

		if (poll(fds, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		r = fds[1].revents ? pump_step(&down) : 0;
		if (r == 0 && fds[0].revents && !down.over) {
			r = pump_step(&up);
			if (r == -EPIPE || r == -ECONNRESET) { /* what it still says is read */
				up.over = true;
				r = 0;
			}
		}
		if (r < 0)
			return r == -EPIPE || r == -ECONNRESET ? 0 : r;
	}
	return 0;
}

int relay_stdio(const char *socket_path, struct err *e)
{
	_cleanup_close_ int sock = unix_connect(socket_path, SOCK_STREAM);
	int r;

	if (sock < 0)
		return err_errno(e, sock, "cannot connect to the daemon at '%s'", socket_path);
	if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return err_errno(e, -errno, "setting up signals");
	r = nonblocking(STDIN_FILENO);
	r = r ? r : nonblocking(STDOUT_FILENO);
	r = r ? r : nonblocking(sock);
	r = r ? r : carry(sock);
	return r < 0 ? err_errno(e, r, "carrying bytes to the daemon and back") : 0;
}
