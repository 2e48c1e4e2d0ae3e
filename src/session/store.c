/* The session's read-only view of the store: database rows and .drv files.
 *
 * The database is opened by the first question. One read snapshot serves all questions until the
 * session waits for anybody; then it is let go, so that no reader stops the writer's checkpoint. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/fd.h"
#include "drv/drv.h"
#include "session/nest.h"
#include "wire/derived.h"

int too_large(struct err *e)
{
	return err_set(e, WIRE_BAD, "the request is too large");
}

int store_fail(struct err *e, int r, const char *what)
{
	return r < 0 ? err_errno(e, r, "%s", what) : err_set(e, OP_FAILED, "%s", what);
}

int store_db(struct session *s, struct err *e)
{
	if (!s->db) {
		int r = db_open(s->db_dir, DB_READ, s->client.store_dir, false, &s->db, e);
		if (r == -EUCLEAN) /* by a name that means something outside of here */
			return err_errno(e, r, "cannot read the store's database");
		if (r)
			return r < 0 ? r : (e->code = OP_FAILED);
	}
	if (!s->snapshot) {
		int r = db_read_begin(s->db);
		if (r)
			return store_fail(e, r, "cannot read the store's database");
		s->snapshot = true;
	}
	return 0;
}

void store_release(struct session *s)
{
	if (s->snapshot)
		db_read_end(s->db);
	s->snapshot = false;
}

void store_close(struct session *s)
{
	store_release(s);
	db_closep(&s->db);
	s->db = NULL;
	drv_hashes_done(&s->hashes);
}

int store_valid(struct session *s, const struct store_path *p, struct err *e)
{
	int r = nest_allows(s, p);

	if (!r)
		r = store_db(s, e);
	if (r)
		return r;
	r = db_path_valid(s->db, p);
	return r == 0 || r == DB_ABSENT ? r : store_fail(e, r, "cannot read the store's database");
}

int store_info(struct session *s, const struct store_path *p, struct wire_info *ret, struct err *e)
{
	struct path_info i;

	int r = nest_allows(s, p);
	if (!r)
		r = store_db(s, e);
	if (r)
		return r;
	r = db_path_info(s->db, p, &s->arena, &i);
	if (r == DB_ABSENT)
		return r;
	if (r)
		return store_fail(e, r, "cannot read the store's database");
	*ret = (struct wire_info){
		.path = i.path,
		.deriver = i.deriver,
		.refs = i.refs,
		.registration_time = (uint64_t)i.registration_time,
		.nar_size = i.nar_size,
		.ultimate = i.ultimate,
		.sigs = i.sigs,
		.ca = i.ca,
	};
	memcpy(ret->nar_hash, i.nar_hash, sizeof(ret->nar_hash));
	if (s->client.restricted)
		nest_censor(ret);
	return 0;
}

int store_not_valid(struct session *s, const struct store_path *p, struct err *e)
{
	return err_set(e, OP_FAILED, "path '%s/%s' is not valid", s->client.store_dir, p->base);
}

int store_info_must(struct session *s, const struct store_path *p, struct wire_info *ret,
		    struct err *e)
{
	int r = store_info(s, p, ret, e);

	return r == DB_ABSENT ? store_not_valid(s, p, e) : r;
}

int store_drv(struct session *s, const struct store_path *p, struct arena *a, struct drv *ret,
	      struct err *e)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (!store_path_is_drv(p))
		return err_set(e, OP_FAILED, "path '%s/%s' is not a derivation",
			       s->client.store_dir, p->base);
	int r = nest_allows(s, p);
	if (r)
		return r == DB_ABSENT ? store_not_valid(s, p, e) : r;
	r = read_file_at(s->store, p->base, DRV_MAX, &text, &len);
	if (r == -ENOENT)
		return err_set(e, OP_FAILED, "path '%s/%s' does not exist", s->client.store_dir,
			       p->base);
	if (r < 0)
		return err_errno(e, r, "reading derivation '%s/%s'", s->client.store_dir, p->base);
	r = drv_parse(s->client.store_dir, p, text, len, a, ret, e);
	if (r <= 0)
		return r;
	(void)err_prefix(e, "error parsing derivation '%s/%s': ", s->client.store_dir, p->base);
	return e->code = OP_FAILED;
}

char *store_print(struct session *s, const char *base)
{
	return arena_printf(&s->arena, "%s/%s", s->client.store_dir, base);
}

bool session_has(const struct session *s, const char *feature)
{
	return strv_has(&s->client.experimental_features, feature);
}

static int load_for_hash(void *ctx, const struct store_path *path, struct arena *a, struct drv *ret,
			 struct err *e)
{
	return store_drv(ctx, path, a, ret, e);
}

int store_drv_hash(struct session *s, const struct drv *d, uint8_t ret[32], struct err *e)
{
	int r = drv_hashes_of(&s->hashes, s->client.store_dir, d, load_for_hash, s, ret, e);

	return r > 0 ? (e->code = OP_FAILED) : r;
}

/* Outputs whose paths are not in the .drv. */
static int look_up_outputs(struct session *s, const struct drv *d, struct strv *ret_names,
			   struct strv *ret_paths, struct err *e)
{
	bool known = d->kind != DRV_IMPURE && session_has(s, "ca-derivations") &&
		     db_has_realisations(s->db);
	uint8_t hash[32];
	int r = known ? store_drv_hash(s, d, hash, e) : 0;

	for (size_t i = 0; r == 0 && i < d->outputs.n; i++) {
		struct realisation row;
		char *path = (char *)"";

		r = known ? db_realisation(s->db, hash, d->outputs.v[i].name, &s->arena, &row)
			  : DB_ABSENT;
		if (!r)
			r = nest_allows(s, &row.path);
		if (r < 0)
			return store_fail(e, r, "cannot read the store's database");
		if (r == 0)
			path = arena_strdup(&s->arena, row.path.base);
		if (strv_add_arena(ret_names, &s->arena, d->outputs.v[i].name) < 0 ||
		    strv_add_arena(ret_paths, &s->arena, path) < 0)
			return too_large(e);
		r = 0;
	}
	return r;
}

int store_outputs(struct session *s, const struct store_path *p, struct strv *ret_names,
		  struct strv *ret_paths, struct err *e)
{
	struct drv d;
	int r = nest_allows(s, p);

	if (r == DB_ABSENT)
		return err_set(e, OP_FAILED,
			       "cannot query output map for unknown path '%s/%s' in recursive Nix",
			       s->client.store_dir, p->base);
	if (!r)
		r = store_db(s, e);
	if (r)
		return r;
	r = db_drv_outputs(s->db, p, &s->arena, ret_names, ret_paths);
	if (r == DB_ABSENT)
		return store_not_valid(s, p, e);
	if (r)
		return store_fail(e, r, "cannot read the store's database");
	if (ret_names->n || !store_path_is_drv(p))
		return 0;
	r = store_drv(s, p, &s->arena, &d, e);
	return r ? r : look_up_outputs(s, &d, ret_names, ret_paths, e);
}

int session_may_ask(const struct session *s, const struct derived_paths *targets, struct err *e)
{
	for (size_t i = 0; i < targets->n; i++)
		if (targets->v[i].chain.n && !session_has(s, "dynamic-derivations"))
			return err_set(
				e, OP_FAILED,
				"experimental Nix feature 'dynamic-derivations' is disabled; "
				"add '--extra-experimental-features dynamic-derivations' to "
				"enable it");
	return 0;
}
