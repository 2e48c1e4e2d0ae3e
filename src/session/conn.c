/* The client's connection: one buffer in, one buffer out.
 *
 * Before the session blocks on the client, everything owed is sent and the database snapshot is
 * let go. A client that sends several requests at once gets its answers in one piece. */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/fd.h"
#include "session/session.h"

/* A socket that can be written to at all takes so much. */
enum { AT_ONCE = 96 * 1024 };

/* A client that does not read its answer must not keep the database's log from being checkpointed:
 * what would block, or might, is written without a snapshot. */
static bool goes_at_once(const struct session *s, size_t len)
{
	struct pollfd p = { .fd = s->fd_out, .events = POLLOUT };

	return len <= AT_ONCE && poll(&p, 1, 0) == 1 && (p.revents & POLLOUT);
}

static int flush_out(struct wire_out *out)
{
	struct session *s = out->ctx;

	if (s->snapshot && !goes_at_once(s, out->b.len))
		store_release(s);
	int r = write_full(s->fd_out, out->b.data, out->b.len);
	buf_clear(&out->b);
	return r;
}

int conn_flush(struct session *s)
{
	if (s->out.rc == 0 && s->out.b.len > 0)
		s->out.rc = flush_out(&s->out);
	return s->out.rc < 0 ? s->out.rc : 0;
}

/* Silent parts belong to the request that is being read: nobody waits for them yet. */
static bool owes_answers(const struct session *s)
{
	return s->n_pending > 0 && !s->pending[s->pending_first].silent;
}

/* Nothing may be owed to a client we wait for. */
static int before_blocking(struct session *s)
{
	int r = owes_answers(s) ? pending_settle(s) : 0;

	store_release(s);
	return r ?: conn_flush(s);
}

/* More of what the client has sent already, without waiting. 0 also when there is nothing. */
static int take_what_is_there(struct session *s, ssize_t *ret)
{
	*ret = recv(s->fd_in, s->in_buf, IN_SIZE, MSG_DONTWAIT);
	if (*ret >= 0)
		return 0;
	/* A pipe cannot be asked so. */
	if (errno == EAGAIN || errno == EINTR || errno == ENOTSOCK)
		return 0;
	return errno == ECONNRESET ? WIRE_EOF : -errno;
}

static int need_buffer(struct session *s)
{
	if (!s->in_buf)
		s->in_buf = malloc(IN_SIZE);
	return s->in_buf ? 0 : -ENOMEM;
}

static void give_back(struct session *s);

/* Where the core gave the socket a time limit, its end is no error: nothing came for so long. */
static int read_some(struct session *s, ssize_t *ret)
{
	int r = before_blocking(s);

	while (!r) {
		*ret = read(s->fd_in, s->in_buf, IN_SIZE);
		if (*ret >= 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN || !s->in_limited)
			return errno == ECONNRESET ? WIRE_EOF : -errno;
		if (s->between_requests) {
			s->between_requests = false; /* once */
			give_back(s);
			r = need_buffer(s);
		}
	}
	return r;
}

static int more(struct wire_in *in)
{
	struct session *s = in->ctx;
	ssize_t n = -1;
	int r = need_buffer(s);

	if (r)
		return r;
	/* While a client goes on sending, what it added before need not be waited for. */
	if (owes_answers(s)) {
		store_release(s);
		r = take_what_is_there(s, &n);
	}
	if (!r && n <= 0) /* also at the end: answers first */
		r = read_some(s, &n);
	if (r)
		return r;
	if (n == 0)
		return WIRE_EOF;
	in->p = s->in_buf;
	in->end = s->in_buf + n;
	return 0;
}

/* What an idle session holds is what a machine with a thousand clients pays a thousand times. */
static void give_back(struct session *s)
{
	free(s->in_buf);
	s->in_buf = NULL;
	s->in.p = s->in.end = NULL;
	buf_done(&s->out.b);
	s->out.b = BUF_INIT(SIZE_MAX / 2);
	store_close(s);
	free(s->pending); /* empty: everything owed was sent */
	s->pending = NULL;
	smap_done(&s->pending_paths);
	s->pending_paths = (struct smap){};
	smap_done(&s->allowed);
	s->allowed = (struct smap){};
	(void)malloc_trim(0);
}

int conn_wait(struct session *s)
{
	struct pollfd p = { .fd = s->fd_in, .events = POLLIN };

	if (conn_has_input(s))
		return 0;
	if (owes_answers(s)) /* waits only when nothing is there */
		return s->in.more(&s->in);
	if (s->in_limited) {
		s->between_requests = true;
		int r = s->in.more(&s->in);
		s->between_requests = false;
		return r;
	}
	int r = before_blocking(s);
	if (r)
		return r;
	r = poll(&p, 1, IDLE_MSEC);
	if (r == 0)
		give_back(s);
	return s->in.more(&s->in);
}

void conn_begin(struct session *s)
{
	struct timeval limit = {};
	socklen_t len = sizeof(limit);

	/* A pipe has none, nor has a socket when the core could not set it. */
	s->in_limited = getsockopt(s->fd_in, SOL_SOCKET, SO_RCVTIMEO, &limit, &len) == 0 &&
			(limit.tv_sec > 0 || limit.tv_usec > 0);
}

void session_init(struct session *s)
{
	*s = (struct session){
		.client_arena = ARENA_INIT(1 << 20),
		.arena = ARENA_INIT(WIRE_REQUEST_MAX),
		.fd_in = -1,
		.fd_out = -1,
		.core = -1,
		.spool = -1,
		.store = -1,
		.verbosity = LVL_INFO,
		.next_id = 1,
	};
	s->in = (struct wire_in){ .more = more, .ctx = s, .e = &s->in_err };
	s->out = (struct wire_out){ .b = BUF_INIT(SIZE_MAX / 2), .flush = flush_out, .ctx = s };
}

void session_done(struct session *s)
{
	for (size_t i = 0; s->pending && i < PENDING_MAX; i++)
		pending_drop(&s->pending[i]);
	free(s->pending);
	smap_done(&s->pending_paths);
	smap_done(&s->allowed);
	free(s->batch_error);
	store_close(s);
	buf_done(&s->out.b);
	free(s->in_buf);
	err_done(&s->in_err);
	arena_done(&s->arena);
	arena_done(&s->client_arena);
	if (s->fd_out != s->fd_in)
		close_fdp(&s->fd_out);
	close_fdp(&s->fd_in);
	/* The channel stays: its filter forbids a session to close it. */
	close_fdp(&s->spool);
	close_fdp(&s->store);
}
