/* Outputs whose path follows from their contents: hashed as their method says, compared (fixed) or
 * moved where they belong (floating, impure; feature rows C4, C5, E4, E5).
 *
 * Hashing counts an output's own digest as zeros, followed by the places where it stood: as
 * upstream does up to 2.8 and again from 2.35 on (the releases between forget the places, so that
 * two different trees can get one path). Linked by airplant-build alone. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "build/outputs.h"
#include "hash/hash.h"
#include "nar/tree.h"

/* Bytes of value zero, not digits. */
static const char zero_digest[STORE_DIGEST_LEN];

static int feed(void *ctx, const uint8_t *data, size_t len)
{
	hasher_feed(ctx, data, len);
	return 0;
}

static int stream_file(int dirfd, const char *name, struct tree_rewriter *rw)
{
	_cleanup_close_ int fd = open_beneath(dirfd, name, O_RDONLY, 0);
	uint8_t data[64 * 1024];

	if (fd < 0)
		return fd;
	for (;;) {
		ssize_t n = read(fd, data, sizeof(data));
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		r = tree_rewriter_feed(rw, data, (size_t)n);
		if (r)
			return r;
	}
}

/* What stands behind the stream: where the last pair of digests was met. */
static void feed_places(struct hasher *h, const struct tree_rewriter *rw)
{
	size_t n;
	const uint64_t *at = tree_rewriter_matches(rw, &n);
	char text[32];

	for (size_t i = 0; i < n; i++) {
		int len = snprintf(text, sizeof(text), "|%llu", (unsigned long long)at[i]);

		hasher_feed(h, text, (size_t)len);
	}
}

/* Of what lies in <scratch>/out under the output's planned name; `pairs` are replaced meanwhile. */
static int hash_output(struct work *w, const struct build_output *o, enum ca_method method,
		       const struct tree_pair *pairs, size_t n, struct hash *got, struct err *e)
{
	struct tree_rewriter *rw;
	struct hasher *h;
	int r;

	if (method == CA_GIT)
		return tree_result(tree_git_hash(w->out, o->path, got->algo, got, e), w, o, e);
	h = hasher_new(got->algo);
	rw = h ? tree_rewriter_new(pairs, n, feed, h) : NULL;
	if (!rw) {
		hasher_free(h);
		return out_of_memory(e);
	}
	if (method == CA_NAR) {
		r = tree_result(tree_dump(w->out, o->path, tree_rewriter_feed, rw, e), w, o, e);
	} else {
		r = stream_file(w->out, o->path, rw);
		if (r < 0)
			err_errno(e, r, "reading output '%s'", o->name);
	}
	if (r == 0)
		r = tree_rewriter_end(rw);
	feed_places(h, rw);
	hasher_final(h, got);
	tree_rewriter_free(rw);
	hasher_free(h);
	return r;
}

static int parse_method(const struct build_output *o, struct ca *ret, struct err *e)
{
	int r = ca_method_parse(o->ca, &ret->method, &ret->hash.algo, e);

	return r > 0 ? -EINVAL : r;
}

/* Where the contents belong that came instead of those asked for. */
static int keep_under_real_path(struct work *w, const struct build_output *o, const struct ca *ca,
				char **ret, struct err *e)
{
	struct build *b = w->b;
	char *name = output_object_name(&b->arena, b->s.drv_name, o->name);
	struct strv none = { 0 };
	struct store_path real;
	int r;

	if (!name)
		return out_of_memory(e);
	r = store_path_for_ca(b->s.store_dir, name, ca, &none, false, &real, e);
	if (r != 0)
		return r < 0 ? r : -EINVAL;
	if (renameat(w->out, o->path, w->out, real.base) < 0)
		return err_errno(e, -errno, "moving output '%s'", o->name);
	*ret = arena_strdup(&b->arena, real.base);
	return *ret ? 0 : out_of_memory(e);
}

int outputs_check_fixed(struct work *w, char **ret_real, struct err *e)
{
	struct build *b = w->b;
	const struct build_output *o = &b->s.outputs.v[0];
	struct strv *refs = &w->made[0].refs;
	struct hash want = { 0 };
	struct ca ca = {};
	int r = parse_method(o, &ca, e);

	if (r == 0 && b->s.fixed_hash.n != hash_size(ca.hash.algo))
		r = err_set(e, -EINVAL, "the hash of a fixed output is too long or too short");
	if (r == 0)
		r = hash_output(w, o, ca.method, NULL, 0, &ca.hash, e);
	if (r != 0)
		return r;
	want.algo = ca.hash.algo;
	memcpy(want.bytes, b->s.fixed_hash.v, b->s.fixed_hash.n);
	w->made[0].ca = ca_print(&b->arena, &ca);
	if (!w->made[0].ca)
		return out_of_memory(e);
	if (refs->n && !(ca.method == CA_NAR && ca.hash.algo == HASH_SHA256) &&
	    ca.method != CA_TEXT)
		return err_set(
			e, REJECTED,
			"fixed output derivation '%s' is not allowed to refer to other store "
			"paths.\nYou may need to use the 'unsafeDiscardReferences' derivation "
			"attribute, see the manual for more details.",
			b->s.drv_name);
	if (!hash_equal(&want, &ca.hash)) {
		if (refs->n == 0) {
			r = keep_under_real_path(w, o, &ca, ret_real, e);
			if (r != 0)
				return r;
		}
		return err_set(e, REJECTED,
			       "hash mismatch in fixed-output derivation '" C_MAGENTA
			       "%s/%s" C_NORMAL "':\n  specified: " C_MAGENTA "%s" C_NORMAL
			       "\n     got:    " C_MAGENTA "%s" C_NORMAL,
			       b->s.store_dir, b->s.drv, hash_print(&b->arena, &want, SRI),
			       hash_print(&b->arena, &ca.hash, SRI));
	}
	if (refs->n)
		return err_set(
			e, REJECTED,
			"fixed-output derivations must not reference store paths: '" C_MAGENTA
			"%s/%s" C_NORMAL "' references " C_MAGENTA "%zu" C_NORMAL
			" distinct paths, e.g. '" C_MAGENTA "%s/%s" C_NORMAL "'",
			b->s.store_dir, b->s.drv, refs->n, b->s.store_dir, refs->v[0]);
	return 0;
}

