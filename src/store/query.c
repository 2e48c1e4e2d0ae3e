/* Questions about single paths. Linked by the core and by sessions; writes nothing. */
#include "store/internal.h"

#include <errno.h>
#include <string.h>

int db_read_begin(struct db *db)
{
	int r;

	if (db->in_snapshot || db->in_txn)
		return -EALREADY;
	r = db_exec(db, T_BEGIN_READ);
	if (!r)
		db->in_snapshot = true;
	db->names_current = false;
	return r;
}

void db_read_end(struct db *db)
{
	if (!db->in_snapshot)
		return;
	db->in_snapshot = false;
	/* Nothing was written, so an error has no consequence but the lock, which rollback frees.
	 */
	if (db_exec(db, T_COMMIT) < 0)
		(void)db_exec(db, T_ROLLBACK);
}

int db_id_of(struct db *db, const char *base, uint64_t *ret)
{
	int r = db_names_find(db, base, ret);
	_cleanup_reset_ sqlite3_stmt *st = NULL;

	if (r != DB_ABSENT)
		return r;
	st = db_stmt(db, Q_ID, &r);
	if (!st)
		return r;
	r = db_bind_path(db, st, 1, 0, base);
	if (r)
		return r;
	r = db_step(st);
	if (r < 0)
		return r;
	if (!r)
		return DB_ABSENT;
	*ret = sqlite3_column_int64(st, 0);
	return 0;
}

int db_path_valid(struct db *db, const struct store_path *p)
{
	uint64_t id;

	return db_id_of(db, p->base, &id);
}

static const char *text_of(sqlite3_stmt *st, int column)
{
	return (const char *)sqlite3_column_text(st, column);
}

/* A column that may be NULL, as an arena text; "" for NULL. */
static int copy_text(sqlite3_stmt *st, int column, struct arena *a, char **ret)
{
	const char *s = text_of(st, column);

	*ret = arena_strdup(a, s ? s : "");
	return *ret ? 0 : -ENOMEM;
}

/* "sha256:" and 64 hex digits. */
static int parse_hash(const char *s, uint8_t ret[32])
{
	static const char head[] = "sha256:";
	const size_t head_len = sizeof(head) - 1;

	if (!s || strncmp(s, head, head_len))
		return -EUCLEAN;
	s += head_len;
	return base16_decode(s, strlen(s), ret, 32) ? -EUCLEAN : 0;
}

int db_split_words(const char *s, struct arena *a, struct strv *ret)
{
	while (s && *s) {
		size_t n = strcspn(s, " ");

		if (n && strv_add_arena(ret, a, arena_strndup(a, s, n)) < 0)
			return -ENOMEM;
		s += n + (s[n] == ' ');
	}
	return 0;
}

/* All base names in column 0 of a statement whose parameters are bound. */
static int collect_paths(struct db *db, sqlite3_stmt *st, struct arena *a, struct strv *ret)
{
	struct strv list = { 0 };
	int r;

	while ((r = db_step(st)) == 1) {
		const char *base = db_base_of(db, text_of(st, 0));

		if (!base)
			return -EUCLEAN;
		if (strv_add_arena(&list, a, arena_strdup(a, base)) < 0)
			return -ENOMEM;
	}
	if (r < 0)
		return r;
	*ret = list;
	return 0;
}

/* The names of all ids that a statement finds for one, sorted. */
static int names_of(struct db *db, enum db_stmt which, uint64_t id, struct arena *a,
		    struct strv *ret)
{
	int r = 0, more = 1;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, which, &r);
	struct strv list = { 0 };
	uint64_t ids[64];

	if (!st)
		return r;
	sqlite3_bind_int64(st, 1, id);
	while (r == 0 && more == 1) {
		size_t n = 0;

		while (n < ELEMENTS(ids) && (more = db_step(st)) == 1)
			ids[n++] = sqlite3_column_int64(st, 0);
		r = db_names_of_all(db, ids, n, a, &list);
	}
	if (r || more < 0)
		return r ? r : more;
	strv_sort(&list);
	*ret = list;
	return 0;
}

static int read_info_row(struct db *db, sqlite3_stmt *st, struct arena *a, struct path_info *info)
{
	const char *deriver = text_of(st, 3);
	int r;

	info->id = sqlite3_column_int64(st, 0);
	r = parse_hash(text_of(st, 1), info->nar_hash);
	if (r)
		return r;
	info->registration_time = sqlite3_column_int64(st, 2);
	if (deriver && *deriver) {
		deriver = db_base_of(db, deriver);
		if (!deriver)
			return -EUCLEAN;
	}
	info->deriver = arena_strdup(a, deriver ? deriver : "");
	if (!info->deriver)
		return -ENOMEM;
	info->nar_size = sqlite3_column_int64(st, 4);
	info->ultimate = sqlite3_column_int64(st, 5) == 1;
	r = db_split_words(text_of(st, 6), a, &info->sigs);
	return r ? r : copy_text(st, 7, a, &info->ca);
}

