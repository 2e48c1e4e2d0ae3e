/* The reference graph in memory. See graph.h. Linked by the core. */
#include "store/graph.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/macro.h"
#include "store/internal.h"

enum { ROWS_PER_LOOK = 512 }; /* between two looks at the clock */

enum load_stage { LOAD_NODES, LOAD_NAMES, LOAD_DERIVERS, LOAD_REFS, LOAD_OUTPUTS, LOAD_END };

struct graph_load {
	struct db *db;
	sqlite3_stmt *st;
	enum load_stage stage;
	uint32_t next;	   /* node: of LOAD_NAMES and LOAD_DERIVERS, and the last edge's source */
	uint32_t *deriver; /* offset of each node's deriver in `names`, or GRAPH_NONE */
};

static const char *const queries[LOAD_END] = {
	[LOAD_NODES] =
		"select id, path, narSize, deriver, registrationTime from ValidPaths order by id",
	[LOAD_REFS] = "select referrer, reference from Refs order by referrer, reference",
	[LOAD_OUTPUTS] = "select drv, path from DerivationOutputs order by drv",
};

static void load_free(struct graph_load *l)
{
	if (!l)
		return;
	sqlite3_finalize(l->st);
	if (l->db) {
		db_read_end(l->db);
		db_close(l->db);
	}
	free(l->deriver);
	free(l);
}

void graph_done(struct graph *g)
{
	load_free(g->load);
	free(g->id);
	free(g->nar_size);
	free(g->hours);
	free(g->user);
	free(g->name);
	free(g->deriver);
	free(g->refs.first);
	free(g->refs.to);
	free(g->outputs.first);
	free(g->outputs.to);
	free(g->live);
	free(g->names);
	free(g->table);
	free(g->stack);
	free(g->by_id);
	*g = (struct graph){};
}

int graph_open(struct graph *g, const char *db_dir, const char *store_dir, unsigned int flags,
	       struct err *e)
{
	int r;

	*g = (struct graph){ .keep_derivers = flags & GRAPH_KEEP_DERIVERS,
			     .keep_outputs = flags & GRAPH_KEEP_OUTPUTS };
	g->load = calloc(1, sizeof(*g->load));
	if (!g->load)
		return err_errno(e, -ENOMEM, "reading the graph of references");
	if (getrandom(&g->seed, sizeof(g->seed), 0) != sizeof(g->seed))
		return err_errno(e, -EIO, "reading the graph of references");
	r = db_open(db_dir, DB_READ, store_dir, false, &g->load->db, e);
	if (r == 0) {
		r = db_read_begin(g->load->db);
		if (r < 0)
			err_errno(e, r, "reading the graph of references");
	}
	if (r != 0)
		graph_done(g);
	return r > 0 ? -EUCLEAN : r;
}

/* ---- nodes ---- */

static int grow(void **v, size_t cap, size_t size)
{
	void *p = reallocarray(*v, cap, size);

	if (!p)
		return -ENOMEM;
	*v = p;
	return 0;
}

static int grow_nodes(struct graph *g)
{
	size_t cap = g->cap ? g->cap * 2 : 4096;
	int r;

	if (cap > GRAPH_NONE)
		return -E2BIG;
	r = grow((void **)&g->id, cap, sizeof(*g->id));
	if (r == 0)
		r = grow((void **)&g->nar_size, cap, sizeof(*g->nar_size));
	if (r == 0)
		r = grow((void **)&g->hours, cap, sizeof(*g->hours));
	if (r == 0)
		r = grow((void **)&g->name, cap, sizeof(*g->name));
	if (r == 0)
		r = grow((void **)&g->load->deriver, cap, sizeof(*g->load->deriver));
	if (r == 0)
		g->cap = cap;
	return r;
}

static int put_name(struct graph *g, const char *base, uint32_t *ret)
{
	size_t len = strlen(base) + 1;

	if (g->names_len + len > GRAPH_NONE)
		return -E2BIG;
	if (g->names_len + len > g->names_cap) {
		size_t cap = g->names_cap ? g->names_cap * 2 : 1 << 18;
		int r = grow((void **)&g->names, cap, 1);

		if (r < 0)
			return r;
		g->names_cap = cap;
	}
	memcpy(g->names + g->names_len, base, len);
	*ret = (uint32_t)g->names_len;
	g->names_len += len;
	return 0;
}

static uint32_t to_hours(int64_t seconds)
{
	int64_t hours = seconds / 3600;

	return hours < 0 ? 0 : hours > UINT32_MAX ? UINT32_MAX : (uint32_t)hours;
}

