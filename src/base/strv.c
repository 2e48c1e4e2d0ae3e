/* See strv.h. */
#include "base/strv.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

void strv_done(struct strv *s)
{
	for (size_t i = 0; i < s->n; i++)
		free(s->v[i]);
	free(s->v);
	s->v = NULL;
	s->n = 0;
}

/* Capacity is implied: always the power of two at or above n, at least 8. */
static bool is_full(size_t n)
{
	return n == 0 || (n >= 8 && (n & (n - 1)) == 0);
}

int strv_add(struct strv *s, const char *str)
{
	char *copy;

	if (is_full(s->n)) {
		char **v = reallocarray(s->v, s->n ? s->n * 2 : 8, sizeof(*v));

		if (!v)
			return -ENOMEM;
		s->v = v;
	}
	copy = strdup(str);
	if (!copy)
		return -ENOMEM;
	s->v[s->n++] = copy;
	return 0;
}

int strv_add_arena(struct strv *s, struct arena *a, char *str)
{
	if (!str)
		return -ENOMEM;
	if (is_full(s->n)) {
		char **v = arena_array(a, s->n ? s->n * 2 : 8, sizeof(*v));

		if (!v)
			return -ENOMEM;
		if (s->n)
			memcpy(v, s->v, s->n * sizeof(*v));
		s->v = v;
	}
	s->v[s->n++] = str;
	return 0;
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void strv_sort(struct strv *s)
{
	if (s->n > 1)
		qsort(s->v, s->n, sizeof(*s->v), compare);
}

void strv_sort_uniq(struct strv *s, bool heap)
{
	size_t out = 0;

	strv_sort(s);
	for (size_t i = 0; i < s->n; i++) {
		if (out && !strcmp(s->v[out - 1], s->v[i])) {
			if (heap)
				free(s->v[i]);
			continue;
		}
		s->v[out++] = s->v[i];
	}
	/* Capacity is implied by n, and n shrank: a vector at its old capacity is only larger than
	 * needed, and the next growth reallocates. */
	s->n = out;
}

bool strv_has(const struct strv *s, const char *str)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->v[i], str))
			return true;
	return false;
}

bool strv_has_sorted(const struct strv *s, const char *str)
{
	return s->n && bsearch(&str, s->v, s->n, sizeof(*s->v), compare);
}

static char deleted_mark;
#define SMAP_DELETED (&deleted_mark)

static inline uint64_t rotl(uint64_t x, int b)
{
	return (x << b) | (x >> (64 - b));
}

#define SIPROUND                                                                                   \
	do {                                                                                       \
		v0 += v1;                                                                          \
		v1 = rotl(v1, 13);                                                                 \
		v1 ^= v0;                                                                          \
		v0 = rotl(v0, 32);                                                                 \
		v2 += v3;                                                                          \
		v3 = rotl(v3, 16);                                                                 \
		v3 ^= v2;                                                                          \
		v0 += v3;                                                                          \
		v3 = rotl(v3, 21);                                                                 \
		v3 ^= v0;                                                                          \
		v2 += v1;                                                                          \
		v1 = rotl(v1, 17);                                                                 \
		v1 ^= v2;                                                                          \
		v2 = rotl(v2, 32);                                                                 \
	} while (0)

/* SipHash-1-3 (Aumasson and Bernstein). */
static uint64_t hash_string(const char *s)
{
	static uint64_t key[2];
	size_t len = strlen(s), left = len;
	uint64_t v0, v1, v2, v3, m;

	if (!key[0] && !key[1] && getrandom(key, sizeof(key), GRND_NONBLOCK) < 0)
		key[0] = 1; /* early boot: a fixed key is still a correct map */
	v0 = key[0] ^ 0x736f6d6570736575ULL;
	v1 = key[1] ^ 0x646f72616e646f6dULL;
	v2 = key[0] ^ 0x6c7967656e657261ULL;
	v3 = key[1] ^ 0x7465646279746573ULL;
	for (; left >= 8; left -= 8, s += 8) {
		memcpy(&m, s, 8);
		v3 ^= m;
		SIPROUND;
		v0 ^= m;
	}
	m = (uint64_t)len << 56;
	memcpy(&m, s, left);
	v3 ^= m;
	SIPROUND;
	v0 ^= m;
	v2 ^= 0xff;
	SIPROUND;
	SIPROUND;
	SIPROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}

static bool is_live(const struct smap_entry *e)
{
	return e->key && e->key != SMAP_DELETED;
}

void smap_done(struct smap *m)
{
	for (size_t i = 0; i < m->cap; i++)
		if (is_live(&m->v[i]))
			free(m->v[i].key);
	free(m->v);
	*m = (struct smap){};
}

static struct smap_entry *find(const struct smap *m, const char *key, uint64_t hash)
{
	if (!m->cap)
		return NULL;
	for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
		struct smap_entry *e = &m->v[i];

		if (!e->key)
			return NULL;
		if (is_live(e) && e->hash == hash && !strcmp(e->key, key))
			return e;
	}
}

void *smap_get(const struct smap *m, const char *key)
{
	struct smap_entry *e = m->n ? find(m, key, hash_string(key)) : NULL;

	return e ? e->value : NULL;
}

bool smap_has(const struct smap *m, const char *key)
{
	return m->n && find(m, key, hash_string(key));
}

static int rehash(struct smap *m)
{
	size_t cap = m->cap ? m->cap : 16;
	struct smap_entry *v;

	while (cap < (m->n + 1) * 2)
		cap *= 2;
	v = calloc(cap, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < m->cap; i++) {
		if (!is_live(&m->v[i]))
			continue;
		size_t j = m->v[i].hash & (cap - 1);

		while (v[j].key)
			j = (j + 1) & (cap - 1);
		v[j] = m->v[i];
	}
	free(m->v);
	m->v = v;
	m->cap = cap;
	m->used = m->n;
	return 0;
}

int smap_put(struct smap *m, const char *key, void *value)
{
	uint64_t hash = hash_string(key);
	struct smap_entry *e = find(m, key, hash);
	size_t i;
	char *copy;

	if (e) {
		e->value = value;
		return 0;
	}
	if (m->used + 1 > m->cap - m->cap / 4 && rehash(m) < 0)
		return -ENOMEM;
	copy = strdup(key);
	if (!copy)
		return -ENOMEM;
	for (i = hash & (m->cap - 1); is_live(&m->v[i]); i = (i + 1) & (m->cap - 1))
		;
	if (!m->v[i].key)
		m->used++;
	m->v[i] = (struct smap_entry){ .key = copy, .hash = hash, .value = value };
	m->n++;
	return 0;
}

void *smap_remove(struct smap *m, const char *key)
{
	struct smap_entry *e = m->n ? find(m, key, hash_string(key)) : NULL;
	void *value;

	if (!e)
		return NULL;
	value = e->value;
	free(e->key);
	e->key = SMAP_DELETED;
	e->value = NULL;
	m->n--;
	return value;
}

struct smap_entry *smap_next(const struct smap *m, size_t *i)
{
	while (*i < m->cap) {
		struct smap_entry *e = &m->v[(*i)++];

		if (is_live(e))
			return e;
	}
	return NULL;
}
