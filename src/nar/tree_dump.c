/* Dumping and measuring a tree: see tree.h. Linked by session and supervisor.
 *
 * Contents are read straight into the output buffer, between the strings around them, so that a
 * tree of small files reaches the sink in large pieces. Nothing is written, no symlink followed. */
#include "nar/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "nar/tree_walk.h"

/* OUT_ROOM: more than the longest run of strings between two looks at the buffer's fill level (a
 * name, a link target and the tags around them). */
enum { OUT_SIZE = 128 * 1024, OUT_ROOM = 8 * 1024 };

struct dump {
	struct tree_walk walk;
	struct buf out;
	byte_sink sink;
	void *ctx;
	struct err *e;
};

static int flush(struct dump *d)
{
	size_t len = d->out.len;

	d->out.len = 0;
	return len ? d->sink(d->ctx, d->out.data, len) : 0;
}

static int make_room(struct dump *d)
{
	return d->out.len > OUT_SIZE - OUT_ROOM ? flush(d) : 0;
}

static int changed(struct dump *d, const char *name)
{
	return tree_bad(&d->walk, name, d->e, "file '%s' changed while it was read");
}

static int dump_contents(struct dump *d, int fd, const char *name, uint64_t size)
{
	uint64_t left = size;

	/* One byte more than is expected is asked for: a file that has grown shows at once. */
	while (left) {
		size_t want = OUT_SIZE - d->out.len;
		ssize_t n;
		int r;

		if (want < 2) {
			r = flush(d);
			if (r)
				return r;
			continue;
		}
		if (want > left + 1)
			want = (size_t)left + 1;
		n = read(fd, d->out.data + d->out.len, want);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return tree_errno(&d->walk, name, d->e, -errno, "reading file");
		if (n == 0 || (uint64_t)n > left)
			return changed(d, name);
		d->out.len += (size_t)n;
		left -= (uint64_t)n;
	}
	return make_room(d);
}

static int dump_file(struct dump *d, int dir, const char *name)
{
	_cleanup_close_ int fd = tree_open(dir, name, 0);
	struct stat st;
	uint64_t size;
	int r;

	if (fd < 0)
		return tree_errno(&d->walk, name, d->e, fd, "opening file");
	if (fstat(fd, &st) < 0)
		return tree_errno(&d->walk, name, d->e, -errno, "getting status of");
	if (!S_ISREG(st.st_mode))
		return tree_bad(&d->walk, name, d->e, "file '%s' has an unsupported type");
	size = (uint64_t)st.st_size;
	r = nar_put_file_begin(&d->out, st.st_mode & S_IXUSR, size);
	if (r == 0)
		r = dump_contents(d, fd, name, size);
	return r ? r : nar_put_file_end(&d->out, size);
}

static int dump_symlink(struct dump *d, int dir, const char *name)
{
	char target[NAR_TARGET_MAX + 1];
	int r = tree_readlink(dir, name, target);

	if (r < 0)
		return tree_errno(&d->walk, name, d->e, r, "reading symbolic link");
	return nar_put_symlink(&d->out, target);
}

static int enter_dir(struct dump *d, int dir, const char *name)
{
	int fd = tree_open(dir, name, O_DIRECTORY), r;

	if (fd < 0)
		return tree_errno(&d->walk, name, d->e, fd, "opening directory");
	r = tree_walk_push(&d->walk, fd, name, d->e);
	return r ? r : nar_put_dir_begin(&d->out);
}

/* One node: a directory is only begun. */
static int dump_node(struct dump *d, int dir, const char *name, unsigned char type)
{
	struct stat st;

	if (type == DT_UNKNOWN) {
		if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return tree_errno(&d->walk, name, d->e, -errno, "getting status of");
		type = IFTODT(st.st_mode);
	}
	/* The reader's limit counts files too: what is dumped here must be restorable. */
	if (d->walk.depth >= NAR_MAX_DEPTH)
		return tree_bad(&d->walk, name, d->e,
				"path '%s' exceeds maximum NAR directory depth of 64");
	switch (type) {
	case DT_REG:
		return dump_file(d, dir, name);
	case DT_LNK:
		return dump_symlink(d, dir, name);
	case DT_DIR:
		return enter_dir(d, dir, name);
	default:
		return tree_bad(&d->walk, name, d->e, "file '%s' has an unsupported type");
	}
}

/* Dumps the next entry of the innermost directory, or ends that directory. */
static int dump_step(struct dump *d)
{
	unsigned char type;
	const char *name = tree_walk_next(&d->walk, &type);
	size_t depth = d->walk.depth;
	int r = make_room(d);

	if (r)
		return r;
	if (!name) {
		tree_walk_pop(&d->walk);
		r = nar_put_dir_end(&d->out);
		return r || d->walk.depth == 0 ? r : nar_put_entry_end(&d->out);
	}
	r = nar_put_entry_begin(&d->out, name);
	if (r == 0)
		r = dump_node(d, tree_walk_fd(&d->walk), name, type);
	/* The end of a directory's entry comes when the directory ends. */
	return r || d->walk.depth > depth ? r : nar_put_entry_end(&d->out);
}

int tree_dump(int dirfd, const char *name, byte_sink sink, void *ctx, struct err *e)
{
	struct dump *d = calloc(1, sizeof(*d));
	int r = -ENOMEM;

	if (!d)
		return r;
	d->out = BUF_INIT(OUT_SIZE);
	d->sink = sink;
	d->ctx = ctx;
	d->e = e;
	r = buf_reserve(&d->out, OUT_SIZE);
	if (r == 0)
		r = nar_put_begin(&d->out);
	if (r == 0)
		r = dump_node(d, dirfd, name, DT_UNKNOWN);
	while (r == 0 && d->walk.depth)
		r = dump_step(d);
	if (r == 0)
		r = flush(d);
	else if (r == -ENOMEM)
		err_errno(e, r, "dumping '%s'", name);
	tree_walk_done(&d->walk);
	buf_done(&d->out);
	free(d);
	return r;
}

enum { STOP_BYTES = 32 << 20 };

struct measure {
	struct hasher *hasher;
	struct refscan *scan;
	const struct tree_stop *stop;
	uint64_t size, asked_at;
};

static int measure_sink(void *ctx, const uint8_t *data, size_t len)
{
	struct measure *m = ctx;

	hasher_feed(m->hasher, data, len);
	if (m->scan)
		refscan_feed(m->scan, data, len);
	m->size += len;
	if (!m->stop || m->size - m->asked_at < STOP_BYTES)
		return 0;
	m->asked_at = m->size;
	return m->stop->asked(m->stop->ctx) ? -ECANCELED : 0;
}

int tree_measure_until(int dirfd, const char *name, struct refscan *scan,
		       const struct tree_stop *stop, struct tree_facts *ret, struct err *e)
{
	struct measure m = { .hasher = hasher_new(HASH_SHA256), .scan = scan, .stop = stop };
	struct hash hash;
	int r;

	if (!m.hasher)
		return -ENOMEM;
	r = tree_dump(dirfd, name, measure_sink, &m, e);
	if (r == 0) {
		hasher_final(m.hasher, &hash);
		memcpy(ret->nar_hash, hash.bytes, sizeof(ret->nar_hash));
		ret->nar_size = m.size;
	}
	hasher_free(m.hasher);
	return r;
}

int tree_measure(int dirfd, const char *name, struct refscan *scan, struct tree_facts *ret,
		 struct err *e)
{
	return tree_measure_until(dirfd, name, scan, NULL, ret, e);
}
