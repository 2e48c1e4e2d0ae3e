/* The closure over references, with an explicit stack: the graph is as deep as clients like.
 * Edges are followed by row id, so that each path's text is read once. */
#include "store/internal.h"

#include <errno.h>
#include <string.h>

/* A set of row ids, and in `order` the ids as they came: the worklist. 0 is no row id. */
struct id_set {
	uint64_t *slot, *order;
	size_t n, cap;
};

static void id_set_done(struct id_set *s)
{
	free(s->slot);
	free(s->order);
}

static size_t slot_of(const struct id_set *s, uint64_t id)
{
	size_t i = (id * 0x9e3779b97f4a7c15ULL) >> 20;

	for (i &= s->cap - 1; s->slot[i] && s->slot[i] != id; i = (i + 1) & (s->cap - 1))
		;
	return i;
}

static int id_set_grow(struct id_set *s)
{
	struct id_set bigger = { .cap = s->cap ? s->cap * 2 : 256 };

	bigger.slot = calloc(bigger.cap, sizeof(*bigger.slot));
	bigger.order = reallocarray(s->order, bigger.cap, sizeof(*bigger.order));
	if (bigger.order)
		s->order = bigger.order;
	if (!bigger.slot || !bigger.order) {
		free(bigger.slot);
		return -ENOMEM;
	}
	for (size_t i = 0; i < s->n; i++)
		bigger.slot[slot_of(&bigger, s->order[i])] = s->order[i];
	free(s->slot);
	s->slot = bigger.slot;
	s->cap = bigger.cap;
	return 0;
}

static int id_set_add(struct id_set *s, uint64_t id)
{
	size_t i;

	if (!id)
		return -EUCLEAN;
	if (s->n * 2 >= s->cap && id_set_grow(s) < 0)
		return -ENOMEM;
	i = slot_of(s, id);
	if (!s->slot[i]) {
		s->slot[i] = id;
		s->order[s->n++] = id;
	}
	return 0;
}

static int add_roots(struct db *db, const struct strv *roots, struct id_set *set,
		     struct store_path *ret_missing)
{
	for (size_t i = 0; i < roots->n; i++) {
		uint64_t id;
		int r = db_id_of(db, roots->v[i], &id);

		if (r == DB_ABSENT && ret_missing)
			memcpy(ret_missing->base, roots->v[i], strlen(roots->v[i]) + 1);
		if (!r)
			r = id_set_add(set, id);
		if (r)
			return r;
	}
	return 0;
}

static int add_references(struct db *db, uint64_t id, struct id_set *set)
{
	int r = 0;
	_cleanup_reset_ sqlite3_stmt *st = db_stmt(db, Q_REF_IDS, &r);

	if (!st)
		return r;
	sqlite3_bind_int64(st, 1, id);
	while ((r = db_step(st)) == 1) {
		r = id_set_add(set, sqlite3_column_int64(st, 0));
		if (r)
			return r;
	}
	return r;
}

static int add_name(struct db *db, uint64_t id, struct arena *a, struct strv *list)
{
	char *base;
	int r = db_name_of(db, id, a, &base);

	if (r == DB_ABSENT)
		return -EUCLEAN;
	return r ? r : strv_add_arena(list, a, base);
}

static int walk(struct db *db, const struct strv *roots, struct arena *a, struct strv *ret,
		struct store_path *ret_missing)
{
	_cleanup_(id_set_done) struct id_set set = { 0 };
	struct strv list = { 0 };
	int r = add_roots(db, roots, &set, ret_missing);

	for (size_t i = 0; !r && i < set.n; i++) {
		uint64_t id = set.order[i];

		r = add_references(db, id, &set);
		if (!r)
			r = add_name(db, id, a, &list);
	}
	if (r)
		return r;
	strv_sort(&list);
	*ret = list;
	return 0;
}

int db_closure(struct db *db, const struct strv *roots, struct arena *a, struct strv *ret,
	       struct store_path *ret_missing)
{
	/* One snapshot for the whole walk: else a deletion in between would look like damage. */
	bool own = !db->in_snapshot && !db->in_txn;
	int r = own ? db_read_begin(db) : 0;

	if (!r)
		r = walk(db, roots, a, ret, ret_missing);
	if (own)
		db_read_end(db);
	return r;
}
