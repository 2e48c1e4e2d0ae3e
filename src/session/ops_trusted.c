/* What only trusted clients may ask: logs of builds made elsewhere, and links that the daemon
 * makes. The core checks that again; here the sentence is said once the request has been read. */
#include "base/fd.h"
#include "session/ops.h"
#include "session/spool.h"

static void answer_one(struct session *s)
{
	answer_begin(s);
	wire_put_u64(&s->out, 1);
}

/* The stream into one file of the spool. */
static int spool_log(struct session *s, struct spooled *o, struct err *e)
{
	_cleanup_buf_ struct buf small = BUF_INIT(SIZE_MAX / 2);
	struct hash unused;
	int r;

	r = spool_flat(s, s->framed, HASH_SHA256, &small, &unused, o, e);
	if (!r)
		r = framed_close(s);
	if (!r && !*o->name)
		r = spool_file(s, small.data, small.len, o, e);
	return r;
}

static int hand_over(struct session *s, const char *drv, const struct spooled *o, struct err *e)
{
	const struct session_log l = { .drv = (char *)drv, .spool_name = (char *)o->name };
	uint32_t id;
	int r = core_send(s, SESSION_ADD_LOG, &session_log_layout, &l, &id);

	return r ?: core_wait_done(s, id, e);
}

int op_add_build_log(struct session *s, struct err *e)
{
	struct spooled o = {};
	struct store_path p;
	char *base;

	/* The one path that travels as a base name. */
	int r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &base);
	if (r)
		return r;
	(void)framed_open(s, false); /* read to its end before the client hears of an error */
	if (store_path_parse_base(base, &p, NULL))
		return err_set(e, OP_FAILED, "'%s' is not the name of a store path", base);
	if (!client_may(s, RIGHT_ADD_LOGS))
		return err_set(e, OP_FAILED, "you are not privileged to add logs");
	r = spool_log(s, &o, e);
	if (!r) {
		request_read(s);
		r = hand_over(s, p.base, &o, e);
	}
	spool_discard(s, &o);
	if (!r)
		answer_one(s);
	return r;
}

int op_add_perm_root(struct session *s, struct err *e)
{
	struct session_root root;
	struct store_path p;
	uint32_t id;

	int r = wire_path(&s->in, s->client.store_dir, &s->arena, &p);
	if (!r)
		r = wire_str(&s->in, &s->arena, WIRE_PATH_MAX, &root.link);
	if (r)
		return r;
	request_read(s);
	if (!client_may(s, RIGHT_ADD_ROOTS))
		return err_set(e, OP_FAILED,
			       "you are not privileged to create perm roots\n\n"
			       "hint: you can just do this client-side without special privileges, "
			       "and probably want to do that instead.");
	if (*root.link != '/')
		return err_set(e, OP_FAILED, "the root '%s' is not an absolute path", root.link);
	path_canonical(root.link);
	root.target = p.base;
	r = core_send(s, SESSION_PERM_ROOT, &session_root_layout, &root, &id);
	if (!r)
		r = core_wait_done(s, id, e);
	if (r)
		return r;
	answer_begin(s);
	wire_put_str(&s->out, root.link);
	return 0;
}
