/* Realisations: which path an output of a derivation turned out to be (features.md 1.6, ops 42 and
 * 43). The answer comes from the database; what a client registers is the core's to believe. */
#include <string.h>

#include "session/nest.h"
#include "session/ops.h"
#include "wire/json.h"

enum { JSON_TEXT_MAX = 1 << 20 };

/* "sha256:<base 16>!<output>" */
static int parse_id(char *id, uint8_t ret_hash[32], char **ret_output, struct err *e)
{
	enum hash_algo algo = HASH_SHA256;
	char *bang = strchr(id, '!');
	struct hash h;

	if (!bang)
		return err_set(e, OP_FAILED, "Invalid derivation output id %s", id);
	*bang = 0;
	if (hash_parse(id, NULL, &h, e) || h.algo != algo || store_name_check(bang + 1, e))
		return err_set(e, OP_FAILED, "Invalid derivation output id %s!%s", id, bang + 1);
	memcpy(ret_hash, h.bytes, 32);
	*ret_output = bang + 1;
	return 0;
}

static int parse_sigs(struct json *j, struct arena *a, struct strv *ret)
{
	bool first = true, more;
	int r = json_enter(j, '[');

	while (!r) {
		char *sig;

		r = json_more(j, &first, &more);
		if (r || !more)
			break;
		r = json_string(j, &sig);
		if (!r && (!signature_has_form(sig) || strv_add_arena(ret, a, sig) < 0))
			r = JSON_BAD;
	}
	return r;
}

static int parse_fields(struct json *j, struct session *s, char **ret_id, char **ret_path,
			struct strv *ret_sigs)
{
	bool first = true;
	char *key;
	int r = json_enter(j, '{');

	while (!r) {
		r = json_key(j, &first, &key);
		if (r || !key)
			break;
		if (!strcmp(key, "id"))
			r = json_string(j, ret_id);
		else if (!strcmp(key, "outPath"))
			r = json_string(j, ret_path);
		else if (!strcmp(key, "signatures"))
			r = parse_sigs(j, &s->arena, ret_sigs);
		else
			r = json_skip(j);
	}
	return r ? r : json_end(j);
}

static int get_json(struct session *s, char **ret_id, char **ret_path, struct strv *ret_sigs,
		    struct err *e)
{
	struct json j;
	char *text;

	int r = wire_str(&s->in, &s->arena, JSON_TEXT_MAX, &text);
	if (r)
		return r;
	request_read(s);
	json_init(&j, text, strlen(text), &s->arena);
	if (parse_fields(&j, s, ret_id, ret_path, ret_sigs) || !*ret_id || !*ret_path)
		return err_set(e, OP_FAILED, "'%.100s' is not a realisation", text);
	return 0;
}

static int get_two_strings(struct session *s, char **ret_id, char **ret_path)
{
	int r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, ret_id);

	if (!r)
		r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, ret_path);
	if (!r)
		request_read(s);
	return r;
}

static bool by_path(const struct session *s)
{
	return s->features & WIRE_FEATURE_REALISATION_PATH;
}

/* "<path of the .drv>" "<output>": what the outputs of that derivation are realised under. */
static int get_drv_output(struct session *s, struct store_path *ret_drv, char **ret_output)
{
	int r = wire_path(&s->in, s->client.store_dir, &s->arena, ret_drv);

	return r ?: wire_str(&s->in, &s->arena, WIRE_NAME_MAX, ret_output);
}

/* `*ret_here`: of a derivation that is not, nothing is known. */
static int hash_drv_output(struct session *s, const struct store_path *drv, const char *output,
			   uint8_t ret[32], bool *ret_here, struct err *e)
{
	struct drv d;
	int r;

	*ret_here = false;
	if (store_name_check(output, e))
		return e->code = OP_FAILED;
	r = store_valid(s, drv, e);
	if (r == DB_ABSENT)
		return 0;
	if (!r)
		r = store_drv(s, drv, &s->arena, &d, e);
	if (!r)
		r = store_drv_hash(s, &d, ret, e);
	*ret_here = !r;
	return r;
}

static int get_by_path(struct session *s, struct session_realisation *row, struct store_path *path,
		       struct err *e)
{
	struct store_path drv;
	bool here;

