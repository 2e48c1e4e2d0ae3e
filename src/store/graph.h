/* The whole reference graph in memory, for the garbage collector: one snapshot of the database,
 * read in slices so that a loop in between goes on, as arrays over dense node numbers.
 *
 * Nodes are the valid paths in the order of their row ids. Marking is a walk over arrays; who is
 * marked stays marked. Linked by the core. */
#pragma once

#include "store/db.h"

enum { GRAPH_NONE = UINT32_MAX };

struct graph_edges {
	uint32_t *
		first; /* n + 1 entries: the targets of v are to[first[v]] … to[first[v + 1] - 1] */
	uint32_t *to;
	size_t n, cap;
};

struct graph {
	uint32_t n;
	uint64_t *id;	    /* row ids, ascending */
	uint64_t *nar_size; /* bytes */
	uint32_t *hours;    /* since the epoch: when it was registered; the user may raise it */
	uint32_t *user;	    /* NULL, or who has used it (core/used.h) */
	uint32_t *name;	    /* offset of the base name in `names` */
	uint32_t *deriver;  /* the node of a valid deriver, or GRAPH_NONE */
	struct graph_edges refs;
	struct graph_edges outputs; /* of a .drv: its valid outputs; empty unless asked for */
	uint8_t *live;		    /* marked */
	/* the rest is graph.c's */
	char *names;
	size_t names_len, names_cap, cap;
	uint32_t *table, *stack, *by_id;
	size_t table_mask, n_stack, by_id_len;
	uint64_t seed;
	bool keep_derivers, keep_outputs;
	struct graph_load *load;
};

enum graph_flags {
	GRAPH_KEEP_DERIVERS = 1, /* a live path keeps the derivation that made it */
	GRAPH_KEEP_OUTPUTS = 2,	 /* a live derivation keeps its outputs */
};

/* Opens a snapshot of its own. 0 or -errno with a sentence. */
int graph_open(struct graph *g, const char *db_dir, const char *store_dir, unsigned int flags,
	       struct err *e);
enum { GRAPH_MORE = 1 };
/* Reads on until now_usec() reaches `until_usec`. GRAPH_MORE, 0 when all is there (the snapshot is
 * closed then), or -errno. */
int graph_load(struct graph *g, uint64_t until_usec);
void graph_done(struct graph *g); /* embedded; zeroed is fine */

static inline const char *graph_name(const struct graph *g, uint32_t v)
{
	return g->names + g->name[v];
}
/* GRAPH_NONE for a path that was not valid in the snapshot. */
uint32_t graph_find(const struct graph *g, const char *base);
uint32_t graph_find_id(const struct graph *g, uint64_t id); /* by the row's */
/* By the first 32 characters alone; nothing behind them is looked at. */
uint32_t graph_find_digest(const struct graph *g, const char *digest);
/* Marks the node; what it reaches is marked by graph_drain. GRAPH_NONE is fine. */
void graph_mark(struct graph *g, uint32_t v);
/* Walks on until the time, or (0) to the end. GRAPH_MORE or 0. */
int graph_drain(struct graph *g, uint64_t until_usec);
