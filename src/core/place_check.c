/* What may become valid. Linked by airplantd.
 *
 * The session that staged an object may have been taken over: the path must follow from the
 * content address, or a trusted key must have signed it, and the top of the object must look like
 * a store object. Never opens anything but .drv files. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "core/core.h"
#include "core/place_batch.h"
#include "core/realise.h"
#include "core/sigcheck.h"

/* The references without the object itself, as content addresses want them. */
static int other_refs(const struct path_info *info, struct arena *a, struct strv *ret,
		      bool *ret_self)
{
	*ret = (struct strv){};
	*ret_self = false;
	for (size_t i = 0; i < info->refs.n; i++) {
		if (!strcmp(info->refs.v[i], info->path.base))
			*ret_self = true;
		else if (strv_add_arena(ret, a, info->refs.v[i]) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int check_ca(const char *store_dir, const struct path_info *info, bool may_name_itself,
		    struct arena *a, struct err *e)
{
	struct store_path want;
	struct strv refs;
	struct ca ca;
	bool self, ok;
	int r = other_refs(info, a, &refs, &self);

	if (r < 0)
		return err_set(e, r, "out of memory");
	ok = ca_parse(info->ca, &ca, NULL) == 0 &&
	     store_path_for_ca(store_dir, store_path_name(&info->path), &ca, &refs, self, &want,
			       NULL) == 0 &&
	     !strcmp(want.base, info->path.base);
	/* This address is the NAR hash itself, unless the object speaks of itself. */
	if (ok && ca.method == CA_NAR && ca.hash.algo == HASH_SHA256 && !self && !may_name_itself)
		ok = !memcmp(ca.hash.bytes, info->nar_hash, sizeof(info->nar_hash));
	if (!ok)
		return err_set(e, PATH_BAD,
			       "cannot add path '%s/%s' to the Nix store because it claims to be "
			       "content-addressed but isn't",
			       store_dir, info->path.base);
	return 0;
}

static int check_signature(const struct core *core, const struct path_info *info, struct err *e)
{
	if (!core->settings.require_sigs || *info->ca)
		return 0;
	if (keyring_verify(core->keyring, core->store_dir, info))
		return 0;
	return err_set(e, PATH_BAD,
		       "cannot add path '%s/%s' because it lacks a signature by a trusted key",
		       core->store_dir, info->path.base);
}

/* Whole trees are the work of sessions and supervisors, whose filters keep set-user-ID bits out.
 * One look at the top costs nothing. */
static bool is_store_object(const struct core *core, const struct stat *st)
{
	mode_t mode = st->st_mode & 07777;

	if (st->st_uid != core->uid)
		return false;
	switch (st->st_mode & S_IFMT) {
	case S_IFREG:
		return mode == 0444 || mode == 0555;
	case S_IFDIR:
		return (mode & 07022) == 0;
	default:
		return S_ISLNK(st->st_mode);
	}
}

static int look_at_top(const struct core *core, const struct staged *s, mode_t *ret_mode,
		       struct err *e)
{
	struct stat st;

	if (fstatat(s->dirfd, s->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(e, -errno, "looking at what was staged for '%s/%s'",
				 core->store_dir, s->info.path.base);
	*ret_mode = st.st_mode;
	if (is_store_object(core, &st))
		return 0;
	return err_set(e, PATH_BAD, "what was staged for '%s/%s' is not a store object",
		       core->store_dir, s->info.path.base);
}

static int copy_info(const struct path_info *from, struct arena *a, struct path_info *to)
{
	*to = *from;
	to->deriver = arena_strdup(a, from->deriver ? from->deriver : "");
	to->ca = arena_strdup(a, from->ca ? from->ca : "");
	if (!to->deriver || !to->ca)
		return -ENOMEM;
	to->refs = to->sigs = (struct strv){};
	for (size_t i = 0; i < from->refs.n; i++)
		if (strv_add_arena(&to->refs, a, arena_strdup(a, from->refs.v[i])) < 0)
			return -ENOMEM;
	for (size_t i = 0; i < from->sigs.n; i++)
		if (strv_add_arena(&to->sigs, a, arena_strdup(a, from->sigs.v[i])) < 0)
			return -ENOMEM;
	strv_sort_uniq(&to->refs, false);
	if (to->registration_time == 0)
		to->registration_time = time(NULL);
	return 0;
}

int place_check_claim(struct place *p, const struct staged *s, struct arena *a, struct err *e)
{
	return *s->info.ca ? check_ca(p->core->store_dir, &s->info, false, a, e)
			   : check_signature(p->core, &s->info, e);
}

int place_check(struct place *p, const struct staged *s, unsigned int flags, struct arena *a,
		struct registration *reg, mode_t *ret_mode, struct err *e)
{
	struct core *core = p->core;
	int r = copy_info(&s->info, a, &reg->info);

	if (r < 0)
		return err_set(e, r, "out of memory");
	if (*reg->info.ca) {
		r = check_ca(core->store_dir, &reg->info, s->refs_discarded, a, e);
		if (r != 0)
			return r;
	}
	if (flags & PLACE_CHECK_SIGS) {
		r = check_signature(core, &reg->info, e);
		if (r != 0)
			return r;
	}
	if (!strncmp(reg->info.ca, "fixed:git:", 10) && !has_feature(core, "git-hashing"))
		return feature_missing(e, PATH_BAD, "git-hashing", NULL);
	r = look_at_top(core, s, ret_mode, e);
	if (r != 0)
		return r;
	if (!(flags & (PLACE_FOREIGN | PLACE_SIGNED)) && reg->info.ultimate) {
		r = keyring_sign(core->keyring, core->store_dir, a, &reg->info);
		if (r < 0)
			return err_errno(e, r, "signing '%s/%s'", core->store_dir,
					 reg->info.path.base);
	}
	return store_path_is_drv(&reg->info.path) ? place_check_drv(p, s, a, reg, e) : 0;
}
