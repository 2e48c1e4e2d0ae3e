/* Names of row ids, remembered by readers. Questions about references come back to the same few
 * paths again and again, and finding a row by its id costs more than all the rest of an answer.
 *
 * What is remembered holds for one state of the database: as soon as a snapshot shows that somebody
 * has committed, all of it is forgotten. The writer, whose own commits do not show so, remembers
 * nothing. Linked by the core and by sessions. */
#include "store/internal.h"

#include <errno.h>
#include <string.h>

enum { NAMES = 1 << 15 }; /* ids in a row have places of their own */

struct name {
	uint64_t id;
	uint32_t state, size; /* of `base`, with its end */
	char *base;
};

struct names {
	struct name by_id[NAMES];
	uint32_t by_digest[NAMES]; /* places in by_id, where a name may be that has this digest */
};

void db_names_done(struct db *db)
{
	for (size_t i = 0; db->names && i < NAMES; i++)
		free(db->names->by_id[i].base);
	free(db->names);
	db->names = NULL;
}

/* The snapshot's number, asked once in it. 0, or a negative errno. */
static int look_at_state(struct db *db)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = NULL;
	uint64_t version;

	if (db->names_current)
		return 0;
	st = db_stmt(db, Q_DATA_VERSION, &r);
	if (!st)
		return r;
	r = db_step(st);
	if (r <= 0)
		return r ? r : -EUCLEAN;
	version = sqlite3_column_int64(st, 0);
	if (version != db->data_version) {
		db->data_version = version;
		db->names_state++;
	}
	db->names_current = true;
	return 0;
}

/* In a table of the statement's; valid until the next call. 1: there is no such row. */
static int read_name(struct db *db, sqlite3_stmt *st, uint64_t id, const char **ret)
{
	int r;

	sqlite3_bind_int64(st, 1, id);
	r = db_step(st);
	if (r <= 0)
		return r ? r : DB_ABSENT;
	*ret = db_base_of(db, (const char *)sqlite3_column_text(st, 0));
	return *ret ? 0 : -EUCLEAN;
}

static struct name *place_of(struct db *db, uint64_t id)
{
	if (db->mode != DB_READ || !db->in_snapshot)
		return NULL;
	if (!db->names)
		db->names = calloc(1, sizeof(*db->names)); /* without it: slower */
	return db->names ? &db->names->by_id[id % NAMES] : NULL;
}

/* NULL: too short for a digest. */
static uint32_t *digest_place(struct names *names, const char *base)
{
	uint64_t v;

	if (strnlen(base, sizeof(v)) < sizeof(v))
		return NULL;
	memcpy(&v, base, sizeof(v));
	return &names->by_digest[(v * 0x9e3779b97f4a7c15ULL) >> 32 & (NAMES - 1)];
}

static bool knows(const struct db *db, const struct name *n, uint64_t id)
{
	return n && n->base && n->id == id && n->state == db->names_state;
}

static void keep(struct db *db, struct name *n, uint64_t id, const char *base, size_t size)
{
	uint32_t *place = digest_place(db->names, base);

	free(n->base);
	*n = (struct name){ id, db->names_state, (uint32_t)size, malloc(size) };
	if (n->base) /* else it is read again */
		memcpy(n->base, base, size);
	if (place)
		*place = (uint32_t)(n - db->names->by_id);
}

int db_names_keep(struct db *db, uint64_t id, const char *base)
{
	struct name *n = place_of(db, id);
	int r = n ? look_at_state(db) : 0;

	if (n && r == 0 && !knows(db, n, id))
		keep(db, n, id, base, strlen(base) + 1);
	return r;
}

int db_names_find(struct db *db, const char *base, uint64_t *ret)
{
	const struct name *n;
	uint32_t *place;
	int r;

	if (!db->names || db->mode != DB_READ || !db->in_snapshot)
		return DB_ABSENT;
	place = digest_place(db->names, base);
	r = look_at_state(db);
	if (r < 0)
		return r;
	n = place ? &db->names->by_id[*place] : NULL;
	if (!n || !knows(db, n, n->id) || strcmp(n->base, base))
		return DB_ABSENT;
	*ret = n->id;
	return 0;
}

static char *read_and_keep(struct db *db, uint64_t id, struct name *n, struct arena *a,
			   int *ret_err)
{
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_PATH_OF_ID, ret_err);
	const char *base = NULL;
	size_t size;

	if (st)
		*ret_err = read_name(db, st, id, &base);
	if (!base)
		return NULL;
	size = strlen(base) + 1;
	if (n)
		keep(db, n, id, base, size);
	return arena_dup(a, base, size);
}

int db_name_of(struct db *db, uint64_t id, struct arena *a, char **ret)
{
	struct name *n = place_of(db, id);
	int r = n ? look_at_state(db) : 0;

	if (r < 0)
		return r;
	*ret = knows(db, n, id) ? arena_dup(a, n->base, n->size) : read_and_keep(db, id, n, a, &r);
	return *ret ? 0 : r ? r : -ENOMEM;
}

/* The ids first: what is remembered of them lies anywhere in memory, and is fetched while the next
 * ones are looked for. */
int db_names_of_all(struct db *db, const uint64_t *ids, size_t n, struct arena *a, struct strv *ret)
{
	for (size_t i = 0; db->names && i < n; i++)
		__builtin_prefetch(&db->names->by_id[ids[i] % NAMES]);
	for (size_t i = 0; db->names && i < n; i++)
		__builtin_prefetch(db->names->by_id[ids[i] % NAMES].base);
	for (size_t i = 0; i < n; i++) {
		char *base;
		int r = db_name_of(db, ids[i], a, &base);

		if (r == DB_ABSENT)
			continue; /* an edge that leads nowhere is none */
		if (r || strv_add_arena(ret, a, base) < 0)
			return r ? r : -ENOMEM;
	}
	return 0;
}