/* References as they will be: outputs by their new names; the output itself is told apart. */
static int final_refs(struct work *w, size_t i, struct tree_pair *pairs, size_t *ret_n,
		      struct strv *ret, bool *ret_self, struct err *e)
{
	const struct build_start *s = &w->b->s;
	struct strv *refs = &w->made[i].refs;

	for (size_t k = 0; k < refs->n; k++) {
		char *name = refs->v[k];
		size_t o = 0;

		while (o < s->outputs.n && strcmp(s->outputs.v[o].path, name))
			o++;
		if (o == i) {
			*ret_self = true;
			continue;
		}
		if (o < s->outputs.n && strcmp(w->made[o].path, name)) {
			pairs[(*ret_n)++] = (struct tree_pair){ name, w->made[o].path };
			name = w->made[o].path;
		}
		if (strv_add_arena(ret, &w->b->arena, name) < 0)
			return out_of_memory(e);
	}
	strv_sort_uniq(ret, false);
	return 0;
}

/* Moves or rewrites it to its path, and measures it again where its bytes have changed. */
static int settle(struct work *w, size_t i, const struct store_path *path,
		  const struct tree_pair *pairs, size_t n, struct err *e)
{
	const struct build_output *o = &w->b->s.outputs.v[i];
	struct build_made *m = &w->made[i];
	struct tree_facts facts;
	int r;

	if (n == 0)
		return renameat(w->out, o->path, w->out, path->base) < 0
			       ? err_errno(e, -errno, "moving output '%s'", o->name)
			       : 0;
	r = tree_result(tree_rewrite(w->out, o->path, path->base, pairs, n, e), w, o, e);
	if (r == 0)
		r = tree_result(tree_measure(w->out, path->base, NULL, &facts, e), w, o, e);
	if (r)
		return r;
	memcpy(m->nar_hash, facts.nar_hash, sizeof(m->nar_hash));
	m->nar_size = facts.nar_size;
	r = rm_tree_at(w->out, o->path);
	return r < 0 ? err_errno(e, r, "deleting what was rewritten of output '%s'", o->name) : 0;
}

int outputs_address(struct work *w, size_t i, struct err *e)
{
	struct build *b = w->b;
	const struct build_output *o = &b->s.outputs.v[i];
	struct build_made *m = &w->made[i];
	struct tree_pair *pairs = arena_array(&b->arena, b->s.outputs.n + 1, sizeof(*pairs));
	char *name = output_object_name(&b->arena, b->s.drv_name, o->name);
	struct store_path path;
	struct strv refs = {};
	struct ca ca = {};
	bool self = false;
	size_t n = 0;
	int r = pairs && name ? parse_method(o, &ca, e) : out_of_memory(e);

	if (r == 0)
		r = final_refs(w, i, pairs, &n, &refs, &self, e);
	if (r)
		return r;
	/* References that do not count are rewritten all the same. */
	for (size_t k = 0; o->discard_refs && k < b->s.outputs.n; k++)
		if (k != i && strcmp(b->s.outputs.v[k].path, w->made[k].path))
			pairs[n++] = (struct tree_pair){ b->s.outputs.v[k].path, w->made[k].path };
	pairs[n] = (struct tree_pair){ o->path, zero_digest };
	r = hash_output(w, o, ca.method, pairs, n + 1, &ca.hash, e);
	if (r == 0) {
		r = store_path_for_ca(b->s.store_dir, name, &ca, &refs, self, &path, e);
		r = r > 0 ? REJECTED : r;
	}
	if (r)
		return r;
	pairs[n].to = path.base;
	r = settle(w, i, &path, pairs, n + (self || o->discard_refs), e);
	if (r)
		return r;
	m->path = arena_strdup(&b->arena, path.base);
	m->ca = ca_print(&b->arena, &ca);
	if (!m->path || !m->ca || (self && strv_add_arena(&refs, &b->arena, m->path) < 0))
		return out_of_memory(e);
	strv_sort_uniq(&refs, false);
	m->refs = refs;
	return 0;
}