static int node_row(struct graph *g)
{
	struct graph_load *l = g->load;
	const char *base = db_base_of(l->db, (const char *)sqlite3_column_text(l->st, 1));
	const char *deriver;
	int r = base ? 0 : -EUCLEAN;

	if (r == 0 && g->n == g->cap)
		r = grow_nodes(g);
	if (r == 0)
		r = put_name(g, base, &g->name[g->n]);
	if (r < 0)
		return r;
	g->id[g->n] = (uint64_t)sqlite3_column_int64(l->st, 0);
	g->nar_size[g->n] = (uint64_t)sqlite3_column_int64(l->st, 2);
	g->hours[g->n] = to_hours(sqlite3_column_int64(l->st, 4));
	l->deriver[g->n] = GRAPH_NONE;
	deriver = g->keep_derivers ? db_base_of(l->db, (const char *)sqlite3_column_text(l->st, 3))
				   : NULL;
	if (deriver)
		r = put_name(g, deriver, &l->deriver[g->n]);
	g->n++;
	return r;
}

/* ---- finding a node by its name or its row id ---- */

static uint64_t hash_name(const struct graph *g, const char *base)
{
	uint64_t h = g->seed ^ 0x9e3779b97f4a7c15ULL;

	/* The digest is 32 characters, and part of each base name that gets here. */
	for (size_t i = 0; i < STORE_DIGEST_LEN / 8; i++) {
		uint64_t word;

		memcpy(&word, base + 8 * i, sizeof(word));
		h = (h ^ word) * 0xff51afd7ed558ccdULL;
		h ^= h >> 32;
	}
	return h;
}

uint32_t graph_find(const struct graph *g, const char *base)
{
	if (!g->table || strnlen(base, STORE_DIGEST_LEN) < STORE_DIGEST_LEN)
		return GRAPH_NONE;
	for (size_t i = hash_name(g, base) & g->table_mask;; i = (i + 1) & g->table_mask) {
		uint32_t v = g->table[i];

		if (v == GRAPH_NONE || !strcmp(graph_name(g, v), base))
			return v;
	}
}

uint32_t graph_find_digest(const struct graph *g, const char *digest)
{
	if (!g->table)
		return GRAPH_NONE;
	for (size_t i = hash_name(g, digest) & g->table_mask;; i = (i + 1) & g->table_mask) {
		uint32_t v = g->table[i];

		if (v == GRAPH_NONE || !memcmp(graph_name(g, v), digest, STORE_DIGEST_LEN))
			return v;
	}
}

/* After all nodes: what else is as long as they are. */
static int make_tables(struct graph *g)
{
	size_t slots = 1024, n = g->n ? g->n : 1;
	uint64_t max_id = g->n ? g->id[g->n - 1] : 0;

	while (slots < 2 * n)
		slots *= 2;
	g->table_mask = slots - 1;
	g->table = reallocarray(NULL, slots, sizeof(*g->table));
	g->live = calloc(n, 1);
	g->stack = reallocarray(NULL, n, sizeof(*g->stack));
	g->deriver = reallocarray(NULL, n, sizeof(*g->deriver));
	g->refs.first = calloc(n + 1, sizeof(*g->refs.first));
	g->outputs.first = calloc(n + 1, sizeof(*g->outputs.first));
	/* Row ids are given in turn and never twice: after years few of them are left. */
	if (max_id < 16 * n + (1 << 20)) {
		g->by_id_len = max_id + 1;
		g->by_id = reallocarray(NULL, g->by_id_len, sizeof(*g->by_id));
	}
	if (!g->table || !g->live || !g->stack || !g->deriver || !g->refs.first ||
	    !g->outputs.first || (g->by_id_len && !g->by_id))
		return -ENOMEM;
	memset(g->table, 0xff, slots * sizeof(*g->table));
	if (g->by_id)
		memset(g->by_id, 0xff, g->by_id_len * sizeof(*g->by_id));
	return 0;
}

static void put_in_tables(struct graph *g, uint32_t v)
{
	size_t i = hash_name(g, graph_name(g, v)) & g->table_mask;

	while (g->table[i] != GRAPH_NONE)
		i = (i + 1) & g->table_mask;
	g->table[i] = v;
	if (g->by_id)
		g->by_id[g->id[v]] = v;
}

uint32_t graph_find_id(const struct graph *g, uint64_t id)
{
	uint32_t low = 0, high = g->n;

	if (g->by_id)
		return id < g->by_id_len ? g->by_id[id] : GRAPH_NONE;
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (g->id[mid] < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < g->n && g->id[low] == id ? low : GRAPH_NONE;
}

/* ---- edges ---- */

/* Sources come in ascending order. */
static int put_edge(struct graph *g, struct graph_edges *s, uint32_t from, uint32_t to)
{
	while (g->load->next < from)
		s->first[++g->load->next] = (uint32_t)s->n;
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 1 << 14;
		int r = cap > GRAPH_NONE ? -E2BIG : grow((void **)&s->to, cap, sizeof(*s->to));

		if (r < 0)
			return r;
		s->cap = cap;
	}
	s->to[s->n++] = to;
	return 0;
}

