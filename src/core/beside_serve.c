/* What stock processes promise while a collection of ours runs. See beside.h. Linked by airplantd.
 *
 * Foreign bytes, read by the core: but only those of root and of the daemon's own user, who the
 * kernel says they are before the first one is read. A line is a store path or nothing at all. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/beside_int.h"
#include "core/gc.h"
#include "path/path.h"

enum { LINE_MAX_BYTES = 4096, CLIENTS_MAX = 1024 };

struct beside_client {
	struct beside_client *next;
	struct beside *b;
	int fd;
	struct loop_fd *watch;
	size_t len;
	char line[LINE_MAX_BYTES];
};

static void client_free(struct beside_client *c)
{
	struct beside_client **at = &c->b->clients;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->b->n_clients--;
	loop_remove(c->watch);
	close_fdp(&c->fd);
	free(c);
}

/* Upstream answers in any case. */
static bool take_line(struct beside_client *c, const char *line)
{
	struct core *core = c->b->core;
	struct store_path path;

	if (store_path_parse(core->store_dir, line, &path, NULL) == 0)
		gc_pin(core, path.base);
	else
		log_warn("another nix process said something that is no store path");
	return send(c->fd, "1", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

static void on_line(void *ctx, uint32_t events)
{
	struct beside_client *c = ctx;
	ssize_t n = recv(c->fd, c->line + c->len, sizeof(c->line) - c->len, MSG_DONTWAIT);
	char *end;

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_free(c);
		return;
	}
	c->len += (size_t)n;
	while ((end = memchr(c->line, '\n', c->len))) {
		size_t used = (size_t)(end + 1 - c->line);

		*end = 0;
		if (!take_line(c, c->line)) {
			client_free(c);
			return;
		}
		memmove(c->line, end + 1, c->len - used);
		c->len -= used;
	}
	if (c->len == sizeof(c->line))
		client_free(c);
}

static bool may_speak(const struct beside *b, int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 &&
	       (who.uid == 0 || who.uid == b->core->uid);
}

static void on_connect(void *ctx, uint32_t events)
{
	struct beside *b = ctx;
	int fd = accept4(b->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct beside_client *c;

	(void)events;
	if (fd < 0)
		return;
	c = b->n_clients < CLIENTS_MAX && may_speak(b, fd) ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		close(fd);
		return;
	}
	c->b = b;
	c->fd = fd;
	c->next = b->clients;
	b->clients = c;
	b->n_clients++;
	if (loop_add(b->core->loop, fd, EPOLLIN, on_line, c, &c->watch) < 0)
		client_free(c);
}

static int make_socket(struct beside *b)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = -1;
	mode_t before;
	int r;

	if (strlen(b->socket) >= sizeof(at.sun_path))
		return -ENAMETOOLONG;
	memcpy(at.sun_path, b->socket, strlen(b->socket));
	(void)unlink(at.sun_path); /* of a collector that is gone: we have the lock */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	before = umask(0177);
	r = bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0 ? -errno : 0;
	umask(before);
	if (r == 0 && listen(fd, SOMAXCONN) < 0)
		r = -errno;
	if (r == 0)
		b->listener = TAKE_FD(fd);
	return r;
}

int beside_serve(struct beside *b, struct err *e)
{
	int r = make_socket(b);

	/* Upstream's paths have the same limit: nobody could connect, and nobody does. */
	if (r == -ENAMETOOLONG)
		return 0;
	if (r == 0)
		r = loop_add(b->core->loop, b->listener, EPOLLIN, on_connect, b, &b->watch);
	return r < 0 ? err_errno(e, r, "listening at '%s'", b->socket) : 0;
}

void beside_serve_stop(struct beside *b)
{
	while (b->clients)
		client_free(b->clients);
	loop_remove(b->watch);
	b->watch = NULL;
	if (b->listener >= 0)
		(void)unlink(b->socket); /* gone with its directory: the same */
	close_fdp(&b->listener);
}
