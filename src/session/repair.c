/* See repair.h. As slow as reading all of it: upstream's way, too. */
#include "session/repair.h"

#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "nar/tree.h"
#include "session/ops.h"

#define GOOD   ((void *)1)
#define BROKEN ((void *)2)

void repair_done(struct repair *r)
{
	smap_done(&r->seen);
}

static int client_is_gone(struct session *s)
{
	struct pollfd p = { .fd = s->fd_in, .events = POLLRDHUP };
	int r = conn_flush(s);

	if (r)
		return r;
	return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR) ? WIRE_EOF : 0;
}

/* 1, 0, or an error. What cannot be read is broken. */
static int look(struct session *s, const struct store_path *p, struct err *e)
{
	_cleanup_err_ struct err why = {};
	struct tree_facts facts;
	struct wire_info info;
	int r = store_info(s, p, &info, e);

	store_release(s);
	if (r)
		return r == DB_ABSENT ? 0 : r;
	r = client_is_gone(s);
	if (r)
		return r;
	tell(s, LVL_TALKATIVE, "checking path '%s'...", store_print(s, p->base));
	if (tree_measure(s->store, p->base, NULL, &facts, &why) ||
	    memcmp(facts.nar_hash, info.nar_hash, sizeof(facts.nar_hash)))
		return 0;
	return 1;
}

int repair_is_whole(struct session *s, struct repair *r, const struct store_path *p, struct err *e)
{
	void *seen = smap_get(&r->seen, p->base);
	int whole;

	if (seen)
		return seen == GOOD;
	whole = look(s, p, e);
	if (whole != 0 && whole != 1)
		return whole;
	if (smap_put(&r->seen, p->base, whole ? GOOD : BROKEN) < 0)
		return too_large(e);
	if (!whole && strv_add_arena(&r->broken, &s->arena, arena_strdup(&s->arena, p->base)) < 0)
		return too_large(e);
	return whole;
}

/* 1 when all that are wanted are known and whole. */
static int outputs_whole(struct session *s, struct repair *r, const struct strv *names,
			 const struct strv *paths, const struct strv *wanted, bool all,
			 struct err *e)
{
	int ret = 1;

	for (size_t i = 0; i < names->n; i++) {
		struct store_path p;
		int whole;

		if (!all && !strv_has(wanted, names->v[i]))
			continue;
		whole = store_path_parse_base(paths->v[i], &p, NULL) ? 0
								     : repair_is_whole(s, r, &p, e);
		if (whole != 0 && whole != 1)
			return whole;
		ret = ret && whole;
	}
	return ret;
}

static int closure_of(struct session *s, const struct strv *roots, struct strv *ret, struct err *e)
{
	struct store_path missing;
	int r = store_db(s, e);

	if (r)
		return r;
	r = db_closure(s->db, roots, &s->arena, ret, &missing);
	store_release(s);
	if (r == DB_ABSENT)
		return store_not_valid(s, &missing, e);
	return r ? store_fail(e, r, "cannot read the store's database") : 0;
}

/* The inputs of a derivation that is built again must be whole themselves. */
static int scan_inputs(struct session *s, struct repair *r, const struct store_path *drv,
		       struct err *e)
{
	char *base = arena_strdup(&s->arena, drv->base);
	struct strv roots = { &base, 1 }, all = {};
	int ret = base ? closure_of(s, &roots, &all, e) : too_large(e);

	for (size_t i = 0; !ret && i < all.n; i++) {
		struct strv names = {}, paths = {};
		struct store_path p;

		if (store_path_parse_base(all.v[i], &p, NULL) || !store_path_is_drv(&p) ||
		    !strcmp(p.base, drv->base))
			continue;
		ret = store_outputs(s, &p, &names, &paths, e);
		store_release(s);
		for (size_t k = 0; !ret && k < paths.n; k++) {
			struct wire_info info;

			if (store_path_parse_base(paths.v[k], &p, NULL))
				continue;
			ret = store_info(s, &p, &info, e);
			store_release(s);
			if (ret == DB_ABSENT) {
				ret = 0; /* was never needed, or is built anyway */
				continue;
			}
			if (!ret)
				ret = repair_is_whole(s, r, &p, e);
			if (ret == 1)
				ret = 0;
		}
	}
	return ret;
}

/* Which derivation below `drv` makes `path`? NULL: none that is there. */
static int find_maker(struct session *s, const struct strv *drvs, const char *path, char **ret,
		      struct err *e)
{
	*ret = NULL;
	for (size_t i = 0; i < drvs->n; i++) {
		struct strv names = {}, paths = {};
		struct store_path p;
		int r;

		if (store_path_parse_base(drvs->v[i], &p, NULL) || !store_path_is_drv(&p))
			continue;
		r = store_outputs(s, &p, &names, &paths, e);
		store_release(s);
		if (r)
			return r;
		if (strv_has(&paths, path)) {
			*ret = drvs->v[i];
			return 0;
		}
	}
	return 0;
}

static int broken_below(struct session *s, struct repair *r, const struct store_path *drv,
			const char *path, const struct strv *drvs, struct err *e)
{
	struct store_path maker_path;
	char *maker, *target;
	int ret;

	tell(s, LVL_ERROR, "found corrupted or missing path '%s' in the output closure of '%s'",
	     store_print(s, path), store_print(s, drv->base));
	ret = find_maker(s, drvs, path, &maker, e);
	if (ret)
		return ret;
	/* Without one, only a substituter could help: the core says that there is none. */
	target = maker ? arena_printf(&s->arena, "%s!*", maker) : arena_strdup(&s->arena, path);
	if (!target ||
	    (!strv_has(&r->more, target) && strv_add_arena(&r->more, &s->arena, target) < 0))
		return too_large(e);
	if (!maker || store_path_parse_base(maker, &maker_path, NULL))
		return 0;
	return scan_inputs(s, r, &maker_path, e);
}

/* What whole outputs refer to. */
static int scan_closure(struct session *s, struct repair *r, const struct store_path *drv,
			const struct strv *outputs, struct err *e)
{
	char *base = arena_strdup(&s->arena, drv->base);
	struct strv roots = { &base, 1 }, drvs = {}, all = {};
	int ret = closure_of(s, outputs, &all, e);

	for (size_t i = 0; !ret && i < all.n; i++) {
		struct store_path p;

		if (strv_has(outputs, all.v[i]) || store_path_parse_base(all.v[i], &p, NULL))
			continue;
		ret = repair_is_whole(s, r, &p, e);
		if (ret == 0 && !drvs.n)
			ret = base ? closure_of(s, &roots, &drvs, e) : too_large(e);
		else if (ret == 1) {
			ret = 0;
			continue;
		}
		if (!ret)
			ret = broken_below(s, r, drv, p.base, &drvs, e);
	}
	return ret;
}

int repair_scan(struct session *s, struct repair *r, const struct store_path *drv,
		const struct strv *wanted, bool all, struct err *e)
{
	struct strv names = {}, paths = {};
	int ret = store_outputs(s, drv, &names, &paths, e);

	store_release(s);
	if (!ret)
		ret = outputs_whole(s, r, &names, &paths, wanted, all, e);
	if (ret == 0)
		return scan_inputs(s, r, drv, e);
	if (ret != 1)
		return ret;
	if (!all) /* no output but the wanted ones counts */
		for (size_t i = 0; i < names.n;) {
			if (strv_has(wanted, names.v[i])) {
				i++;
				continue;
			}
			names.v[i] = names.v[names.n - 1];
			paths.v[i] = paths.v[names.n - 1];
			names.n = --paths.n;
		}
	return scan_closure(s, r, drv, &paths, e);
}
