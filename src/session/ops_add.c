/* Adding content-addressed objects: AddToStore in both forms and AddTextToStore.
 *
 * Nothing is read into memory that does not have to be. Small files wait in memory until their path
 * is known: what is valid already is never written. A small add does not wait for the core while
 * the client has sent more (pending): the next request is read meanwhile. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/fd.h"
#include "session/ops.h"
#include "session/spool.h"

struct add {
	char *name;
	enum ca_method method;
	enum hash_algo algo;
	struct strv refs;
	bool repair;
	bool path_only; /* the old form's answer is the path alone */
	struct ca ca;
	struct store_path path;
	struct spooled object;
	struct buf small; /* contents while not spooled */
	bool in_memory;
};

static void discard(struct session *s, struct add *a)
{
	spool_discard(s, &a->object);
	buf_done(&a->small);
}

static void put_answer(struct wire_out *out, const struct add *a, const struct wire_info *info)
{
	if (a->path_only)
		wire_put_path(out, info->path.base);
	else
		wire_put_keyed_info(out, info);
}

static int compute_path(struct session *s, struct add *a, struct err *e)
{
	a->ca.method = a->method;
	int r = store_path_for_ca(s->client.store_dir, a->name, &a->ca, &a->refs, false, &a->path,
				  e);
	return r > 0 ? (e->code = OP_FAILED) : r;
}

/* Queues the answer for when the core has done `p->id`. Takes what the entry holds. */
static int answer_later(struct session *s, const struct add *a, const struct wire_info *info,
			struct pending *p)
{
	p->reply =
		(struct wire_out){ .b = BUF_INIT(SIZE_MAX / 2), .store_dir = s->client.store_dir };
	put_answer(&p->reply, a, info);
	p->path = strdup(info->path.base);
	int r = p->reply.rc;
	if (!r)
		r = p->path ? pending_add(s, p) : -ENOMEM;
	if (r)
		pending_drop(p);
	return r;
}

/* Is it there already? Then it becomes a root, and the answer waits for that alone. */
static int look_up(struct session *s, struct add *a, struct err *e)
{
	struct session_text t = { .text = a->path.base };
	struct pending p = { .existing = true };
	struct wire_info info;
	int r = 0;

	if (smap_has(&s->pending_paths, a->path.base))
		r = pending_settle(s);
	if (!r)
		r = store_info(s, &a->path, &info, e);
	if (!r)
		r = pending_room(s);
	if (!r)
		r = core_send(s, SESSION_TEMP_ROOT, &session_text_layout, &t, &p.id);
	return r ?: answer_later(s, a, &info, &p);
}

/* Asks the core to register the object; the answer waits in the queue. */
static int submit(struct session *s, struct add *a, struct err *e)
{
	_cleanup_free_ char *ca = NULL;
	struct pending p = {};
	struct wire_info info = { .path = a->path,
				  .nar_size = a->object.nar_size,
				  .refs = a->refs,
				  .registration_time = (uint64_t)time(NULL),
				  .ca = ca_print(&s->arena, &a->ca) };
	memcpy(info.nar_hash, a->object.nar_hash, 32);
	if (!info.ca)
		return too_large(e);
	struct session_object o = { .path = info.path.base,
				    .spool_name = a->object.name,
				    .nar_size = info.nar_size,
				    .refs = info.refs,
				    .ca = info.ca,
				    .registration_time = info.registration_time };
	memcpy(o.nar_hash, info.nar_hash, 32);
	struct session_add msg = { .objects = { &o, 1 }, .repair = a->repair };

	int r = pending_room(s);
	if (!r)
		r = core_send(s, SESSION_ADD, &session_add_layout, &msg, &p.id);
	if (r)
		return r;
	r = strv_add(&p.spool_names, a->object.name);
	if (!r)
		r = answer_later(s, a, &info, &p);
	else
		pending_drop(&p);
	if (!r)
		*a->object.name = 0; /* the queue's now */
	return r;
}

/* A flat or text object in memory: what the database wants to know of it, and a file. */
static int write_small(struct session *s, struct add *a, struct err *e)
{
	int r = flat_nar_facts(a->small.data, a->small.len, a->object.nar_hash,
			       &a->object.nar_size);

	return r ?: spool_file(s, a->small.data, a->small.len, &a->object, e);
}

/* The contents are here and hashed: answer from the store, or add. */
static int finish(struct session *s, struct add *a, struct err *e)
{
	int r = compute_path(s, a, e);
	if (r)
		return r;
	r = a->repair ? DB_ABSENT : look_up(s, a, e);
	if (r != DB_ABSENT)
		return r;
	r = a->in_memory ? write_small(s, a, e) : 0;
	return r ?: submit(s, a, e);
}

