/* Questions about valid paths. Substitution is not asked here: nothing is substitutable. */
#include <string.h>

#include "session/nest.h"
#include "session/ops.h"

static int get_path(struct session *s, struct store_path *ret)
{
	int r = wire_path(&s->in, s->client.store_dir, &s->arena, ret);

	if (!r)
		request_read(s);
	return r;
}

static int get_paths(struct session *s, struct strv *ret)
{
	return wire_paths(&s->in, s->client.store_dir, &s->arena, ret);
}

int op_is_valid_path(struct session *s, struct err *e)
{
	struct store_path p;

	int r = get_path(s, &p);
	if (r)
		return r;
	r = store_valid(s, &p, e);
	if (r && r != DB_ABSENT)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, r == 0);
	return 0;
}

int op_query_path_info(struct session *s, struct err *e)
{
	struct wire_info info;
	struct store_path p;

	int r = get_path(s, &p);
	if (r)
		return r;
	r = store_info(s, &p, &info, e);
	if (r && r != DB_ABSENT)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, r == 0);
	if (r == 0)
		wire_put_info(&s->out, &info);
	return 0;
}

/* One path in, a set of paths out, by one query of the database. */
static int path_set(struct session *s, struct err *e,
		    int (*query)(struct db *, const struct store_path *, struct arena *,
				 struct strv *))
{
	struct strv list = {};
	struct store_path p;

	int r = get_path(s, &p);
	if (!r)
		r = store_db(s, e);
	if (r)
		return r;
	r = query(s->db, &p, &s->arena, &list);
	if (r)
		return store_fail(e, r, "cannot read the store's database");
	answer_begin(s);
	wire_put_paths(&s->out, &list);
	return 0;
}

int op_query_referrers(struct session *s, struct err *e)
{
	return path_set(s, e, db_referrers);
}

int op_query_valid_derivers(struct session *s, struct err *e)
{
	return path_set(s, e, db_valid_derivers);
}

int op_query_all_valid_paths(struct session *s, struct err *e)
{
	struct strv list = {};

	request_read(s);
	int r = s->client.restricted ? nest_all_paths(s, &list) : store_db(s, e);
	if (r)
		return r;
	r = s->client.restricted ? 0 : db_all_paths(s->db, &s->arena, &list);
	if (r)
		return store_fail(e, r, "cannot read the store's database");
	answer_begin(s);
	wire_put_paths(&s->out, &list);
	return 0;
}

int op_query_path_from_hash_part(struct session *s, struct err *e)
{
	struct store_path p;
	char *part;

	int r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &part);
	if (r)
		return r;
	request_read(s);
	if (strlen(part) != STORE_DIGEST_LEN)
		return err_set(e, OP_FAILED, "invalid hash part");
	r = store_db(s, e);
	if (r)
		return r;
	r = db_path_from_digest(s->db, part, &p);
	if (r && r != DB_ABSENT)
		return store_fail(e, r, "cannot read the store's database");
	answer_begin(s);
	wire_put_path(&s->out, r == 0 ? p.base : NULL);
	return 0;
}

/* Keeps of `list` what is valid. */
static int only_valid(struct session *s, struct strv *list, struct err *e)
{
	size_t kept = 0;

	for (size_t i = 0; i < list->n; i++) {
		struct store_path p;
		int r = store_path_parse_base(list->v[i], &p, e);
		r = r ?: store_valid(s, &p, e);
		if (r && r != DB_ABSENT)
			return r;
		if (r == 0)
			list->v[kept++] = list->v[i];
	}
	list->n = kept;
	return 0;
}

int op_query_valid_paths(struct session *s, struct err *e)
{
	struct strv list = {};
	uint64_t substitute;

	int r = get_paths(s, &list);
	if (!r && wire_gate(s->version, GATE_VALID_SUBSTITUTE))
		r = wire_u64(&s->in, &substitute);
	if (r)
		return r;
	request_read(s);
	r = only_valid(s, &list, e);
	if (r)
		return r;
	answer_begin(s);
	wire_put_paths(&s->out, &list);
	return 0;
}

int op_query_substitutable_paths(struct session *s, struct err *e)
{
	struct strv list = {};

	(void)e;
	int r = get_paths(s, &list);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, 0);
	return 0;
}

int op_query_substitutable_path_info(struct session *s, struct err *e)
{
	struct store_path p;

	(void)e;
	int r = get_path(s, &p);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, 0);
	return 0;
}

int op_query_substitutable_path_infos(struct session *s, struct err *e)
{
	struct strv list = {};
	uint64_t n = 0;

	(void)e;
	int r;
	if (!wire_gate(s->version, GATE_SUBSTITUTABLE_CA))
		r = get_paths(s, &list);
	else
		r = wire_number(&s->in, WIRE_LIST_MAX, &n);
	for (uint64_t i = 0; !r && i < 2 * n; i++) /* path, content address */
		r = wire_skip_str(&s->in);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, 0);
	return 0;
}