int db_path_info(struct db *db, const struct store_path *p, struct arena *a, struct path_info *ret)
{
	struct path_info info = { .path = *p };
	uint64_t id;
	int r = db_names_find(db, p->base, &id);
	bool known = r == 0;
	_cleanup_reset_ sqlite3_stmt *st = NULL;

	if (r < 0)
		return r;
	st = db_stmt(db, known ? Q_INFO_OF_ID : Q_INFO, &r);
	if (!st)
		return r;
	r = known ? db_errno(sqlite3_bind_int64(st, 1, id)) : db_bind_path(db, st, 1, 0, p->base);
	if (r)
		return r;
	r = db_step(st);
	if (r <= 0)
		return r ? r : DB_ABSENT;
	r = read_info_row(db, st, a, &info);
	/* The row's statement stays open meanwhile: row and references are of one snapshot. */
	if (!r)
		r = names_of(db, Q_REF_IDS, info.id, a, &info.refs);
	if (!r && !known)
		r = db_names_keep(db, info.id, p->base);
	if (!r)
		*ret = info;
	return r;
}

int db_referrers(struct db *db, const struct store_path *p, struct arena *a, struct strv *ret)
{
	uint64_t id;
	int r = db_id_of(db, p->base, &id);

	if (r == DB_ABSENT)
		*ret = (struct strv){ 0 };
	if (r)
		return r == DB_ABSENT ? 0 : r;
	r = names_of(db, Q_ID_REFERRERS, id, a, ret);
	return r ? r : db_names_keep(db, id, p->base);
}

int db_valid_derivers(struct db *db, const struct store_path *p, struct arena *a, struct strv *ret)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_DERIVERS, &r);

	if (!st)
		return r;
	r = db_bind_path(db, st, 1, 0, p->base);
	if (!r)
		r = collect_paths(db, st, a, ret);
	if (!r)
		strv_sort_uniq(ret, false);
	return r;
}

static int collect_outputs(struct db *db, uint64_t drv_id, struct arena *a, struct strv *ret_names,
			   struct strv *ret_paths)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_OUTPUTS, &r);
	struct strv names = { 0 }, paths = { 0 };

	if (!st)
		return r;
	sqlite3_bind_int64(st, 1, drv_id);
	while ((r = db_step(st)) == 1) {
		const char *name = text_of(st, 0), *base = db_base_of(db, text_of(st, 1));

		if (!name || !base)
			return -EUCLEAN;
		if (strv_add_arena(&names, a, arena_strdup(a, name)) < 0 ||
		    strv_add_arena(&paths, a, arena_strdup(a, base)) < 0)
			return -ENOMEM;
	}
	if (r < 0)
		return r;
	*ret_names = names;
	*ret_paths = paths;
	return 0;
}

int db_drv_outputs(struct db *db, const struct store_path *drv, struct arena *a,
		   struct strv *ret_names, struct strv *ret_paths)
{
	uint64_t id;
	int r = db_id_of(db, drv->base, &id);

	return r ? r : collect_outputs(db, id, a, ret_names, ret_paths);
}

int db_path_from_digest(struct db *db, const char *prefix, struct store_path *ret)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_DIGEST, &r);
	const char *base;

	if (!st)
		return r;
	if (strnlen(prefix, STORE_DIGEST_LEN + 1) != STORE_DIGEST_LEN)
		return DB_ABSENT;
	r = db_bind_path(db, st, 1, 0, prefix);
	if (r)
		return r;
	r = db_step(st);
	if (r <= 0)
		return r ? r : DB_ABSENT;
	base = db_base_of(db, text_of(st, 0));
	if (!base || strncmp(base, prefix, STORE_DIGEST_LEN))
		return DB_ABSENT;
	memcpy(ret->base, base, strlen(base) + 1);
	return 0;
}

int db_all_paths(struct db *db, struct arena *a, struct strv *ret)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_ALL, &r);

	return st ? collect_paths(db, st, a, ret) : r;
}

int db_paths_above(struct db *db, uint64_t id, struct arena *a, struct strv *ret)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_ABOVE, &r);

	if (!st)
		return r;
	sqlite3_bind_int64(st, 1, id);
	return collect_paths(db, st, a, ret);
}

int db_max_id(struct db *db, uint64_t *ret)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_MAX_ID, &r);

	if (!st)
		return r;
	r = db_step(st);
	if (r < 0)
		return r;
	*ret = r ? sqlite3_column_int64(st, 0) : 0; /* NULL of an empty table reads as 0 */
	return 0;
}
