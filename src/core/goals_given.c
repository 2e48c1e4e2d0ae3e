/* See goals_int.h: derivations that a client sends instead of naming a .drv (operation 36).
 *
 * Where its outputs belong, a .drv in the store proves by what it was made of. One that was sent
 * proves it only when its outputs are content-addressed; the output paths of others are believed
 * from clients who could as well have added those paths. */
#include <errno.h>
#include <string.h>

#include "core/goals_int.h"
#include "core/realise.h"

enum { TEXT_MAX = DRV_MAX };

/* What upstream does for those it does not trust: the derivation gets its own path, and is in the
 * store from then on like any other. */
static int add_to_store(struct request *r, struct target *t, const struct drv *d, struct err *e)
{
	struct core *core = r->goals->core;
	_cleanup_buf_ struct buf text = BUF_INIT(TEXT_MAX);
	int ret = drv_print(d, &text);

	if (ret < 0)
		return err_errno(e, ret, "writing derivation '%s'", t->path.base);
	ret = drv_text_path(core->store_dir, d, &text, &t->path, e);
	if (ret)
		return ret;
	ret = db_path_valid(core->db, &t->path);
	if (ret < 0)
		return err_errno(e, ret, "looking for '%s'", t->path.base);
	return ret ? realise_write_drv(core, &t->path, d, &text, e) : 0;
}

static bool is_content_addressed(const struct drv *d)
{
	return d->kind == DRV_FIXED || d->kind == DRV_FLOATING || d->kind == DRV_IMPURE;
}

static int judge(struct request *r, const struct target *t, const struct drv *d, bool believed,
		 struct err *e)
{
	const char *store_dir = r->goals->core->store_dir;

	if (d->inputs.n)
		return err_set(e, 1, "derivation '%s/%s' has input derivations", store_dir,
			       t->path.base);
	if (is_content_addressed(d))
		return drv_check(store_dir, d, NULL, NULL, NULL, e); /* asks for no inputs */
	if (!believed)
		return err_set(e, 1, "you are not privileged to build input-addressed derivations");
	if (d->kind == DRV_DEFERRED)
		return err_set(e, 1, "derivation '%s/%s' does not say where its outputs belong",
			       store_dir, t->path.base);
	return 0;
}

int given_take(struct request *r, const char *text, bool believed, struct err *e)
{
	const char *store_dir = r->goals->core->store_dir;
	struct target *t = r->targets.v;
	struct given *given = arena_alloc(&r->arena, sizeof(*given));
	int ret;

	if (r->targets.n != 1 || !t->is_drv || t->chain.n || t->wanted.n)
		return err_set(e, 1, "a derivation comes with one target");
	if (!given)
		return err_errno(e, -ENOMEM, "reading a derivation");
	given->text = arena_strdup(&r->arena, text);
	if (!given->text)
		return err_errno(e, -ENOMEM, "reading a derivation");
	ret = drv_parse(store_dir, &t->path, text, strlen(text), &r->arena, &given->drv, e);
	if (ret == 0)
		ret = judge(r, t, &given->drv, believed, e);
	if (ret)
		return ret;
	if (!believed)
		return add_to_store(r, t, &given->drv, e);
	t->given = given;
	return 0;
}
