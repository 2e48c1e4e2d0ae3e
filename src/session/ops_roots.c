/* Roots, and the small changes that the core makes on request. */
#include <string.h>

#include "session/ops.h"

static void answer_one(struct session *s)
{
	answer_begin(s);
	wire_put_u64(&s->out, 1);
}

int op_add_temp_root(struct session *s, struct err *e)
{
	struct store_path p;

	int r = wire_path(&s->in, s->client.store_dir, &s->arena, &p);
	if (r)
		return r;
	request_read(s);
	r = core_text(s, SESSION_TEMP_ROOT, p.base, e);
	if (!r)
		answer_one(s);
	return r;
}

/* Many at once: one answer from the core for all of them. */
int op_add_temp_roots(struct session *s, struct err *e)
{
	struct session_texts roots = {};
	uint32_t id;

	int r = wire_paths(&s->in, s->client.store_dir, &s->arena, &roots.texts);
	if (r)
		return r;
	request_read(s);
	r = core_send(s, SESSION_TEMP_ROOTS, &session_texts_layout, &roots, &id);
	r = r ?: core_wait_done(s, id, e);
	if (!r)
		answer_one(s);
	return r;
}

void path_canonical(char *path)
{
	char *to = path, *save = path + 1;

	for (char *part; (part = strsep(&save, "/"));) {
		if (!*part || strcmp(part, ".") == 0)
			continue;
		if (strcmp(part, "..") == 0) {
			while (to > path && *--to != '/')
				;
			continue;
		}
		size_t len = strlen(part);
		*to++ = '/';
		memmove(to, part, len);
		to += len;
	}
	if (to == path)
		*to++ = '/';
	*to = 0;
}

int op_add_indirect_root(struct session *s, struct err *e)
{
	char *link;

	int r = wire_str(&s->in, &s->arena, WIRE_PATH_MAX, &link);
	if (r)
		return r;
	request_read(s);
	if (*link != '/')
		return err_set(e, OP_FAILED, "the root '%s' is not an absolute path", link);
	path_canonical(link);
	r = core_text(s, SESSION_INDIRECT_ROOT, link, e);
	if (!r)
		answer_one(s);
	return r;
}

int op_find_roots(struct session *s, struct err *e)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	struct session_roots roots;
	uint32_t id;

	request_read(s);
	int r = core_send(s, SESSION_FIND_ROOTS, NULL, NULL, &id);
	if (!r)
		r = core_wait(s, id, SESSION_ROOTS, &m);
	if (r)
		return r;
	if (msg_decode(&m, &session_roots_layout, &s->arena, &roots))
		return err_set(e, OP_FAILED, "the list of roots is too large");
	if (!roots.ok)
		return err_set(e, OP_FAILED, "%s", roots.error);
	answer_begin(s);
	wire_put_u64(&s->out, roots.roots.n);
	for (size_t i = 0; i < roots.roots.n; i++) {
		wire_put_str(&s->out, roots.roots.v[i].link);
		wire_put_path(&s->out, roots.roots.v[i].target);
	}
	return 0;
}

int op_sync_with_gc(struct session *s, struct err *e)
{
	(void)e;
	answer_one(s);
	return 0;
}

int op_add_signatures(struct session *s, struct err *e)
{
	struct session_sigs sigs = {};
	struct store_path p;
	uint32_t id;

	int r = wire_path(&s->in, s->client.store_dir, &s->arena, &p);
	if (!r)
		r = wire_sigs(&s->in, &s->arena, &sigs.sigs);
	if (r)
		return r;
	request_read(s);
	sigs.path = p.base;
	r = core_send(s, SESSION_ADD_SIGS, &session_sigs_layout, &sigs, &id);
	if (!r)
		r = core_wait_done(s, id, e);
	if (!r)
		answer_one(s);
	return r;
}