/* A NAR: its hash is the content's own hash for sha256, else a second hasher reads along. */
static int read_nar(struct session *s, struct wire_in *in, struct add *a, struct err *e)
{
	struct hasher *also = NULL;

	if (a->method == CA_NAR && a->algo != HASH_SHA256) {
		also = hasher_new(a->algo);
		if (!also)
			return -ENOMEM;
	}
	int r = spool_nar(s, in, also, &a->object, e);
	a->ca.hash.algo = a->algo;
	if (also)
		hasher_final(also, &a->ca.hash);
	else
		memcpy(a->ca.hash.bytes, a->object.nar_hash, 32);
	hasher_free(also);
	return r;
}

static int read_flat(struct session *s, struct wire_framed *f, struct add *a, struct err *e)
{
	int r = spool_flat(s, f, a->algo, &a->small, &a->ca.hash, &a->object, e);

	a->in_memory = !r && !*a->object.name;
	return r;
}

static int get_framed_form(struct session *s, struct add *a, struct err *e)
{
	char *method;

	int r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &a->name);
	if (!r)
		r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &method);
	if (!r)
		r = wire_paths(&s->in, s->client.store_dir, &s->arena, &a->refs);
	if (!r)
		r = wire_bool(&s->in, &a->repair);
	if (r)
		return r;
	r = ca_method_parse(method, &a->method, &a->algo, e);
	return r > 0 ? OP_FAILED : r;
}

static int add_framed(struct session *s, struct add *a, struct err *e)
{
	int r = get_framed_form(s, a, e);
	if (r && r != OP_FAILED)
		return r;
	struct wire_in *in = framed_open(s, false);
	if (r)
		return r; /* the stream is read over before the client hears it */
	bool tree = a->method == CA_NAR || a->method == CA_GIT;
	r = tree ? read_nar(s, in, a, e) : read_flat(s, s->framed, a, e);
	if (r)
		return r;
	r = framed_close(s);
	if (!r && a->method == CA_GIT)
		r = spool_hash(s, a->object.name, CA_GIT, a->algo, NULL, false, &a->ca.hash, e);
	return r ?: finish(s, a, e);
}

static int get_old_form(struct session *s, struct add *a, struct err *e)
{
	bool fixed, recursive;
	char *algo;

	int r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &a->name);
	if (!r)
		r = wire_bool(&s->in, &fixed);
	if (!r)
		r = wire_bool(&s->in, &recursive);
	if (!r)
		r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &algo);
	if (r)
		return r;
	a->method = recursive || !fixed ? CA_NAR : CA_FLAT;
	if (hash_algo_parse(fixed ? algo : "sha256", &a->algo))
		return err_set(e, WIRE_BAD, "unknown hash algorithm '%s'", algo);
	return 0;
}

/* Before 1.25 a NAR comes as it is, even for a flat object. */
static int add_old(struct session *s, struct add *a, struct err *e)
{
	a->path_only = true;
	int r = get_old_form(s, a, e);
	if (!r)
		r = read_nar(s, &s->in, a, e);
	if (r)
		return r; /* the stream's end is unknown: this closes the connection */
	request_read(s);
	if (a->method == CA_FLAT)
		r = spool_hash(s, a->object.name, CA_FLAT, a->algo, NULL, false, &a->ca.hash, e);
	return r ?: finish(s, a, e);
}

int op_add_to_store(struct session *s, struct err *e)
{
	struct add a = { .small = BUF_INIT(SIZE_MAX / 2) };

	int r = wire_gate(s->version, GATE_ADD_FRAMED) ? add_framed(s, &a, e) : add_old(s, &a, e);
	discard(s, &a);
	return r;
}

int op_add_text_to_store(struct session *s, struct err *e)
{
	struct add a = { .method = CA_TEXT, .algo = HASH_SHA256, .path_only = true };
	uint8_t *text;
	size_t len;

	int r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &a.name);
	if (!r)
		r = wire_blob(&s->in, &s->arena, WIRE_TEXT_MAX, &text, &len);
	if (!r)
		r = wire_paths(&s->in, s->client.store_dir, &s->arena, &a.refs);
	if (r)
		return r;
	request_read(s);
	a.small = (struct buf){ .data = text, .len = len }; /* the arena's memory */
	hash_buffer(HASH_SHA256, text, len, &a.ca.hash);
	a.in_memory = true;
	r = finish(s, &a, e);
	spool_discard(s, &a.object);
	return r;
}
