/* See build_stage.h. */
#include "core/build_stage.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "core/output_check.h"

static int bad_claim(const struct build_stage_input *in, struct err *e, const char *what)
{
	return err_set(e, -EPROTO, "the supervisor of the build of '%s/%s' reported %s",
		       in->store_dir, in->drv_base, what);
}

static const struct build_made *made_get(const struct build_stage_input *in, const char *name)
{
	const struct build_made *found = NULL;

	for (size_t i = 0; i < in->end->outputs.n; i++) {
		if (strcmp(in->end->outputs.v[i].name, name))
			continue;
		if (found)
			return NULL; /* twice */
		found = &in->end->outputs.v[i];
	}
	return found;
}

/* Their paths follow from what was made: place_objects checks that. */
static bool has_claimed_paths(const struct drv *d)
{
	return d->kind == DRV_FLOATING || d->kind == DRV_IMPURE;
}

static bool is_output(const struct build_stage_input *in, const char *base)
{
	size_t dir_len = strlen(in->store_dir);

	for (size_t i = 0; has_claimed_paths(in->drv) && i < in->end->outputs.n; i++)
		if (!strcmp(in->end->outputs.v[i].path, base))
			return true;
	for (size_t i = 0; i < in->drv->outputs.n; i++) {
		const char *path = in->drv->outputs.v[i].path;

		if (!strncmp(path, in->store_dir, dir_len) && path[dir_len] == '/' &&
		    !strcmp(path + dir_len + 1, base))
			return true;
	}
	return false;
}

/* References are what was in the sandbox: inputs and outputs, nothing else. */
static int stage_refs(const struct build_stage_input *in, const struct build_made *made,
		      struct arena *a, struct strv *ret, struct err *e)
{
	if (strv_has_sorted(&in->opts->unsafe_discard, made->name))
		return 0;
	for (size_t i = 0; i < made->refs.n; i++) {
		const char *ref = made->refs.v[i];

		if (!strv_has_sorted(in->inputs, ref) && !is_output(in, ref))
			return bad_claim(in, e, "a reference to a path that it was not given");
		if (strv_add_arena(ret, a, arena_strdup(a, ref)) < 0)
			return err_errno(e, -ENOMEM, "registering the outputs of '%s'",
					 in->drv_base);
	}
	strv_sort_uniq(ret, false);
	return 0;
}

static int fill_info(const struct build_stage_input *in, const struct build_made *made,
		     const struct store_path *path, struct arena *a, struct path_info *ret,
		     struct err *e)
{
	*ret = (struct path_info){ .path = *path, .nar_size = made->nar_size, .ultimate = true };
	memcpy(ret->nar_hash, made->nar_hash, sizeof(ret->nar_hash));
	ret->deriver = arena_strdup(a, in->drv_base);
	ret->ca = arena_strdup(a, "");
	if (!ret->deriver || !ret->ca)
		return err_errno(e, -ENOMEM, "registering the outputs of '%s'", in->drv_base);
	return stage_refs(in, made, a, &ret->refs, e);
}

/* What upstream demands of a fixed output beyond its hash, which the supervisor has compared and
 * place_objects compares with the path. */
static int finish_fixed(const struct build_stage_input *in, struct arena *a, struct path_info *info,
			struct err *e)
{
	if (info->refs.n)
		return err_set(e, STAGE_REJECT,
			       "fixed-output derivations must not reference store paths: '%s/%s' "
			       "references %zu distinct paths, e.g. '%s/%s'",
			       in->store_dir, in->drv_base, info->refs.n, in->store_dir,
			       info->refs.v[0]);
	info->ca = ca_print(a, &in->drv->fixed);
	return info->ca ? 0 : err_errno(e, -ENOMEM, "registering the output of '%s'", in->drv_base);
}

/* The path and the content address that the supervisor found for an output. */
static int finish_claimed(const struct build_stage_input *in, const struct drv_output *o,
			  const struct build_made *claim, struct arena *a, struct path_info *info,
			  struct err *e)
{
	struct ca ca;

	if (ca_parse(claim->ca, &ca, NULL) || ca.method != o->method ||
	    ca.hash.algo != o->hash_algo)
		return bad_claim(in, e, "a content address that the derivation did not ask for");
	info->ca = ca_print(a, &ca);
	return info->ca ? 0 : err_errno(e, -ENOMEM, "registering the output of '%s'", in->drv_base);
}

static int output_path(const struct build_stage_input *in, const struct drv_output *o,
		       const struct build_made *claim, struct store_path *ret, struct err *e)
{
	if (!has_claimed_paths(in->drv))
		return store_path_parse(in->store_dir, o->path, ret, e);
	if (store_path_parse_base(claim->path, ret, NULL))
		return bad_claim(in, e, "an output without a path");
	return 0;
}

static int collect(const struct build_stage_input *in, struct arena *a, struct output_made *made,
		   struct err *e)
{
	const struct drv *d = in->drv;

