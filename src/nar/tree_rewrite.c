/* Trees in which digests of store paths are replaced by others: see tree.h. Linked by the
 * supervisor.
 *
 * All digests are equally long, so a NAR stays well-formed; only names that change their order in a
 * directory make it invalid, which is told. */
#include "nar/tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { DIGEST = 32 };

/* One pair, and where its output goes. */
struct link {
	struct rewrite *rewrite;
	rewrite_sink sink;
	void *ctx;
};

struct tree_rewriter {
	struct link *v; /* [0] gets the input */
	size_t n;
	byte_sink sink;
	void *ctx;
};

static int into_link(void *ctx, const uint8_t *data, size_t len)
{
	struct link *l = ctx;

	return rewrite_feed(l->rewrite, data, len, l->sink, l->ctx);
}

static int into_sink(void *ctx, const uint8_t *data, size_t len)
{
	struct tree_rewriter *r = ctx;

	return r->sink(r->ctx, data, len);
}

void tree_rewriter_free(struct tree_rewriter *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->n; i++)
		rewrite_free(r->v[i].rewrite);
	free(r->v);
	free(r);
}

struct tree_rewriter *tree_rewriter_new(const struct tree_pair *pairs, size_t n, byte_sink sink,
					void *ctx)
{
	struct tree_rewriter *r = calloc(1, sizeof(*r));

	if (r)
		r->v = calloc(n ? n : 1, sizeof(*r->v));
	if (!r || !r->v) {
		free(r);
		return NULL;
	}
	r->sink = sink;
	r->ctx = ctx;
	for (size_t i = 0; i < n; i++) {
		bool last = i + 1 == n;

		r->v[i] = (struct link){ .rewrite = rewrite_new(pairs[i].from, pairs[i].to),
					 .sink = last ? into_sink : into_link,
					 .ctx = last ? (void *)r : &r->v[i + 1] };
		r->n++;
		if (!r->v[i].rewrite) {
			tree_rewriter_free(r);
			return NULL;
		}
	}
	return r;
}

int tree_rewriter_feed(void *rewriter, const uint8_t *data, size_t len)
{
	struct tree_rewriter *r = rewriter;

	return r->n ? into_link(&r->v[0], data, len) : into_sink(r, data, len);
}

int tree_rewriter_end(struct tree_rewriter *r)
{
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < r->n; i++)
		ret = rewrite_end(r->v[i].rewrite, r->v[i].sink, r->v[i].ctx);
	return ret;
}

const uint64_t *tree_rewriter_matches(const struct tree_rewriter *r, size_t *ret_n)
{
	*ret_n = 0;
	return r->n ? rewrite_matches(r->v[r->n - 1].rewrite, ret_n) : NULL;
}

struct restore {
	struct tree_writer *writer;
	struct err *e;
	bool complete;
};

static int restore_bytes(void *ctx, const uint8_t *data, size_t len)
{
	struct restore *k = ctx;

	while (len) {
		size_t used = 0;
		int r = tree_writer_feed(k->writer, data, len, &used, k->e);

		if (r == TREE_END)
			k->complete = true;
		else if (r != TREE_MORE)
			return r;
		data += used;
		len -= used;
		if (r == TREE_MORE && !used && len)
			return -EIO;
	}
	return 0;
}

int tree_rewrite(int dirfd, const char *from, const char *to, const struct tree_pair *pairs,
		 size_t n, struct err *e)
{
	struct restore k = { .writer = tree_writer_new(dirfd, to), .e = e };
	struct tree_rewriter *rw = tree_rewriter_new(pairs, n, restore_bytes, &k);
	int r = k.writer && rw ? 0 : err_errno(e, -ENOMEM, "rewriting '%s'", from);

	if (r == 0)
		r = tree_dump(dirfd, from, tree_rewriter_feed, rw, e);
	if (r == 0)
		r = tree_rewriter_end(rw);
	if (r == 0 && !k.complete)
		r = err_set(e, -EIO, "the rewritten '%s' is incomplete", from);
	if (r < 0 && !e->code)
		err_errno(e, r, "rewriting '%s'", from);
	tree_rewriter_free(rw);
	tree_writer_free(k.writer);
	return r;
}
