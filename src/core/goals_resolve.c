/* See goals_int.h: derivations whose inputs are known only when they are built (feature row C4).
 *
 * Such a goal waits for its inputs, becomes a derivation without input derivations, and waits for
 * that one's goal: other derivations may resolve to the same, and it may have been built before. */
#include <errno.h>
#include <string.h>

#include "core/goals_int.h"
#include "core/place.h"
#include "core/realise.h"

enum { TEXT_MAX = DRV_MAX };

int goal_give(struct goal *to, const struct goal *from)
{
	for (size_t i = 0; i < from->made.n; i++) {
		struct gift *gift = arena_alloc(&to->arena, sizeof(*gift));

		if (!gift)
			return -ENOMEM;
		gift->drv = arena_strdup(&to->arena, from->drv_path.base);
		gift->output = arena_strdup(&to->arena, from->made.v[i].output);
		gift->path = arena_strdup(&to->arena, from->made.v[i].path);
		if (!gift->drv || !gift->output || !gift->path)
			return -ENOMEM;
		gift->next = to->gifts;
		to->gifts = gift;
	}
	return 0;
}

bool goal_was_given(const struct goal *g, const struct store_path *drv)
{
	for (const struct gift *i = g->gifts; i; i = i->next)
		if (!strcmp(i->drv, drv->base))
			return true;
	return false;
}

int goal_note_made(struct goal *g, const struct drv_row *v, size_t n)
{
	g->made.v = arena_array(&g->arena, n, sizeof(*g->made.v));
	if (n && !g->made.v)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		g->made.v[i].output = arena_strdup(&g->arena, v[i].output);
		g->made.v[i].path = arena_strdup(&g->arena, v[i].path);
		if (!g->made.v[i].output || !g->made.v[i].path)
			return -ENOMEM;
	}
	g->made.n = n;
	return 0;
}

int goal_output_of(struct goal *g, const struct store_path *drv, const char *output,
		   struct store_path *ret, struct err *e)
{
	struct core *core = g->goals->core;
	_cleanup_arena_ struct arena a = ARENA_INIT(16 << 20);
	struct strv names = {}, paths = {};
	int r;

	for (const struct gift *i = g->gifts; i; i = i->next)
		if (!strcmp(i->drv, drv->base) && !strcmp(i->output, output))
			return store_path_parse_base(i->path, ret, e);
	r = realise_outputs(core, drv, NULL, &a, &names, &paths, e);
	if (r)
		return r < 0 ? r : MISC_FAILURE;
	for (size_t i = 0; i < names.n; i++) {
		if (strcmp(names.v[i], output))
			continue;
		if (*paths.v[i])
			return store_path_parse_base(paths.v[i], ret, e);
		return err_set(e, MISC_FAILURE,
			       "cannot operate on output '%s' of the unbuilt derivation '%s/%s'",
			       output, core->store_dir, drv->base);
	}
	return err_set(e, MISC_FAILURE, "derivation '%s/%s' does not have an output named '%s'",
		       core->store_dir, drv->base, output);
}

static int find_output(void *ctx, const struct drv_input *in, const char *const *chain,
		       size_t depth, const char *output, char **ret, struct err *e)
{
	struct goal *g = ctx;
	const char *store_dir = g->goals->core->store_dir;
	struct store_path at, next;
	int r = store_path_parse(store_dir, in->path, &at, e);

	for (size_t i = 0; r == 0 && i < depth; i++) {
		r = goal_output_of(g, &at, chain[i], &next, e);
		at = next;
	}
	if (r == 0)
		r = goal_output_of(g, &at, output, &next, e);
	if (r)
		return r;
	*ret = store_path_full(&g->arena, store_dir, &next);
	return *ret ? 0 : err_errno(e, -ENOMEM, "resolving '%s'", g->drv_path.base);
}

int drv_text_path(const char *store_dir, const struct drv *d, const struct buf *text,
		  struct store_path *ret, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(256 << 20);
	struct ca ca = { .method = CA_TEXT };
	struct strv refs = {};
	char *name = arena_printf(&a, "%s.drv", d->name);
	int r = name ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < d->srcs.n; i++)
		r = strv_add_arena(&refs, &a, d->srcs.v[i] + strlen(store_dir) + 1);
	if (r < 0)
		return err_errno(e, r, "writing derivation '%s'", d->name);
	hash_buffer(HASH_SHA256, text->data, text->len, &ca.hash);
	return store_path_for_ca(store_dir, name, &ca, &refs, false, ret, e);
}

/* The outputs of the resolved derivation are those of this one. 0, or a sentence. */
static int take_outputs(struct goal *g, struct err *e)
{
	size_t n = g->drv.outputs.n;
	struct drv_row *rows = arena_array(&g->arena, n, sizeof(*rows));

	for (size_t i = 0; i < n; i++) {
		struct store_path p;
		int r = rows ? goal_output_of(g, &g->resolved, g->drv.outputs.v[i].name, &p, e)
			     : err_errno(e, -ENOMEM, "resolving '%s'", g->drv_path.base);

		if (r)
			return r;
		rows[i].output = g->drv.outputs.v[i].name;
		rows[i].path = arena_strdup(&g->arena, p.base);
		if (!rows[i].path)
			return err_errno(e, -ENOMEM, "resolving '%s'", g->drv_path.base);
	}
	if (g->drv.kind == DRV_IMPURE)
		return goal_note_made(g, rows, n);
	return g->check ? 0 : realise_register(g->goals->core, &g->drv, rows, n, e);
}

