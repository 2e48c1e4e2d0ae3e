/* See outbox.h. Linked by airplantd. */
#include "core/outbox.h"

#include <errno.h>
#include <fcntl.h>

#include "base/fd.h"

struct outmsg {
	struct outmsg *next;
	uint32_t type, id;
	struct buf data;
	int fd;
	uint64_t key;
};

void outbox_init(struct outbox *o, int fd)
{
	*o = (struct outbox){ .fd = fd };
	o->tail = &o->head;
}

static void outmsg_free(struct outmsg *m)
{
	buf_done(&m->data);
	close_fdp(&m->fd);
	free(m);
}

static void drop_head(struct outbox *o)
{
	struct outmsg *m = o->head;

	o->head = m->next;
	if (!o->head)
		o->tail = &o->head;
	o->bytes -= m->data.len;
	o->n--;
	outmsg_free(m);
}

void outbox_done(struct outbox *o)
{
	while (o->head)
		drop_head(o);
}

static int send_one(int to, uint32_t type, uint32_t id, const struct buf *b, int fd)
{
	return chan_send(to, type, id, b->data, b->len, &fd, fd >= 0 ? 1 : 0);
}

static struct outmsg *find(struct outbox *o, uint32_t type, uint64_t key)
{
	for (struct outmsg *m = o->head; key && m; m = m->next)
		if (m->type == type && m->key == key)
			return m;
	return NULL;
}

/* Takes the contents of `b` over on success. */
static int enqueue(struct outbox *o, uint32_t type, uint32_t id, struct buf *b, int fd,
		   uint64_t key)
{
	struct outmsg *m = find(o, type, key);

	if (m) {
		struct buf old = m->data;

		o->bytes += b->len - old.len;
		m->data = *b;
		*b = old;
		return 0;
	}
	if (o->n >= OUTBOX_MAX_MESSAGES || (o->head && o->bytes + b->len > OUTBOX_MAX_BYTES))
		return -ENOBUFS;
	m = malloc(sizeof(*m));
	if (!m)
		return -ENOMEM;
	*m = (struct outmsg){ .type = type, .id = id, .fd = -1, .key = key };
	if (fd >= 0) {
		m->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (m->fd < 0) {
			int r = -errno;

			free(m);
			return r;
		}
	}
	m->data = *b;
	*b = (struct buf){};
	*o->tail = m;
	o->tail = &m->next;
	o->bytes += m->data.len;
	o->n++;
	return 0;
}

int outbox_send(struct outbox *o, uint32_t type, uint32_t id, const struct layout *l,
		const void *record, int fd, uint64_t replace_key)
{
	_cleanup_buf_ struct buf b = BUF_INIT(OUTBOX_ANSWER_MAX);
	int r = l ? record_encode(l, record, &b) : 0;

	if (r < 0)
		return r;
	if (!o->head) {
		r = send_one(o->fd, type, id, &b, fd);
		if (r != -EAGAIN)
			return r;
	}
	return enqueue(o, type, id, &b, fd, replace_key);
}

int outbox_flush(struct outbox *o)
{
	while (o->head) {
		int r = send_one(o->fd, o->head->type, o->head->id, &o->head->data, o->head->fd);

		if (r < 0)
			return r == -EAGAIN ? 0 : r;
		drop_head(o);
	}
	return 0;
}
