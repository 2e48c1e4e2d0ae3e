/* See realise.h. */
#include "core/realise.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "core/core.h"
#include "core/place.h"
#include "core/sigcheck.h"
#include "core/spool.h"
#include "nar/nar.h"
#include "nar/tree.h"

enum { TEXT_MAX = 64 << 20, ROW_MEMORY = 1 << 20, DRV_MEMORY = 512 << 20 };

bool has_feature(const struct core *core, const char *feature)
{
	return strv_has(&core->settings.experimental_features, feature);
}

int feature_missing(struct err *e, int code, const char *feature, const char *why)
{
	return err_set(e, code,
		       "experimental Nix feature '%s' is disabled%s%s%s; add "
		       "'--extra-experimental-features %s' to enable it",
		       feature, why ? " (" : "", why ? why : "", why ? ")" : "", feature);
}

int read_drv(struct core *core, const struct store_path *path, struct arena *a, struct drv *ret,
	     struct err *e)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = place_read_drv(core, path, &text, &len, e);

	if (r)
		return r < 0 || r == DB_ABSENT ? r : DB_BAD;
	r = drv_parse(core->store_dir, path, text, len, a, ret, e);
	return r > 0 ? DB_BAD : r;
}

static int add(struct strv *list, struct arena *a, const char *text)
{
	return strv_add_arena(list, a, arena_strdup(a, text));
}

/* Outputs whose paths are not in the .drv. */
static int look_up(struct core *core, const struct drv *d, struct arena *a, struct strv *ret_names,
		   struct strv *ret_paths, struct err *e)
{
	bool known = d->kind != DRV_IMPURE && db_has_realisations(core->db) &&
		     has_feature(core, "ca-derivations");
	uint8_t hash[32];
	int r = known ? place_drv_hash(core->place, d, hash, e) : 0;

	if (r)
		return r < 0 ? r : DB_BAD;
	for (size_t i = 0; i < d->outputs.n; i++) {
		struct realisation row;

		r = known ? db_realisation(core->db, hash, d->outputs.v[i].name, a, &row)
			  : DB_ABSENT;
		if (r < 0)
			return err_errno(e, r, "reading the realisations of '%s'", d->name);
		if (add(ret_names, a, d->outputs.v[i].name) < 0 ||
		    add(ret_paths, a, r == 0 ? row.path.base : "") < 0)
			return err_errno(e, -ENOMEM, "reading the realisations of '%s'", d->name);
	}
	return 0;
}

int realise_drv_outputs(struct core *core, const struct drv *d, struct arena *a,
			struct strv *ret_names, struct strv *ret_paths, struct err *e)
{
	if (d->kind != DRV_INPUT_ADDRESSED && d->kind != DRV_FIXED)
		return look_up(core, d, a, ret_names, ret_paths, e);
	for (size_t i = 0; i < d->outputs.n; i++) {
		struct store_path p;
		int r = store_path_parse(core->store_dir, d->outputs.v[i].path, &p, e);

		if (r)
			return r;
		if (add(ret_names, a, d->outputs.v[i].name) < 0 || add(ret_paths, a, p.base) < 0)
			return err_errno(e, -ENOMEM, "reading the outputs of '%s'", d->name);
	}
	return 0;
}

int realise_outputs(struct core *core, const struct store_path *path, const struct drv *d,
		    struct arena *a, struct strv *ret_names, struct strv *ret_paths, struct err *e)
{
	_cleanup_arena_ struct arena tmp = ARENA_INIT(DRV_MEMORY);
	struct drv own;
	int r = db_drv_outputs(core->db, path, a, ret_names, ret_paths);

	if (r < 0)
		return err_errno(e, r, "reading the outputs of '%s/%s'", core->store_dir,
				 path->base);
	if (r == DB_ABSENT)
		return err_set(e, r, "path '%s/%s' is not valid", core->store_dir, path->base);
	if (ret_names->n)
		return 0;
	if (!d) {
		r = read_drv(core, path, &tmp, &own, e);
		if (r)
			return r;
		d = &own;
	}
	return look_up(core, d, a, ret_names, ret_paths, e);
}

/* What is signed: upstream's JSON, without blanks, keys in order. Nothing in it needs an escape. */
static char *fingerprint(struct arena *a, const struct realisation *row)
{
	char hex[64 + 1];

	base16_encode(row->drv_hash, 32, hex);
	return arena_printf(a,
			    "{\"dependentRealisations\":{},\"id\":\"sha256:%s!%s\","
			    "\"outPath\":\"%s\"}",
			    hex, row->output, row->path.base);
}

/* Is the output recorded with another path that is still there? */
static bool is_taken(struct core *core, const struct realisation *row, struct arena *a)
{
	struct realisation old;

	return db_realisation(core->db, row->drv_hash, row->output, a, &old) == 0 &&
	       strcmp(old.path.base, row->path.base) != 0;
}