	int r = get_drv_output(s, &drv, &row->output);
	if (!r)
		r = wire_path(&s->in, s->client.store_dir, &s->arena, path);
	if (!r)
		r = wire_sigs(&s->in, &s->arena, &row->sigs);
	if (r)
		return r;
	request_read(s);
	r = hash_drv_output(s, &drv, row->output, row->drv_hash, &here, e);
	return r || here ? r : store_not_valid(s, &drv, e);
}

static int get_by_hash(struct session *s, struct session_realisation *row, struct store_path *path,
		       struct err *e)
{
	char *id = NULL, *base = NULL;

	int r = wire_gate(s->version, GATE_REALISATION_JSON)
			? get_json(s, &id, &base, &row->sigs, e)
			: get_two_strings(s, &id, &base);
	if (!r)
		r = parse_id(id, row->drv_hash, &row->output, e);
	if (!r && store_path_parse_base(base, path, e))
		r = e->code = OP_FAILED;
	return r;
}

int op_register_drv_output(struct session *s, struct err *e)
{
	struct session_realisation row = {};
	struct store_path path;
	uint32_t msg;

	int r = by_path(s) ? get_by_path(s, &row, &path, e) : get_by_hash(s, &row, &path, e);
	if (r)
		return r;
	if (s->client.restricted)
		return err_set(e, OP_FAILED, "registerDrvOutput");
	row.path = path.base;
	r = core_send(s, SESSION_REALISATION, &session_realisation_layout, &row, &msg);
	r = r ?: core_wait_done(s, msg, e);
	if (!r)
		answer_begin(s);
	return r;
}

/* The name of a key could be anything; one that JSON would quote verifies nowhere. */
static bool is_plain(const char *sig)
{
	for (; *sig; sig++)
		if ((unsigned char)*sig <= ' ' || *sig == '"' || *sig == '\\')
			return false;
	return true;
}

static int put_json(struct session *s, const struct realisation *row, struct err *e)
{
	char hex[64 + 1];
	char *sigs = arena_strdup(&s->arena, "");

	for (size_t i = 0; sigs && i < row->sigs.n; i++)
		if (is_plain(row->sigs.v[i]))
			sigs = arena_printf(&s->arena, "%s%s\"%s\"", sigs, *sigs ? "," : "",
					    row->sigs.v[i]);
	base16_encode(row->drv_hash, 32, hex);
	/* Names hold nothing that JSON quotes. */
	char *text = sigs ? arena_printf(&s->arena,
					 "{\"dependentRealisations\":{},\"id\":\"sha256:%s!%s\","
					 "\"outPath\":\"%s\",\"signatures\":[%s]}",
					 hex, row->output, row->path.base, sigs)
			  : NULL;
	if (!text)
		return too_large(e);
	answer_begin(s);
	wire_put_u64(&s->out, 1);
	wire_put_str(&s->out, text);
	return 0;
}

static int get_query(struct session *s, uint8_t ret_hash[32], char **ret_output, bool *ret_here,
		     struct err *e)
{
	struct store_path drv;
	char *id;

	*ret_here = true;
	int r = by_path(s) ? get_drv_output(s, &drv, ret_output)
			   : wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &id);
	if (r)
		return r;
	request_read(s);
	if (by_path(s))
		return hash_drv_output(s, &drv, *ret_output, ret_hash, ret_here, e);
	return parse_id(id, ret_hash, ret_output, e) ?: store_db(s, e);
}

int op_query_realisation(struct session *s, struct err *e)
{
	struct realisation row;
	uint8_t hash[32];
	char *output;
	bool here;

	int r = get_query(s, hash, &output, &here, e);
	if (r)
		return r;
	r = here && session_has(s, "ca-derivations")
		    ? db_realisation(s->db, hash, output, &s->arena, &row)
		    : DB_ABSENT;
	if (r == 0)
		r = nest_allows(s, &row.path);
	if (r < 0)
		return store_fail(e, r, "cannot read the store's database");
	if (r == 0 && !by_path(s) && wire_gate(s->version, GATE_REALISATION_JSON))
		return put_json(s, &row, e);
	answer_begin(s);
	wire_put_u64(&s->out, r == 0);
	if (r == 0)
		wire_put_path(&s->out, row.path.base);
	if (r == 0 && by_path(s))
		wire_put_strv(&s->out, &row.sigs);
	return 0;
}
