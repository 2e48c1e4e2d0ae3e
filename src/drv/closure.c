/* See closure.h. No recursion: derivations nest as deep as clients like. */
#include "drv/closure.h"

#include <errno.h>
#include <string.h>

enum { HASHES_MAX = 64 * 1000, ONE_MAX = 8 * DRV_MAX /* a parsed .drv is a few times its text */ };

void drv_hashes_done(struct drv_hashes *h)
{
	struct smap_entry *en;

	for (size_t i = 0; (en = smap_next(&h->v, &i));)
		free(en->value);
	smap_done(&h->v);
}

int drv_hashes_put(struct drv_hashes *h, const char *base, const struct drv_hash *hash)
{
	struct drv_hash *copy, *old = smap_get(&h->v, base);

	if (old) {
		*old = *hash;
		return 0;
	}
	copy = malloc(sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	*copy = *hash;
	if (smap_put(&h->v, base, copy) < 0) {
		free(copy);
		return -ENOMEM;
	}
	return 0;
}

int drv_hashes_lookup(void *ctx, const char *drv_path, struct drv_hash *ret, struct err *e)
{
	struct drv_hashes *h = ctx;
	const char *base = strrchr(drv_path, '/');
	const struct drv_hash *found = base ? smap_get(&h->v, base + 1) : NULL;

	if (!found)
		return err_set(e, DRV_BAD, "the hash of derivation '%s' is not known", drv_path);
	*ret = *found;
	return 0;
}

/* Pushes the inputs whose hashes are not known. The number of them, or a negative code. */
static int push_unknown(struct drv_hashes *h, const char *store_dir, const struct drv *d,
			struct strv *stack, struct err *e)
{
	int n = 0;

	for (size_t i = 0; i < d->inputs.n; i++) {
		struct store_path input;
		int r = store_path_parse(store_dir, d->inputs.v[i].path, &input, e);

		if (r != 0)
			return r < 0 ? r : -EINVAL;
		if (smap_has(&h->v, input.base))
			continue;
		r = strv_add(stack, input.base);
		if (r < 0)
			return err_set(e, r, "out of memory");
		n++;
	}
	return n;
}

static void pop(struct strv *stack)
{
	free(stack->v[--stack->n]);
}

/* Depth first, inputs first. `seen` holds what was expanded: to meet it again with inputs still
 * unknown is a cycle. */
static int solve(struct drv_hashes *h, const char *store_dir, struct strv *stack, drv_load load,
		 void *ctx, struct err *e)
{
	_cleanup_smap_ struct smap seen = {};

	while (stack->n > 0) {
		_cleanup_arena_ struct arena a = ARENA_INIT(ONE_MAX);
		struct store_path path;
		struct drv_hash hash;
		struct drv d;
		int r;

		if (smap_has(&h->v, stack->v[stack->n - 1])) {
			pop(stack);
			continue;
		}
		r = store_path_parse_base(stack->v[stack->n - 1], &path, e);
		if (r == 0)
			r = load(ctx, &path, &a, &d, e);
		if (r != 0)
			return r;
		r = push_unknown(h, store_dir, &d, stack, e);
		if (r < 0)
			return r;
		if (r > 0) {
			if (smap_has(&seen, path.base))
				return err_set(e, DRV_BAD, "derivation '%s/%s' depends on itself",
					       store_dir, path.base);
			if (smap_put(&seen, path.base, NULL) < 0)
				return err_set(e, -ENOMEM, "out of memory");
			continue;
		}
		r = drv_hash_modulo(&d, false, drv_hashes_lookup, h, &hash, e);
		if (r != 0)
			return r;
		if (drv_hashes_put(h, path.base, &hash) < 0)
			return err_set(e, -ENOMEM, "out of memory");
		pop(stack);
	}
	return 0;
}

int drv_hashes_know(struct drv_hashes *h, const char *store_dir, const struct drv *d, drv_load load,
		    void *ctx, struct err *e)
{
	_cleanup_strv_ struct strv stack = {};
	int r;

	if (h->v.n > HASHES_MAX)
		drv_hashes_done(h);
	r = push_unknown(h, store_dir, d, &stack, e);
	return r < 0 ? r : solve(h, store_dir, &stack, load, ctx, e);
}

int drv_hashes_of(struct drv_hashes *h, const char *store_dir, const struct drv *d, drv_load load,
		  void *ctx, uint8_t ret[32], struct err *e)
{
	struct drv_hash hash;
	int r = drv_hashes_know(h, store_dir, d, load, ctx, e);

	if (r == 0)
		r = drv_hash_modulo(d, true, drv_hashes_lookup, h, &hash, e);
	if (r == 0)
		memcpy(ret, hash.bytes, sizeof(hash.bytes));
	return r;
}
