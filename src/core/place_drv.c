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
static int read_drv(struct place *p, const struct store_path *path, char **ret, size_t *ret_len,
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
	int r = read_drv(p, path, &text, &len, e);

	if (r != 0)
		return r;
	return drv_parse(p->core->store_dir, path, text, len, a, ret, e);
}

static int cache_put(struct place *p, const char *base, const struct drv_hash *h)
{
	struct drv_hash *copy, *old = smap_get(&p->drv_hashes, base);

	if (old) {
		*old = *h;
		return 0;
	}
	copy = malloc(sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	*copy = *h;
	if (smap_put(&p->drv_hashes, base, copy) < 0) {
		free(copy);
		return -ENOMEM;
	}
	return 0;
}

void place_forget_hashes(struct place *p)
{
	struct smap_entry *en;

	for (size_t i = 0; (en = smap_next(&p->drv_hashes, &i));)
		free(en->value);
	smap_done(&p->drv_hashes);
}

/* For libdrv: everything it may ask for was put into the cache before. */
static int lookup(void *ctx, const char *drv_path, struct drv_hash *ret, struct err *e)
{
	struct place *p = ctx;
	const char *base = strrchr(drv_path, '/');
	const struct drv_hash *h = base ? smap_get(&p->drv_hashes, base + 1) : NULL;

	if (!h)
		return err_set(e, DRV_BAD, "the hash of derivation '%s' is not known", drv_path);
	*ret = *h;
	return 0;
}

/* Pushes the inputs whose hashes are not known. The number of them, or an error. */
static int push_unknown(struct place *p, const struct drv *d, struct strv *stack, struct err *e)
{
	int n = 0;

	for (size_t i = 0; i < d->inputs.n; i++) {
		struct store_path input;
		int r = store_path_parse(p->core->store_dir, d->inputs.v[i].path, &input, e);

		if (r != 0)
			return r < 0 ? r : -EINVAL;
		if (smap_has(&p->drv_hashes, input.base))
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

/* Brings the hashes of everything on the stack into the cache, inputs first: depth first, without
 * recursion. `seen` holds what was expanded: to meet it again with inputs still unknown is a cycle.
 */
static int solve(struct place *p, struct strv *stack, struct err *e)
{
	_cleanup_smap_ struct smap seen = {};

	while (stack->n > 0) {
		_cleanup_arena_ struct arena a = ARENA_INIT(DRV_ARENA);
		struct store_path path;
		struct drv_hash h;
		struct drv d;
		int r;

		if (smap_has(&p->drv_hashes, stack->v[stack->n - 1])) {
			pop(stack);
			continue;
		}
		r = store_path_parse_base(stack->v[stack->n - 1], &path, e);
		if (r == 0)
			r = load_drv(p, &path, &a, &d, e);
		if (r != 0)
			return r;
		r = push_unknown(p, &d, stack, e);
		if (r < 0)
			return r;
		if (r > 0) {
			if (smap_has(&seen, path.base))
				return err_set(e, DRV_BAD, "derivation '%s/%s' depends on itself",
					       p->core->store_dir, path.base);
			if (smap_put(&seen, path.base, NULL) < 0)
				return err_set(e, -ENOMEM, "out of memory");
			continue;
		}
		r = drv_hash_modulo(&d, false, lookup, p, &h, e);
		if (r != 0)
			return r;
		if (cache_put(p, path.base, &h) < 0)
			return err_set(e, -ENOMEM, "out of memory");
		pop(stack);
	}
	return 0;
}

/* The inputs of `d`, all of them, into the cache. */
static int know_inputs(struct place *p, const struct drv *d, struct err *e)
{
	_cleanup_strv_ struct strv stack = {};
	int r;

	if (p->drv_hashes.n > DRV_HASHES_MAX)
		place_forget_hashes(p);
	r = push_unknown(p, d, &stack, e);
	return r < 0 ? r : solve(p, &stack, e);
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
	r = know_inputs(p, &d, e);
	if (r == 0)
		r = drv_check(store_dir, &d, lookup, p, &h, e);
	if (r == 0)
		r = fill_rows(p, &d, a, reg, e);
	/* A hash is kept when the path vouches for it. */
	if (r == 0 && *reg->info.ca && cache_put(p, reg->info.path.base, &h) < 0)
		r = err_set(e, -ENOMEM, "out of memory");
	return r;
}
