/* Looking things up in a parsed derivation. Both lists are sorted, which the parser has checked.
 * Pure. */
#include "drv/drv.h"

#include <string.h>

static int compare_env(const void *name, const void *env)
{
	return strcmp(name, ((const struct drv_env *)env)->name);
}

static int compare_output(const void *name, const void *output)
{
	return strcmp(name, ((const struct drv_output *)output)->name);
}

const char *drv_env_get(const struct drv *d, const char *name)
{
	const struct drv_env *env = NULL;

	if (d->env.n)
		env = bsearch(name, d->env.v, d->env.n, sizeof(*env), compare_env);
	return env ? env->value : NULL;
}

const struct drv_output *drv_output_get(const struct drv *d, const char *name)
{
	if (!d->outputs.n)
		return NULL;
	return bsearch(name, d->outputs.v, d->outputs.n, sizeof(*d->outputs.v), compare_output);
}

bool drv_has_dynamic_input(const struct drv *d)
{
	for (size_t i = 0; i < d->inputs.n; i++)
		if (d->inputs.v[i].n_nodes)
			return true;
	return false;
}

const char *drv_feature(const struct drv *d, const char **ret_why)
{
	*ret_why = NULL;
	if (drv_has_dynamic_input(d)) {
		*ret_why = "ATerm format version 'xp-dyn-drv'";
		return "dynamic-derivations";
	}
	for (size_t i = 0; i < d->outputs.n; i++) {
		if (!*d->outputs.v[i].algo)
			continue;
		if (d->outputs.v[i].method == CA_TEXT) {
			*ret_why = "text-hashed derivation output";
			return "dynamic-derivations";
		}
		if (d->outputs.v[i].method == CA_GIT)
			return "git-hashing";
	}
	if (d->kind == DRV_IMPURE)
		return "impure-derivations";
	return d->kind == DRV_FLOATING ? "ca-derivations" : NULL;
}