static int write_all(struct core *core, const uint8_t hash[32], const struct drv_row *v, size_t n,
		     struct arena *a, struct err *e)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++) {
		struct realisation row = { .output = v[i].output };
		char *text;

		memcpy(row.drv_hash, hash, sizeof(row.drv_hash));
		r = store_path_parse_base(v[i].path, &row.path, e);
		if (r || is_taken(core, &row, a))
			continue;
		text = fingerprint(a, &row);
		r = text ? keyring_sign_text(core->keyring, text, a, &row.sigs) : -ENOMEM;
		if (r < 0)
			return err_errno(e, r, "signing a realisation");
		r = db_register_realisation(core->db, &row, e);
	}
	return r;
}

int realise_register(struct core *core, const struct drv *d, const struct drv_row *v, size_t n,
		     struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(ROW_MEMORY + n * 4096);
	uint8_t hash[32];
	int r;

	if (d->kind == DRV_IMPURE || !has_feature(core, "ca-derivations"))
		return 0;
	place_flush(core->place);
	r = place_drv_hash(core->place, d, hash, e);
	if (r)
		return r;
	r = db_begin(core->db);
	if (r < 0)
		return err_errno(e, r, "starting a transaction in the store database");
	r = write_all(core, hash, v, n, &a, e);
	if (r) {
		db_rollback(core->db);
		return r;
	}
	r = db_commit(core->db);
	return r < 0 ? err_errno(e, r, "committing in the store database") : 0;
}

int realise_add(struct core *core, struct realisation *row, bool trusted, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(ROW_MEMORY);
	char *text;

	if (!has_feature(core, "ca-derivations"))
		return feature_missing(e, DB_BAD, "ca-derivations", NULL);
	text = fingerprint(&a, row);
	if (!text)
		return err_errno(e, -ENOMEM, "registering a realisation");
	if (!trusted && core->settings.require_sigs &&
	    !keyring_verify_text(core->keyring, text, &row->sigs))
		return err_set(e, DB_BAD,
			       "cannot register realisation '%s' because it lacks a signature by a "
			       "trusted key",
			       row->path.base);
	place_flush(core->place); /* its path may have been added in this round */
	return db_register_realisation(core->db, row, e);
}

/* ---- a derivation of the daemon's own making ---- */

static int write_file(int dirfd, const struct buf *text)
{
	_cleanup_close_ int fd =
		openat(dirfd, "drv", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
	int r;

	if (fd < 0)
		return -errno;
	r = write_full(fd, text->data, text->len);
	return r < 0 ? r : tree_seal(dirfd, "drv");
}

static int fill_info(struct core *core, const struct store_path *path, const struct drv *d,
		     const struct buf *text, struct arena *a, struct path_info *ret)
{
	_cleanup_buf_ struct buf nar = BUF_INIT(2 * (size_t)TEXT_MAX);
	struct ca ca = { .method = CA_TEXT };
	size_t dir = strlen(core->store_dir) + 1;

	if (nar_put_begin(&nar) < 0 || nar_put_file_begin(&nar, false, text->len) < 0 ||
	    buf_append(&nar, text->data, text->len) < 0 || nar_put_file_end(&nar, text->len) < 0)
		return -ENOMEM;
	hash_buffer(HASH_SHA256, text->data, text->len, &ca.hash);
	*ret = (struct path_info){ .path = *path, .nar_size = nar.len, .ca = ca_print(a, &ca) };
	sha256(nar.data, nar.len, ret->nar_hash);
	ret->deriver = arena_strdup(a, "");
	for (size_t i = 0; i < d->srcs.n; i++)
		if (add(&ret->refs, a, d->srcs.v[i] + dir) < 0)
			return -ENOMEM;
	return ret->ca && ret->deriver ? 0 : -ENOMEM;
}

struct outcome {
	struct err *e;
	int r;
};

static void on_placed(void *ctx, const struct err *e)
{
	struct outcome *o = ctx;

	o->r = e ? err_set(o->e, e->code ? e->code : -EIO, "%s", err_msg(e)) : 0;
}

int realise_write_drv(struct core *core, const struct store_path *path, const struct drv *d,
		      const struct buf *text, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(DRV_MEMORY);
	_cleanup_free_ char *dir = NULL;
	_cleanup_close_ int fd = -1;
	struct staged s = { .name = "drv" };
	struct outcome o = { .e = e, .r = -EIO };
	int r = spool_make(core->spool, 'r', &dir, &fd);

	if (r < 0)
		return err_errno(e, r, "writing derivation '%s/%s'", core->store_dir, path->base);
	r = fill_info(core, path, d, text, &a, &s.info);
	if (r == 0)
		r = write_file(fd, text);
	if (r < 0) {
		err_errno(e, r, "writing derivation '%s/%s'", core->store_dir, path->base);
	} else {
		s.dirfd = fd;
		place_objects(core->place, &s, 1, on_placed, &o);
		place_flush(core->place);
		r = o.r;
	}
	spool_drop(core->spool, dir);
	return r;
}
