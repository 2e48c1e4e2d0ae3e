/* The hash of a derivation modulo the hashes that made its inputs, and the check that follows
 * from it.
 *
 * An input-addressed output's path is made from the text of the derivation in which own output
 * paths are blanked and each input .drv's path is replaced by that derivation's own such hash. A
 * fixed derivation's hash says only what it gives, so that another way to fetch the same bytes
 * changes nothing behind it. Equal to upstream's hashDerivationModulo and checkInvariants of
 * 2.34. No recursion here: the caller's lookup answers for inputs. Pure. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "drv/print.h"

struct inputs {
	struct print_input *v; /* sorted by key, no duplicates */
	size_t n;
	bool deferred; /* one of them is */
};

static int no_memory(const struct drv *d, struct err *e)
{
	return err_errno(e, -ENOMEM, "hashing derivation '%s'", d->name);
}

static int compare_inputs(const void *a, const void *b)
{
	return strcmp(((const struct print_input *)a)->key, ((const struct print_input *)b)->key);
}

/* Inputs whose hashes coincide become one with the outputs of both. */
static int merge_inputs(struct arena *a, struct inputs *in)
{
	size_t n = 0;

	if (in->n)
		qsort(in->v, in->n, sizeof(*in->v), compare_inputs);
	for (size_t i = 0, next; i < in->n; i = next) {
		struct print_input merged = { .key = in->v[i].key };

		for (next = i + 1; next < in->n && !strcmp(in->v[next].key, merged.key); next++)
			;
		if (next == i + 1) {
			in->v[n++] = in->v[i];
			continue;
		}
		for (size_t j = i; j < next; j++)
			for (size_t k = 0; k < in->v[j].outputs.n; k++)
				if (strv_add_arena(&merged.outputs, a, in->v[j].outputs.v[k]) < 0)
					return -ENOMEM;
		strv_sort_uniq(&merged.outputs, false);
		in->v[n++] = merged;
	}
	in->n = n;
	return 0;
}

/* Asks for each input's hash. */
static int look_up_inputs(const struct drv *d, drv_hash_lookup lookup, void *ctx, struct arena *a,
			  struct inputs *ret, struct err *e)
{
	struct inputs in = { .v = arena_array(a, d->inputs.n, sizeof(*in.v)) };

	if (!in.v)
		return no_memory(d, e);
	for (size_t i = 0; i < d->inputs.n; i++) {
		const struct drv_input *input = &d->inputs.v[i];
		struct drv_hash hash = {};
		char *hex;
		int r;

		r = lookup(ctx, input->path, &hash, e);
		if (r)
			return r;
		for (size_t j = 0; hash.fixed && j < input->outputs.n; j++)
			if (strcmp(input->outputs.v[j], "out"))
				return err_set(e, DRV_BAD,
					       "no hash for output '%s' of derivation '%s'",
					       input->outputs.v[j], input->path);
		in.deferred |= hash.deferred;
		if (!input->outputs.n)
			continue; /* leaves no trace in the hash, as upstream */
		hex = arena_alloc(a, sizeof(hash.bytes) * 2 + 1);
		if (!hex)
			return no_memory(d, e);
		base16_encode(hash.bytes, sizeof(hash.bytes), hex);
		in.v[in.n++] = (struct print_input){ .key = hex, .outputs = input->outputs };
	}
	if (merge_inputs(a, &in) < 0)
		return no_memory(d, e);
	*ret = in;
	return 0;
}

static int hash_fixed(const struct drv *d, struct drv_hash *ret, struct err *e)
{
	const struct drv_output *o = &d->outputs.v[0];
	_cleanup_free_ char *text = NULL;
	int n = asprintf(&text, "fixed:out:%s:%s:%s", o->algo, o->hash, o->path);

	if (n < 0) {
		text = NULL;
		return no_memory(d, e);
	}
	*ret = (struct drv_hash){ .fixed = true };
	sha256(text, (size_t)n, ret->bytes);
	return 0;
}

static int hash_text(const struct drv *d, bool mask, const struct inputs *in, struct buf *b,
		     struct drv_hash *ret, struct err *e)
{
	int r;