static void end_edges(struct graph *g, struct graph_edges *s)
{
	while (g->load->next < g->n)
		s->first[++g->load->next] = (uint32_t)s->n;
}

static int ref_row(struct graph *g)
{
	sqlite3_stmt *st = g->load->st;
	uint32_t from = graph_find_id(g, (uint64_t)sqlite3_column_int64(st, 0));
	uint32_t to = graph_find_id(g, (uint64_t)sqlite3_column_int64(st, 1));

	/* A foreign key says that both are there; a database without it is not to be trusted. */
	if (from == GRAPH_NONE || to == GRAPH_NONE)
		return -EUCLEAN;
	return from == to ? 0 : put_edge(g, &g->refs, from, to);
}

static int output_row(struct graph *g)
{
	sqlite3_stmt *st = g->load->st;
	uint32_t from = graph_find_id(g, (uint64_t)sqlite3_column_int64(st, 0)), to;
	const char *base = db_base_of(g->load->db, (const char *)sqlite3_column_text(st, 1));

	to = base ? graph_find(g, base) : GRAPH_NONE;
	if (from == GRAPH_NONE || to == GRAPH_NONE)
		return 0; /* an output that is not there */
	return put_edge(g, &g->outputs, from, to);
}

/* ---- reading, stage by stage ---- */

static int read_rows(struct graph *g, uint64_t until_usec, int (*row)(struct graph *g))
{
	struct graph_load *l = g->load;
	int r = 0;

	if (!l->st) {
		int rc = sqlite3_prepare_v2(l->db->sql, queries[l->stage], -1, &l->st, NULL);

		if (rc != SQLITE_OK)
			return db_errno(rc);
	}
	for (unsigned int i = 0; (r = db_step(l->st)) == 1;) {
		r = row(g);
		if (r < 0)
			return r;
		if (++i % ROWS_PER_LOOK == 0 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	if (r < 0)
		return r;
	sqlite3_finalize(l->st);
	l->st = NULL;
	return 0;
}

static int each_node(struct graph *g, uint64_t until_usec, void (*fn)(struct graph *g, uint32_t v))
{
	struct graph_load *l = g->load;

	while (l->next < g->n) {
		fn(g, l->next++);
		if (l->next % ROWS_PER_LOOK == 0 && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	l->next = 0;
	return 0;
}

static void find_deriver(struct graph *g, uint32_t v)
{
	uint32_t at = g->load->deriver[v];

	g->deriver[v] = at == GRAPH_NONE ? GRAPH_NONE : graph_find(g, g->names + at);
}

static int read_stage(struct graph *g, uint64_t until_usec)
{
	int r;

	switch (g->load->stage) {
	case LOAD_NODES:
		r = read_rows(g, until_usec, node_row);
		return r == 0 ? make_tables(g) : r;
	case LOAD_NAMES:
		return each_node(g, until_usec, put_in_tables);
	case LOAD_DERIVERS:
		return each_node(g, until_usec, find_deriver);
	case LOAD_REFS:
		r = read_rows(g, until_usec, ref_row);
		if (r == 0) {
			end_edges(g, &g->refs);
			g->load->next = 0;
		}
		return r;
	default:
		r = g->keep_outputs ? read_rows(g, until_usec, output_row) : 0;
		if (r == 0)
			end_edges(g, &g->outputs);
		return r;
	}
}

int graph_load(struct graph *g, uint64_t until_usec)
{
	while (g->load->stage < LOAD_END) {
		int r = read_stage(g, until_usec);

		if (r != 0)
			return r;
		g->load->stage++;
		if (now_usec() >= until_usec && g->load->stage < LOAD_END)
			return GRAPH_MORE;
	}
	load_free(g->load);
	g->load = NULL;
	return 0;
}

/* ---- marking ---- */

void graph_mark(struct graph *g, uint32_t v)
{
	if (v == GRAPH_NONE || g->live[v])
		return;
	g->live[v] = 1;
	g->stack[g->n_stack++] = v; /* each node once: there is room */
}

static void mark_edges(struct graph *g, const struct graph_edges *s, uint32_t v)
{
	for (uint32_t i = s->first[v]; i < s->first[v + 1]; i++)
		graph_mark(g, s->to[i]);
}

int graph_drain(struct graph *g, uint64_t until_usec)
{
	for (unsigned int i = 0; g->n_stack > 0;) {
		uint32_t v = g->stack[--g->n_stack];

		mark_edges(g, &g->refs, v);
		if (g->keep_outputs)
			mark_edges(g, &g->outputs, v);
		if (g->keep_derivers)
			graph_mark(g, g->deriver[v]);
		if (++i % ROWS_PER_LOOK == 0 && until_usec && now_usec() >= until_usec)
			return GRAPH_MORE;
	}
	return 0;
}
