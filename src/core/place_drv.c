/* Derivations that become valid: their outputs must follow from their contents, which takes the
 * hashes of the derivations they use. Linked by airplantd.
 *
 * Contents of .drv files are clients' data: parsed by libdrv, never followed recursively. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "core/core.h"
#include "core/place_batch.h"
#include "core/realise.h"
#include "nar/nar.h"

enum { DRV_ARENA = 8 * DRV_MAX /* a parsed .drv is a few times its text */ };

static const struct staged *find_staged(const struct place *p, const char *base)
{
	for (size_t i = 0; i < p->n_staged; i++)
		if (!strcmp(p->staged[i].info.path.base, base))
			return &p->staged[i];
	return NULL;
}

/* Reads a regular file, nothing else, without waiting for anybody. */
static int read_regular(int dirfd, const char *name, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd =
		openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (st.st_size > DRV_MAX)
		return -EFBIG;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	r = read_full(fd, text, (size_t)st.st_size);
	if (r < 0)
		return r;
	text[st.st_size] = 0;
	*ret = TAKE_PTR(text);
	*ret_len = (size_t)st.st_size;
	return 0;
}

/* Whether a file with these contents has the NAR hash that the database recorded. */
static bool text_has_hash(const char *text, size_t len, const uint8_t nar_hash[32])
{
	_cleanup_buf_ struct buf b = BUF_INIT(2 * (size_t)DRV_MAX);
	uint8_t digest[32];

	if (nar_put_begin(&b) < 0 || nar_put_file_begin(&b, false, len) < 0 ||
	    buf_append(&b, text, len) < 0 || nar_put_file_end(&b, len) < 0)
		return false;
	sha256(b.data, b.len, digest);
	return memcmp(digest, nar_hash, sizeof(digest)) == 0;
}

/* Whoever staged a file may still have it open: what lies in the store is believed only as far as
 * the hash in the database goes, or a session that its client has taken over could rewrite a
 * derivation after it was checked, and another user would build it. */
int place_read_drv(struct core *core, const struct store_path *path, char **ret, size_t *ret_len,
		   struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 24);
	_cleanup_free_ char *text = NULL;
	struct path_info info;
	int r = db_path_info(core->db, path, &a, &info);

	if (r == DB_ABSENT)
		return err_set(e, r, "path '%s/%s' is not valid", core->store_dir, path->base);
	if (r < 0)
		return err_errno(e, r, "reading the database for '%s/%s'", core->store_dir,
				 path->base);
	r = read_regular(core->store_fd, path->base, &text, ret_len);
	if (r < 0)
		return err_errno(e, r, "reading derivation '%s/%s'", core->store_dir, path->base);
	if (!text_has_hash(text, *ret_len, info.nar_hash))
		return err_set(e, DRV_BAD,
			       "path '%s/%s' was modified! It is not what the database says",
			       core->store_dir, path->base);
	*ret = TAKE_PTR(text);
	return 0;
}

/* From what is staged in this call, else from the store when valid or about to be. */
static int read_text(struct place *p, const struct store_path *path, char **ret, size_t *ret_len,
		     struct err *e)
{
	const struct staged *s = find_staged(p, path->base);
	struct core *core = p->core;
	int r;

	if (!s && !smap_has(&p->pending, path->base))
		return place_read_drv(core, path, ret, ret_len, e);
	r = s ? read_regular(s->dirfd, s->name, ret, ret_len)
	      : read_regular(core->store_fd, path->base, ret, ret_len);
	if (r < 0)
		return err_errno(e, r, "reading derivation '%s/%s'", core->store_dir, path->base);
	return 0;
}

static int load_drv(struct place *p, const struct store_path *path, struct arena *a,
		    struct drv *ret, struct err *e)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = read_text(p, path, &text, &len, e);

	if (r != 0)
		return r;
	return drv_parse(p->core->store_dir, path, text, len, a, ret, e);
}

void place_forget_hashes(struct place *p)
{
	drv_hashes_done(&p->drv_hashes);
}