void goal_resolved(struct goal *g)
{
	_cleanup_err_ struct err e = {};
	int r = take_outputs(g, &e);

	if (r)
		goal_done(g, false, MISC_FAILURE, err_msg(&e));
	else
		goal_done(g, true,
			  g->resolved_status == ALREADY_VALID ? RESOLVES_TO_ALREADY_VALID : BUILT,
			  "");
}

/* Are all outputs of the resolved derivation there? It need not be in the store for that. */
static int is_built(struct goal *g, const struct drv *d, struct err *e)
{
	struct core *core = g->goals->core;
	_cleanup_arena_ struct arena a = ARENA_INIT(16 << 20);
	uint8_t hash[32];
	int r;

	if (g->check || d->kind == DRV_IMPURE)
		return DB_ABSENT;
	r = d->kind == DRV_FLOATING ? place_drv_hash(core->place, d, hash, e) : 0;
	for (size_t i = 0; r == 0 && i < d->outputs.n; i++) {
		const struct drv_output *o = &d->outputs.v[i];
		struct realisation row;

		if (*o->path) {
			r = store_path_parse(core->store_dir, o->path, &row.path, e);
			if (r == 0)
				r = db_path_valid(core->db, &row.path);
		} else {
			r = db_realisation(core->db, hash, o->name, &a, &row);
		}
	}
	return r < 0 ? err_errno(e, r, "looking for the outputs of '%s'", d->name) : r;
}

/* Outputs that are there although no goal made them now. */
static int take_built(struct goal *g, const struct drv *d, struct err *e)
{
	struct core *core = g->goals->core;
	struct drv_row *rows = arena_array(&g->arena, d->outputs.n, sizeof(*rows));
	uint8_t hash[32];
	int r = rows ? 0 : err_errno(e, -ENOMEM, "resolving '%s'", d->name);

	if (r == 0 && d->kind == DRV_FLOATING)
		r = place_drv_hash(core->place, d, hash, e);
	for (size_t i = 0; r == 0 && i < d->outputs.n; i++) {
		const struct drv_output *o = &d->outputs.v[i];
		struct realisation row;

		r = *o->path ? store_path_parse(core->store_dir, o->path, &row.path, e)
			     : db_realisation(core->db, hash, o->name, &g->arena, &row);
		rows[i].output = o->name;
		rows[i].path = r ? NULL : arena_strdup(&g->arena, row.path.base);
	}
	return r ? r : realise_register(core, &g->drv, rows, d->outputs.n, e);
}

/* Waits for the resolved derivation. */
static int follow(struct goal *g, const struct drv *d, const struct buf *text, struct err *e)
{
	struct goals *all = g->goals;
	struct goal *dep;
	int r = db_path_valid(all->core->db, &g->resolved);

	if (r == DB_ABSENT)
		r = realise_write_drv(all->core, &g->resolved, d, text, e);
	if (r || g->state == GOAL_DONE) /* what was registered with it may have ended this goal */
		return r;
	dep = goal_get(all, &g->resolved, goal_mode(g));
	if (!dep || goal_need(g, dep) < 0)
		return err_errno(e, -ENOMEM, "building '%s'", g->resolved.base);
	g->is_resolved = true;
	pin_goal(g);
	g->state = GOAL_WAITING;
	return 0;
}

void goal_resolve(struct goal *g)
{
	struct core *core = g->goals->core;
	_cleanup_buf_ struct buf text = BUF_INIT(TEXT_MAX);
	_cleanup_err_ struct err e = {};
	struct drv d;
	int r = has_feature(core, "ca-derivations")
			? 0
			: feature_missing(&e, MISC_FAILURE, "ca-derivations", NULL);

	if (r == 0)
		r = drv_resolve(core->store_dir, &g->drv, find_output, g, &g->arena, &d, &e);
	if (r == 0)
		r = drv_print(&d, &text) < 0
			    ? err_errno(&e, -E2BIG, "resolving '%s'", g->drv_path.base)
			    : drv_text_path(core->store_dir, &d, &text, &g->resolved, &e);
	if (r == 0) {
		r = is_built(g, &d, &e);
		if (r == 0 && (r = take_built(g, &d, &e)) == 0) {
			pin_goal(g);
			goal_done(g, true, RESOLVES_TO_ALREADY_VALID, "");
			return;
		}
		if (r == DB_ABSENT)
			r = follow(g, &d, &text, &e);
	}
	if (r && g->state != GOAL_DONE)
		goal_done(g, false, MISC_FAILURE, err_msg(&e));
}