	if (in->end->outputs.n != d->outputs.n)
		return bad_claim(in, e, "another number of outputs than the derivation has");
	for (size_t i = 0; i < d->outputs.n; i++) {
		const struct build_made *claim = made_get(in, d->outputs.v[i].name);
		struct store_path path;
		int r;

		if (!claim)
			return bad_claim(in, e, "outputs that the derivation does not have");
		r = output_path(in, &d->outputs.v[i], claim, &path, e);
		if (r == 0)
			r = fill_info(in, claim, &path, a, &made[i].info, e);
		if (r == 0 && d->kind == DRV_FIXED)
			r = finish_fixed(in, a, &made[i].info, e);
		if (r == 0 && has_claimed_paths(d))
			r = finish_claimed(in, &d->outputs.v[i], claim, a, &made[i].info, e);
		if (r)
			return r;
		made[i].name = d->outputs.v[i].name;
	}
	return 0;
}

static int collect_checked(const struct build_stage_input *in, struct arena *a,
			   struct output_made **ret, struct err *e)
{
	size_t n = in->drv->outputs.n;
	struct output_made *made = arena_array(a, n, sizeof(*made));
	int r;

	if (!made)
		return err_errno(e, -ENOMEM, "registering the outputs of '%s'", in->drv_base);
	r = collect(in, a, made, e);
	if (r == 0)
		r = output_check(in->db, in->store_dir, in->drv_base, in->opts, made, n, e);
	if (r == 0)
		*ret = made;
	return r > 0 ? STAGE_REJECT : r;
}

int build_stage(const struct build_stage_input *in, struct arena *a, struct staged **ret,
		size_t *ret_n, struct err *e)
{
	size_t n = in->drv->outputs.n;
	struct output_made *made;
	struct staged *v = arena_array(a, n, sizeof(*v));
	int r = v ? collect_checked(in, a, &made, e)
		  : err_errno(e, -ENOMEM, "registering the outputs of '%s'", in->drv_base);

	if (r)
		return r;
	for (size_t i = 0; i < n; i++) {
		v[i].info = made[i].info;
		v[i].dirfd = in->out_dirfd;
		v[i].replace = in->replace && smap_has(in->replace, made[i].info.path.base);
		v[i].refs_discarded = has_claimed_paths(in->drv) &&
				      strv_has_sorted(&in->opts->unsafe_discard, made[i].name);
		v[i].name = arena_strdup(a, made[i].info.path.base);
		if (!v[i].name)
			return err_errno(e, -ENOMEM, "registering the outputs of '%s'",
					 in->drv_base);
	}
	*ret = v;
	*ret_n = n;
	return 0;
}

int build_stage_mismatch(const struct build_stage_input *in, struct arena *a, struct staged *ret,
			 struct err *e)
{
	const struct build_made *made = in->end->outputs.n == 1 ? &in->end->outputs.v[0] : NULL;
	struct store_path path, planned;
	struct staged s = { .dirfd = in->out_dirfd };
	struct ca ca;
	int r;

	if (!made || in->drv->kind != DRV_FIXED || in->drv->outputs.n != 1 ||
	    ca_parse(made->ca, &ca, e) || ca.method != in->drv->fixed.method ||
	    store_path_parse_base(in->end->real_path, &path, e))
		return bad_claim(in, e, "a mismatch of a fixed output that makes no sense");
	r = fill_info(in, made, &path, a, &s.info, e);
	if (r)
		return r;
	s.info.ca = ca_print(a, &ca);
	if (!s.info.ca || store_path_parse(in->store_dir, in->drv->outputs.v[0].path, &planned, e))
		return err_errno(e, -ENOMEM, "registering the output of '%s'", in->drv_base);
	/* It lies under the name that was planned for it, or already under its real one. */
	s.name = arena_strdup(a, faccessat(in->out_dirfd, path.base, F_OK, AT_SYMLINK_NOFOLLOW) == 0
					 ? path.base
					 : planned.base);
	if (!s.name)
		return err_errno(e, -ENOMEM, "registering the output of '%s'", in->drv_base);
	*ret = s;
	return 0;
}

int build_compare(const struct build_stage_input *in, struct store_path *ret_differs, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(256 << 20);
	struct output_made *made;
	int r = collect_checked(in, &a, &made, e);

	for (size_t i = 0; r == 0 && i < in->drv->outputs.n; i++) {
		struct path_info known;

		r = db_path_info(in->db, &made[i].info.path, &a, &known);
		if (r == DB_ABSENT) {
			r = 0; /* nothing to compare with; upstream lets it pass */
			continue;
		}
		if (r < 0)
			return err_errno(e, r, "reading '%s/%s'", in->store_dir,
					 made[i].info.path.base);
		*ret_differs = made[i].info.path;
		if (memcmp(known.nar_hash, made[i].info.nar_hash, sizeof(known.nar_hash)))
			return err_set(e, STAGE_DIFFERS,
				       "derivation '%s/%s' may not be deterministic: output "
				       "\"%s/%s\" differs",
				       in->store_dir, in->drv_base, in->store_dir,
				       made[i].info.path.base);
	}
	return r;
}
