/* See daemon.h. It sends nothing but requests and looks at nothing but answers: log lines and
 * activities are dropped. Linked by airplant. */
#include "cli/daemon.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/unix.h"

/* The newest version without an exchange of features: all that is asked for here is older. */
enum { OUR_VERSION = 1 << 8 | 35, TRUSTED = 1, TEXT_MAX = 1 << 20, ARENA_MAX = 16 << 20 };

static int more(struct wire_in *in)
{
	struct daemon *d = in->ctx;
	ssize_t n;

	do
		n = read(d->fd, d->bytes, sizeof(d->bytes));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_errno(in->e, -errno, "reading from the daemon");
	if (n == 0)
		return err_set(in->e, WIRE_EOF, "the daemon closed the connection");
	in->p = d->bytes;
	in->end = d->bytes + n;
	return 0;
}

static int flush(struct daemon *d, struct err *e)
{
	int r = d->out.rc;

	if (r == 0)
		r = write_full(d->fd, d->out.b.data, d->out.b.len);
	d->out.b.len = 0;
	return r < 0 ? err_errno(e, r, "writing to the daemon") : 0;
}

static int skip_fields(struct daemon *d)
{
	uint64_t n, type, value;
	int r = wire_u64(&d->in, &n);

	for (uint64_t i = 0; r == 0 && i < n; i++) {
		r = wire_number(&d->in, 1, &type);
		if (r == 0)
			r = type ? wire_skip_str(&d->in) : wire_u64(&d->in, &value);
	}
	return r;
}

/* Numbers, then what `layout` says: s a string, f fields. */
static int skip(struct daemon *d, const char *layout)
{
	uint64_t value;
	int r = 0;

	for (; r == 0 && *layout; layout++)
		r = *layout == 's'   ? wire_skip_str(&d->in)
		    : *layout == 'f' ? skip_fields(d)
				     : wire_u64(&d->in, &value);
	return r;
}

static int read_error(struct daemon *d, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(ARENA_MAX);
	char *type, *name, *text;
	uint64_t level;
	int r = wire_str(&d->in, &a, TEXT_MAX, &type);

	r = r ? r : wire_u64(&d->in, &level);
	r = r ? r : wire_str(&d->in, &a, TEXT_MAX, &name);
	r = r ? r : wire_str(&d->in, &a, TEXT_MAX, &text);
	return r ? r : err_set(e, -ECANCELED, "%s", text);
}

static int read_frames(struct daemon *d, struct err *e)
{
	uint64_t frame;
	int r;

	while ((r = wire_u64(&d->in, &frame)) == 0) {
		switch (frame) {
		case FRAME_LAST:
			return 0;
		case FRAME_ERROR:
			return read_error(d, e);
		case FRAME_NEXT:
			r = skip(d, "s");
			break;
		case FRAME_START_ACTIVITY:
			r = skip(d, "nnnsfn");
			break;
		case FRAME_STOP_ACTIVITY:
			r = skip(d, "n");
			break;
		case FRAME_RESULT:
			r = skip(d, "nnf");
			break;
		default:
			return err_set(e, -EPROTO, "the daemon says something unknown");
		}
		if (r)
			return r;
	}
	return r;
}

int daemon_ask(struct daemon *d, struct err *e)
{
	int r = flush(d, e);

	d->in.e = e;
	if (r == 0)
		r = read_frames(d, e);
	return r > 0 ? err_set(e, -EPROTO, "%s", err_msg(e)) : r;
}

static int greet(struct daemon *d, struct err *e)
{
	uint64_t magic, version, trust = 0;
	int r;

	wire_put_u64(&d->out, WIRE_MAGIC_CLIENT);
	r = flush(d, e);
	r = r ? r : wire_u64(&d->in, &magic);
	r = r ? r : wire_u64(&d->in, &version);
	if (r)
		return r;
	if (magic != WIRE_MAGIC_SERVER || version >> 8 != OUR_VERSION >> 8 ||
	    !wire_gate((unsigned)version, GATE_ERROR_STRUCT))
		return err_set(e, -EPROTONOSUPPORT,
			       "the daemon's protocol is none that this program knows");
	if (version > OUR_VERSION)
		version = OUR_VERSION;
	wire_put_u64(&d->out, version);
	wire_put_u64(&d->out, 0); /* no processor is asked for */
	wire_put_u64(&d->out, 0); /* nor space */
	r = flush(d, e);
	if (r == 0 && wire_gate((unsigned)version, GATE_VERSION_STRING))
		r = wire_skip_str(&d->in);
	if (r == 0 && wire_gate((unsigned)version, GATE_TRUST))
		r = wire_u64(&d->in, &trust);
	d->trust_known = trust != 0;
	d->trusted = trust == TRUSTED;
	return r ? r : daemon_ask(d, e);
}

int daemon_open(struct daemon *d, const char *socket_path, const char *store_dir, struct err *e)
{
	int r;

	d->store_dir = store_dir;
	d->in = (struct wire_in){ .more = more, .ctx = d, .e = e };
	d->out = (struct wire_out){ .b = BUF_INIT(1 << 20), .store_dir = store_dir };
	d->fd = unix_connect(socket_path, SOCK_STREAM);
	if (d->fd < 0)
		return err_errno(e, d->fd, "cannot connect to the daemon at '%s'", socket_path);
	r = greet(d, e);
	return r > 0 ? err_set(e, -EPROTO, "%s", err_msg(e)) : r;
}

void daemon_close(struct daemon *d)
{
	close_fdp(&d->fd);
	buf_done(&d->out.b);
}