static int load_for_hash(void *ctx, const struct store_path *path, struct arena *a, struct drv *ret,
			 struct err *e)
{
	return load_drv(ctx, path, a, ret, e);
}

int place_drv_hash(struct place *p, const struct drv *d, uint8_t ret[32], struct err *e)
{
	return drv_hashes_of(&p->drv_hashes, p->core->store_dir, d, load_for_hash, p, ret, e);
}

/* The text is what the path was made of: then the cached hash can never become wrong. */
static int check_text(const struct place *p, const struct path_info *info, const char *text,
		      size_t len, struct err *e)
{
	uint8_t digest[32];
	struct ca ca;

	if (!*info->ca)
		return 0;
	sha256(text, len, digest);
	if (ca_parse(info->ca, &ca, NULL) == 0 && ca.method == CA_TEXT &&
	    ca.hash.algo == HASH_SHA256 && !memcmp(ca.hash.bytes, digest, sizeof(digest)))
		return 0;
	return err_set(e, PATH_BAD,
		       "cannot add path '%s/%s' to the Nix store because it claims to be "
		       "content-addressed but isn't",
		       p->core->store_dir, info->path.base);
}

static int fill_rows(const struct place *p, const struct drv *d, struct arena *a,
		     struct registration *reg, struct err *e)
{
	reg->outputs.v = arena_array(a, d->outputs.n ? d->outputs.n : 1, sizeof(*reg->outputs.v));
	if (!reg->outputs.v)
		return err_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < d->outputs.n; i++) {
		const struct drv_output *o = &d->outputs.v[i];
		struct drv_row *row = &reg->outputs.v[reg->outputs.n];
		struct store_path path;
		int r;

		if (!*o->path)
			continue; /* known only after the build */
		r = store_path_parse(p->core->store_dir, o->path, &path, e);
		if (r != 0)
			return r;
		row->output = arena_strdup(a, o->name);
		row->path = arena_strdup(a, path.base);
		if (!row->output || !row->path)
			return err_set(e, -ENOMEM, "out of memory");
		reg->outputs.n++;
	}
	return 0;
}

static int check_feature(const struct place *p, const struct drv *d, struct err *e)
{
	const char *why, *feature = drv_feature(d, &why);

	if (!feature || has_feature(p->core, feature))
		return 0;
	return feature_missing(e, DRV_BAD, feature, why);
}

int place_check_drv(struct place *p, const struct staged *s, struct arena *a,
		    struct registration *reg, struct err *e)
{
	_cleanup_arena_ struct arena scratch = ARENA_INIT(DRV_ARENA);
	_cleanup_free_ char *text = NULL;
	const char *store_dir = p->core->store_dir;
	struct drv_hash h;
	struct drv d;
	size_t len;
	int r = read_regular(s->dirfd, s->name, &text, &len);

	if (r < 0)
		return err_errno(e, r == -EINVAL || r == -ELOOP ? DRV_BAD : r,
				 "reading derivation '%s/%s'", store_dir, reg->info.path.base);
	r = check_text(p, &reg->info, text, len, e);
	if (r != 0)
		return r;
	if (!text_has_hash(text, len, reg->info.nar_hash))
		return err_set(e, DRV_BAD, "hash mismatch importing path '%s/%s'", store_dir,
			       reg->info.path.base);
	r = drv_parse(store_dir, &reg->info.path, text, len, &scratch, &d, e);
	if (r != 0)
		return r;
	r = check_feature(p, &d, e);
	if (r == 0)
		r = drv_hashes_know(&p->drv_hashes, store_dir, &d, load_for_hash, p, e);
	if (r == 0)
		r = drv_check(store_dir, &d, drv_hashes_lookup, &p->drv_hashes, &h, e);
	if (r == 0)
		r = fill_rows(p, &d, a, reg, e);
	/* A hash is kept when the path vouches for it. */
	if (r == 0 && *reg->info.ca && drv_hashes_put(&p->drv_hashes, reg->info.path.base, &h) < 0)
		r = err_set(e, -ENOMEM, "out of memory");
	return r;
}
