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
