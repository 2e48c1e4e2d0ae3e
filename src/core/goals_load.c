/* See goals_int.h: from the .drv in the store to a goal that knows what to build. */
#include <errno.h>
#include <string.h>

#include "core/goals_int.h"
#include "core/place.h"
#include "core/realise.h"

enum { LEVEL_WARN = 1 };

static int check_kind(const struct goal *g, struct err *e)
{
	const struct core *core = g->goals->core;
	const char *why, *feature = drv_feature(&g->drv, &why);

	if (g->drv.kind != DRV_INPUT_ADDRESSED && g->drv.kind != DRV_FIXED &&
	    !has_feature(core, "ca-derivations"))
		return feature_missing(e, MISC_FAILURE, "ca-derivations", NULL);
	if (feature && !has_feature(core, feature))
		return feature_missing(e, MISC_FAILURE, feature, why);
	return 0;
}

static int read_text(struct goal *g, struct err *e)
{
	struct core *core = g->goals->core;
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r;

	if (g->given)
		return drv_parse(core->store_dir, &g->drv_path, g->given, strlen(g->given),
				 &g->arena, &g->drv, e);
	r = place_read_drv(core, &g->drv_path, &text, &len, e);
	return r ? r
		 : drv_parse(core->store_dir, &g->drv_path, text, len, &g->arena, &g->drv, e);
}

int goal_load(struct goal *g, struct err *e)
{
	struct core *core = g->goals->core;
	int r = read_text(g, e);

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
	if (g->opts.graphs_ignored)
		report_note(g, LEVEL_WARN,
			    "\033[35;1mwarning:\033[0m 'exportReferencesGraph' in structured attrs "
			    "is not a JSON object, ignoring");
	return 0;
}
