/* Operations that only old clients know; newer ones ask QueryPathInfo for the same. */
#include "hash/hash.h"
#include "session/ops.h"

static int get_info(struct session *s, struct wire_info *ret, struct err *e)
{
	struct store_path p;

	int r = wire_path(&s->in, s->client.store_dir, &s->arena, &p);
	if (r)
		return r;
	request_read(s);
	return store_info_must(s, &p, ret, e);
}

int op_has_substitutes(struct session *s, struct err *e)
{
	struct store_path p;

	(void)e;
	int r = wire_path(&s->in, s->client.store_dir, &s->arena, &p);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, 0);
	return 0;
}

int op_query_path_hash(struct session *s, struct err *e)
{
	struct wire_info info;
	char hex[65];

	int r = get_info(s, &info, e);
	if (r)
		return r;
	base16_encode(info.nar_hash, 32, hex);
	answer_begin(s);
	wire_put_str(&s->out, hex);
	return 0;
}

int op_query_references(struct session *s, struct err *e)
{
	struct wire_info info;

	int r = get_info(s, &info, e);
	if (r)
		return r;
	answer_begin(s);
	wire_put_paths(&s->out, &info.refs);
	return 0;
}

int op_query_deriver(struct session *s, struct err *e)
{
	struct wire_info info;

	int r = get_info(s, &info, e);
	if (r)
		return r;
	answer_begin(s);
	wire_put_path(&s->out, info.deriver);
	return 0;
}
