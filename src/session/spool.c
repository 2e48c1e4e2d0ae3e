/* The spool: see spool.h. */
#include "session/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "nar/tree.h"

void spool_name(struct session *s, char ret[static 24])
{
	(void)snprintf(ret, 24, "%llu", (unsigned long long)++s->next_spool);
}

void spool_discard(struct session *s, struct spooled *o)
{
	if (*o->name)
		(void)rm_tree_at(s->spool, o->name); /* what stays goes with the session's spool */
	*o->name = 0;
}

static int spool_open(struct session *s, const char *name, int *ret)
{
	/* The mode is exact: the umask is 0. */
	int fd = openat(s->spool, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);

	if (fd < 0)
		return -errno;
	*ret = fd;
	return 0;
}

static int set_mtime(int fd)
{
	static const struct timespec one[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };

	return futimens(fd, one) < 0 ? -errno : 0;
}

int spool_file(struct session *s, const void *data, size_t len, struct spooled *ret, struct err *e)
{
	_cleanup_close_ int fd = -1;

	spool_name(s, ret->name);
	int r = spool_open(s, ret->name, &fd);
	if (!r)
		r = write_full(fd, data, len);
	if (!r)
		r = set_mtime(fd);
	if (r < 0) {
		spool_discard(s, ret);
		return err_errno(e, r, "cannot write to the spool");
	}
	return 0;
}

int flat_nar_facts(const void *data, size_t len, uint8_t ret_hash[32], uint64_t *ret_size)
{
	_cleanup_buf_ struct buf head = BUF_INIT(4096), tail = BUF_INIT(4096);
	struct hash h;

	int r = nar_put_begin(&head);
	if (!r)
		r = nar_put_file_begin(&head, false, len);
	if (!r)
		r = nar_put_file_end(&tail, len);
	if (r < 0)
		return r;
	struct hasher *hasher = hasher_new(HASH_SHA256);
	if (!hasher)
		return -ENOMEM;
	hasher_feed(hasher, head.data, head.len);
	hasher_feed(hasher, data, len);
	hasher_feed(hasher, tail.data, tail.len);
	hasher_final(hasher, &h);
	hasher_free(hasher);
	memcpy(ret_hash, h.bytes, 32);
	*ret_size = head.len + len + tail.len;
	return 0;
}

struct nar_stream {
	struct tree_writer *writer;
	struct hasher *nar, *also;
	uint64_t size;
};

static int feed_nar(struct wire_in *in, struct nar_stream *n, struct err *e)
{
	for (;;) {
		size_t used = 0;
		if (in->p == in->end) {
			int r = in->more(in);
			if (r)
				return r;
		}
		int r = tree_writer_feed(n->writer, in->p, wire_avail(in), &used, e);
		if (r < 0)
			return r;
		if (r > TREE_END)
			return e->code = OP_FAILED;
		hasher_feed(n->nar, in->p, used);
		if (n->also)
			hasher_feed(n->also, in->p, used);
		n->size += used;
		in->p += used;
		if (r == TREE_END)
			return 0;
	}
}

int spool_nar(struct session *s, struct wire_in *in, struct hasher *also, struct spooled *ret,
	      struct err *e)
{
	struct nar_stream n = { .also = also };
	struct hash h;
	int r = -ENOMEM;

	spool_name(s, ret->name);
	n.nar = hasher_new(HASH_SHA256);
	n.writer = tree_writer_new(s->spool, ret->name);
	if (n.nar && n.writer)
		r = feed_nar(in, &n, e);
	if (n.nar)
		hasher_final(n.nar, &h);
	hasher_free(n.nar);
	tree_writer_free(n.writer);
	if (r) {
		spool_discard(s, ret);
		return r;
	}
	memcpy(ret->nar_hash, h.bytes, 32);
	ret->nar_size = n.size;
	return 0;
}

static int flat_to_file(struct session *s, struct buf *small, struct spooled *ret, int *ret_fd)
{
	spool_name(s, ret->name);
	int r = spool_open(s, ret->name, ret_fd);
	if (!r)
		r = write_full(*ret_fd, small->data, small->len);
	buf_done(small);
	return r;
}

static int flat_stream(struct session *s, struct wire_framed *f, struct hasher *h,
		       struct buf *small, struct spooled *ret, int *fd)
{
	bool end;
	int r;

	while (!(r = wire_framed_next(f, &end)) && !end) {
		size_t n = wire_avail(&f->in);
		hasher_feed(h, f->in.p, n);
		if (*fd < 0 && small->len + n > SPOOL_SMALL) {
			r = flat_to_file(s, small, ret, fd);
			if (r)
				return r;
		}
		r = *fd < 0 ? buf_append(small, f->in.p, n) : write_full(*fd, f->in.p, n);
		if (r)
			return r;
		f->in.p = f->in.end;
	}
	if (!r && *fd >= 0)
		r = set_mtime(*fd);
	return r;
}

int spool_flat(struct session *s, struct wire_framed *f, enum hash_algo algo, struct buf *ret_small,
	       struct hash *ret_hash, struct spooled *ret, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct tree_facts facts;

	struct hasher *h = hasher_new(algo);
	if (!h)
		return -ENOMEM;
	*ret->name = 0;
	int r = flat_stream(s, f, h, ret_small, ret, &fd);
	hasher_final(h, ret_hash);
	hasher_free(h);
	if (!r && fd >= 0) {
		/* The NAR's framing begins with the length, which is known only now. */
		r = tree_measure(s->spool, ret->name, NULL, &facts, e);
		memcpy(ret->nar_hash, facts.nar_hash, 32);
		ret->nar_size = facts.nar_size;
	}
	if (r)
		spool_discard(s, ret);
	if (r < 0 && e->code == 0)
		return err_errno(e, r, "cannot write to the spool");
	return r;
}
