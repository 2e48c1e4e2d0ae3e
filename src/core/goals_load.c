/* See goals_int.h: from the .drv in the store to a goal that knows what to build. */
#include <errno.h>

#include "core/goals_int.h"
#include "core/place.h"

static int need_feature(const struct goal *g, const char *feature, const char *what, struct err *e)
{
	if (!strv_has(&g->goals->core->settings.experimental_features, feature))
		return err_set(e, MISC_FAILURE,
			       "experimental Nix feature '%s' is disabled; add "
			       "'--extra-experimental-features %s' to enable it",
			       feature, feature);
	return err_set(e, MISC_FAILURE, "Airplant does not build %s: '%s/%s'", what,
		       g->goals->core->store_dir, g->drv_path.base);
}

static int check_kind(const struct goal *g, struct err *e)
{
	switch (g->drv.kind) {
	case DRV_INPUT_ADDRESSED:
	case DRV_FIXED:
		return 0;
	case DRV_IMPURE:
		return need_feature(g, "impure-derivations", "impure derivations", e);
	default:
		return need_feature(g, "ca-derivations",
				    "derivations whose output paths are not known beforehand", e);
	}
}

int goal_load(struct goal *g, struct err *e)
{
	struct core *core = g->goals->core;
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r;

	r = place_read_drv(core, &g->drv_path, &text, &len, e);
	if (r)
		return r < 0 ? r : MISC_FAILURE;
	r = drv_parse(core->store_dir, &g->drv_path, text, len, &g->arena, &g->drv, e);
	if (r == 0)
		r = check_kind(g, e);
	else if (r > 0)
		r = MISC_FAILURE;
	if (r)
		return r;
	r = drv_opts_parse(&g->drv, &g->arena, &g->opts, e);
	if (r) {
		(void)err_prefix(e, "while parsing derivation '%s/%s': ", core->store_dir,
				 g->drv_path.base);
		return r > 0 ? MISC_FAILURE : r;
	}
	g->loaded = true;
	return 0;
}
