/* Vectors of strings and a map keyed by strings. */
#pragma once

#include <stdbool.h>

#include "base/arena.h"
#include "base/macro.h"

/* A list of strings. On the heap (strv_add, strv_done) or in an arena (strv_add_arena);
 * one list never mixes the two. */
struct strv {
	char **v;
	size_t n;
};

#define _cleanup_strv_ _cleanup_(strv_done)

void strv_done(struct strv *s);
int strv_add(struct strv *s, const char *str); /* 0 or -ENOMEM */
/* Adds `str` itself, no copy; the list grows by doubling inside the arena. 0 or -ENOMEM. */
int strv_add_arena(struct strv *s, struct arena *a, char *str);
void strv_sort(struct strv *s);
/* Sorts and drops duplicates (heap lists free the dropped strings when `heap`). */
void strv_sort_uniq(struct strv *s, bool heap);
bool strv_has(const struct strv *s, const char *str);	     /* linear */
bool strv_has_sorted(const struct strv *s, const char *str); /* binary search */

/* A hash map from strings to pointers. Keys are copied; values belong to the caller. The hash is
 * keyed with random bytes of this process, since clients choose the strings. */
struct smap {
	struct smap_entry *v;
	size_t n, used, cap; /* live entries, live and deleted entries, slots */
};

struct smap_entry {
	char *key; /* NULL: free; SMAP_DELETED: was used */
	uint64_t hash;
	void *value;
};

#define _cleanup_smap_ _cleanup_(smap_done)

void smap_done(struct smap *m); /* frees keys, not values */
void *smap_get(const struct smap *m, const char *key);
bool smap_has(const struct smap *m, const char *key);
/* Sets or replaces. 0 or -ENOMEM. */
int smap_put(struct smap *m, const char *key, void *value);
/* Removes and returns the value, or NULL. */
void *smap_remove(struct smap *m, const char *key);
/* Walks the live entries in no order: `for (size_t i = 0; (e = smap_next(m, &i));)`.
 * Removing the entry just returned is allowed; adding is not. */
struct smap_entry *smap_next(const struct smap *m, size_t *i);
