/* The export format of old clients (ops 16 and 27).
 *
 *   export = *( u64 1 object ) u64 0
 *   object = nar u64 0x4558494e path refs deriver ( u64 0 / u64 1 string )
 * ExportPath sends one object in WRITE frames; ImportPaths pulls an export with READ frames. */
#include <errno.h>
#include <string.h>

#include "nar/tree.h"
#include "session/import.h"
#include "session/ops.h"
#include "session/spool.h"

enum { EXPORT_CHUNK = 32 * 1024 };

struct export
{
	struct session *s;
	struct wire_out data; /* what goes into the next WRITE frame */
	struct hasher *hasher;
};

static void export_flush(struct export *x)
{
	wire_put_u64(&x->s->out, FRAME_WRITE);
	wire_put_blob(&x->s->out, x->data.b.data, x->data.b.len);
	buf_clear(&x->data.b);
}

static int export_data(void *ctx, const uint8_t *data, size_t len)
{
	struct export *x = ctx;

	hasher_feed(x->hasher, data, len);
	wire_put_raw(&x->data, data, len);
	if (x->data.b.len >= EXPORT_CHUNK)
		export_flush(x);
	return x->data.rc ?: x->s->out.rc;
}

/* Refuses a path whose files have changed since: damage must not spread to other machines. */
static int check_unchanged(struct export *x, const struct wire_info *info, struct err *e)
{
	struct hash was = { .algo = HASH_SHA256 }, is;

	memcpy(was.bytes, info->nar_hash, 32);
	hasher_final(x->hasher, &is);
	if (hash_equal(&was, &is))
		return 0;
	return err_set(e, OP_FAILED,
		       "hash of path '%s/%s' has changed from 'sha256:%s' to 'sha256:%s'!",
		       x->s->client.store_dir, info->path.base,
		       hash_print(&x->s->arena, &was, BASE32) ?: "",
		       hash_print(&x->s->arena, &is, BASE32) ?: "");
}

static int export_path(struct session *s, const struct wire_info *info, struct err *e)
{
	struct export x = { .s = s,
			    .data = { .b = BUF_INIT(SIZE_MAX / 2),
				      .store_dir = s->client.store_dir },
			    .hasher = hasher_new(HASH_SHA256) };

	int r = x.hasher ? tree_dump(s->store, info->path.base, export_data, &x, e) : -ENOMEM;
	if (!r)
		r = check_unchanged(&x, info, e);
	if (!r) {
		wire_put_u64(&x.data, WIRE_MAGIC_EXPORT);
		wire_put_path(&x.data, info->path.base);
		wire_put_paths(&x.data, &info->refs);
		wire_put_path(&x.data, info->deriver);
		wire_put_u64(&x.data, 0);
		export_flush(&x);
		r = x.data.rc;
	}
	buf_done(&x.data.b);
	hasher_free(x.hasher);
	return r > 0 && r != OP_FAILED ? (e->code = OP_FAILED) : r;
}

int op_export_path(struct session *s, struct err *e)
{
	struct wire_info info;
	struct store_path p;
	uint64_t sign; /* obsolete */

	int r = wire_path(&s->in, s->client.store_dir, &s->arena, &p);
	if (!r)
		r = wire_u64(&s->in, &sign);
	if (r)
		return r;
	request_read(s);
	r = store_info_must(s, &p, &info, e);
	store_release(s);
	if (!r)
		r = export_path(s, &info, e);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, 1);
	return 0;
}

/* What stands behind an exported NAR. */
static int get_trailer(struct session *s, struct wire_in *in, struct arena *a,
		       struct wire_info *info, struct err *e)
{
	uint64_t magic, has_signature;

	int r = wire_u64(in, &magic);
	if (!r && magic != WIRE_MAGIC_EXPORT)
		return err_set(e, OP_FAILED, "Nix archive cannot be imported; wrong format");
	if (!r)
		r = wire_path(in, s->client.store_dir, a, &info->path);
	if (!r)
		r = wire_paths(in, s->client.store_dir, a, &info->refs);
	if (!r)
		r = wire_opt_path(in, s->client.store_dir, a, &info->deriver);
	if (!r)
		r = wire_u64(in, &has_signature);
	if (!r && has_signature == 1)
		r = wire_skip_str(in); /* a kind of signature that nobody checks any more */
	return r;
}

static int import_one(struct session *s, struct wire_in *in, struct batch *b,
		      struct strv *ret_paths, struct err *e)
{
	struct wire_info info = { .ca = (char *)"" };
	struct spooled o;

	int r = spool_nar(s, in, NULL, &o, e);
	if (r)
		return r;
	r = get_trailer(s, in, &b->arena, &info, e);
	memcpy(info.nar_hash, o.nar_hash, 32);
	info.nar_size = o.nar_size;
	if (!r) {
		char *base = arena_strdup(&s->arena, info.path.base);
		r = base && strv_add_arena(ret_paths, &s->arena, base) == 0 ? 0 : too_large(e);
	}
	if (!r)
		r = batch_put(s, b, &info, &o, e);
	spool_discard(s, &o);
	return r;
}

static int import_all(struct session *s, struct batch *b, struct strv *ret_paths, struct err *e)
{
	struct wire_in *in = framed_open(s, true);
	uint64_t more;
	int r;

	b->dont_check_sigs = client_may(s, RIGHT_IMPORT_UNSIGNED);
	for (;;) {
		r = wire_u64(in, &more);
		if (r || more == 0)
			break;
		if (more != 1)
			return err_set(e, OP_FAILED,
				       "input doesn't look like something created by 'nix-store "
				       "--export'");
		r = import_one(s, in, b, ret_paths, e);
		if (r)
			return r;
	}
	if (!r)
		r = framed_close(s);
	return r ?: batch_finish(s, b, e);
}

int op_import_paths(struct session *s, struct err *e)
{
	struct strv paths = {};
	struct batch b;

	int r = batch_init(&b);
	if (!r)
		r = import_all(s, &b, &paths, e);
	batch_done(s, &b);
	if (r)
		return r;
	answer_begin(s);
	wire_put_paths(&s->out, &paths);
	return 0;
}
