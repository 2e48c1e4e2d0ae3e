/* See tree_links.h. */
#include "nar/tree_links.h"

#include <errno.h>

void tree_links_done(struct tree_links *t)
{
	for (size_t i = 0; i < t->n_slots; i++)
		free(t->slots[i].path);
	free(t->slots);
	*t = (struct tree_links){ 0 };
}

static struct tree_link *slot_of(struct tree_link *slots, size_t n_slots, dev_t dev, ino_t ino)
{
	uint64_t h = ((uint64_t)ino ^ (uint64_t)dev << 40) * 0x9e3779b97f4a7c15ULL;
	size_t i = (size_t)(h >> 20) & (n_slots - 1);

	while (slots[i].path && (slots[i].ino != ino || slots[i].dev != dev))
		i = (i + 1) & (n_slots - 1);
	return &slots[i];
}

static int grow(struct tree_links *t)
{
	size_t n_slots = t->n_slots ? t->n_slots * 2 : 64;
	struct tree_link *slots = calloc(n_slots, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < t->n_slots; i++)
		if (t->slots[i].path)
			*slot_of(slots, n_slots, t->slots[i].dev, t->slots[i].ino) = t->slots[i];
	free(t->slots);
	t->slots = slots;
	t->n_slots = n_slots;
	return 0;
}

struct tree_link *tree_links_get(const struct tree_links *t, const struct stat *st)
{
	struct tree_link *l;

	if (!t->n_slots)
		return NULL;
	l = slot_of(t->slots, t->n_slots, st->st_dev, st->st_ino);
	return l->path ? l : NULL;
}

int tree_links_count(struct tree_links *t, const struct stat *st, char *path)
{
	_cleanup_free_ char *owned = path;
	struct tree_link *l = tree_links_get(t, st);

	if (l) {
		l->seen++;
		return 0;
	}
	if (!path || (t->n * 2 >= t->n_slots && grow(t) < 0))
		return -ENOMEM;
	l = slot_of(t->slots, t->n_slots, st->st_dev, st->st_ino);
	*l = (struct tree_link){ st->st_dev, st->st_ino, st->st_nlink, 1, false, TAKE_PTR(owned) };
	t->n++;
	return 0;
}

const struct tree_link *tree_links_leaking(const struct tree_links *t)
{
	for (size_t i = 0; i < t->n_slots; i++)
		if (t->slots[i].path && t->slots[i].seen != t->slots[i].nlink)
			return &t->slots[i];
	return NULL;
}