	buf_clear(b);
	r = drv_print_with(d, mask, in->v, in->n, b);
	if (r < 0)
		return err_errno(e, r, "hashing derivation '%s'", d->name);
	*ret = (struct drv_hash){ .deferred = in->deferred || d->kind == DRV_FLOATING ||
					      d->kind == DRV_IMPURE };
	sha256(b->data, b->len, ret->bytes);
	return 0;
}

/* A derivation prints to at most the size of its file, but an input's hash may be longer than the
 * path it replaces. Both are bounded by DRV_MAX bytes of file. */
#define TEXT_INIT  BUF_INIT((size_t)DRV_MAX * 4)
#define INPUTS_MAX ((size_t)DRV_MAX * 16)

int drv_hash_modulo(const struct drv *d, bool mask_outputs, drv_hash_lookup lookup, void *ctx,
		    struct drv_hash *ret, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(INPUTS_MAX);
	_cleanup_buf_ struct buf b = TEXT_INIT;
	struct inputs in;
	int r;

	if (d->kind == DRV_FIXED)
		return hash_fixed(d, ret, e);
	r = look_up_inputs(d, lookup, ctx, &a, &in, e);
	return r ? r : hash_text(d, mask_outputs, &in, &b, ret, e);
}

/* The output's path and its environment variable are `want`. */
static int check_output(const char *store_dir, const struct drv *d, const struct drv_output *o,
			const struct store_path *want, struct err *e)
{
	size_t dir = strlen(store_dir);
	const char *value = drv_env_get(d, o->name);

	if (strncmp(o->path, store_dir, dir) || o->path[dir] != '/' ||
	    strcmp(o->path + dir + 1, want->base))
		return err_set(e, DRV_BAD,
			       "derivation '%s' has incorrect output '%s', should be '%s/%s'",
			       d->name, o->path, store_dir, want->base);
	if (!value)
		return err_set(e, DRV_BAD,
			       "derivation '%s' has missing environment variable '%s', should be "
			       "'%s' but is not present",
			       d->name, o->name, o->path);
	if (strcmp(value, o->path))
		return err_set(e, DRV_BAD,
			       "derivation '%s' has incorrect environment variable '%s', should be "
			       "'%s'",
			       d->name, o->name, o->path);
	return 0;
}

static int check_fixed(const char *store_dir, const struct drv *d, struct drv_hash *ret,
		       struct err *e)
{
	struct store_path want;
	int r;

	r = store_path_for_ca(store_dir, d->name, &d->fixed, NULL, false, &want, e);
	if (r)
		return r < 0 ? r : DRV_BAD;
	r = check_output(store_dir, d, &d->outputs.v[0], &want, e);
	if (!r && ret)
		r = hash_fixed(d, ret, e);
	return r;
}

static int check_input_addressed(const char *store_dir, const struct drv *d,
				 const struct drv_hash *masked, struct err *e)
{
	if (masked->deferred)
		return err_set(e, DRV_BAD,
			       "derivation '%s' has incorrect output '%s', should be deferred",
			       d->name, d->outputs.v[0].path);
	for (size_t i = 0; i < d->outputs.n; i++) {
		const struct drv_output *o = &d->outputs.v[i];
		struct store_path want;
		int r;

		r = store_path_for_output(store_dir, d->name, o->name, masked->bytes, &want, e);
		if (r)
			return r < 0 ? r : DRV_BAD;
		r = check_output(store_dir, d, o, &want, e);
		if (r)
			return r;
	}
	return 0;
}

int drv_check(const char *store_dir, const struct drv *d, drv_hash_lookup lookup, void *ctx,
	      struct drv_hash *ret, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(INPUTS_MAX);
	_cleanup_buf_ struct buf b = TEXT_INIT;
	struct drv_hash hash;
	struct inputs in;
	int r;

	if (d->kind == DRV_FIXED)
		return check_fixed(store_dir, d, ret, e);
	r = look_up_inputs(d, lookup, ctx, &a, &in, e);
	if (r)
		return r;
	if (d->kind == DRV_INPUT_ADDRESSED) {
		r = hash_text(d, true, &in, &b, &hash, e);
		if (!r)
			r = check_input_addressed(store_dir, d, &hash, e);
		if (r)
			return r;
	}
	return ret ? hash_text(d, false, &in, &b, ret, e) : 0;
}
