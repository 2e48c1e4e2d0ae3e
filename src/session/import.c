/* Objects that come with their path info: see import.h. */
#include "session/import.h"

#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "nar/nar.h"
#include "session/spool.h"

int batch_init(struct batch *b)
{
	*b = (struct batch){ .arena = ARENA_INIT(WIRE_REQUEST_MAX) };
	b->v = calloc(BATCH_OBJECTS, sizeof(*b->v));
	return b->v ? 0 : -ENOMEM;
}

void batch_done(struct session *s, struct batch *b)
{
	for (size_t i = 0; i < b->n; i++)
		(void)rm_tree_at(s->spool, b->v[i].spool_name);
	free(b->v);
	arena_done(&b->arena);
}

static void batch_clear(struct batch *b)
{
	b->n = 0;
	b->bytes = 0;
	arena_done(&b->arena);
	b->arena = ARENA_INIT(WIRE_REQUEST_MAX);
}

int batch_send(struct session *s, struct batch *b)
{
	struct session_add msg = { .dont_check_sigs = b->dont_check_sigs, .repair = b->repair };
	struct pending p = { .silent = true };
	int r = 0;

	msg.objects.v = b->v;
	msg.objects.n = b->n;
	if (b->n == 0)
		return 0;
	for (size_t i = 0; !r && i < b->n; i++)
		r = strv_add(&p.spool_names, b->v[i].spool_name);
	if (!r)
		r = pending_room(s);
	if (!r)
		r = core_send(s, SESSION_ADD, &session_add_layout, &msg, &p.id);
	if (!r)
		r = pending_add(s, &p);
	pending_drop(&p);
	if (!r)
		batch_clear(b);
	return r;
}

int batch_finish(struct session *s, struct batch *b, struct err *e)
{
	int r = batch_send(s, b);
	if (!r)
		r = pending_settle(s);
	if (!r && s->batch_error)
		return err_set(e, OP_FAILED, "%s", s->batch_error);
	return r;
}

/* Makes a valid path a root, without waiting; it must still be valid when that is done. */
static int keep_valid(struct session *s, const struct store_path *p)
{
	struct session_text t = { .text = (char *)p->base };
	struct pending wait = { .silent = true };

	int r = pending_room(s);
	if (!r)
		r = core_send(s, SESSION_TEMP_ROOT, &session_text_layout, &t, &wait.id);
	return r ?: pending_add(s, &wait);
}

static const char *hash_text(struct session *s, const uint8_t hash[32])
{
	struct hash h = { .algo = HASH_SHA256 };

	memcpy(h.bytes, hash, 32);
	char *text = hash_print(&s->arena, &h, BASE32);
	return text ? text : "";
}

static int check_nar(struct session *s, const struct wire_info *info, const struct spooled *o,
		     struct err *e)
{
	if (memcmp(info->nar_hash, o->nar_hash, 32) != 0)
		return err_set(e, OP_FAILED,
			       "hash mismatch importing path '%s/%s';\n  specified: sha256:%s\n  "
			       "got:       sha256:%s",
			       s->client.store_dir, info->path.base, hash_text(s, info->nar_hash),
			       hash_text(s, o->nar_hash));
	if (info->nar_size != o->nar_size)
		return err_set(e, OP_FAILED,
			       "size mismatch importing path '%s/%s';\n  specified: %llu\n  "
			       "got:       %llu",
			       s->client.store_dir, info->path.base,
			       (unsigned long long)info->nar_size, (unsigned long long)o->nar_size);
	return 0;
}

static int check_ca(struct session *s, const struct wire_info *info, const struct spooled *o,
		    struct err *e)
{
	struct ca ca;

	if (!*info->ca)
		return 0;
	int r = ca_parse(info->ca, &ca, e);
	if (r)
		return r < 0 ? r : (e->code = OP_FAILED);
	return spool_verify_ca(s, o, &ca, &info->path, e);
}

int batch_put(struct session *s, struct batch *b, const struct wire_info *info, struct spooled *o,
	      struct err *e)
{
	int r = check_ca(s, info, o, e);
	if (r)
		return r;
	struct session_object *v = &b->v[b->n];
	*v = (struct session_object){
		.path = arena_strdup(&b->arena, info->path.base),
		.spool_name = arena_strdup(&b->arena, o->name),
		.nar_size = info->nar_size,
		.refs = info->refs,
		.deriver = info->deriver,
		.ca = info->ca,
		.sigs = info->sigs,
		.ultimate = info->ultimate,
		.registration_time = info->registration_time,
	};
	if (!v->path || !v->spool_name)
		return too_large(e);
	memcpy(v->nar_hash, info->nar_hash, 32);
	*o->name = 0; /* the batch's now */
	b->n++;
	b->bytes += info->nar_size;
	return b->n == BATCH_OBJECTS || b->bytes >= BATCH_BYTES ? batch_send(s, b) : 0;
}

/* Reads over a NAR by its own structure: a stated size might be false. */
static int skip_nar(struct wire_in *in, struct err *e)
{
	struct nar_reader *reader = nar_reader_new();
	int r = reader ? 0 : -ENOMEM, event = NAR_MORE;

	while (!r && event != NAR_END) {
		struct nar_item item;
		size_t used = 0;
		if (event == NAR_MORE && in->p == in->end && (r = in->more(in)))
			break;
		event = nar_reader_next(reader, in->p, wire_avail(in), &used, &item, e);
		in->p += used;
		if (event < 0)
			r = e->code = OP_FAILED;
	}
	nar_reader_free(reader);
	return r;
}

int batch_take(struct session *s, struct batch *b, struct wire_in *in, struct wire_info *info,
	       struct err *e)
{
	struct spooled o = {};

	int r = b->repair ? DB_ABSENT : store_valid(s, &info->path, e);
	if (r && r != DB_ABSENT)
		return r;
	if (r == 0)
		return skip_nar(in, e) ?: keep_valid(s, &info->path);
	r = spool_nar(s, in, NULL, &o, e);
	if (!r)
		r = check_nar(s, info, &o, e);
	if (!r)
		r = batch_put(s, b, info, &o, e);
	spool_discard(s, &o);
	return r;
}
