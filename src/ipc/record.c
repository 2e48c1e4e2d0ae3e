/* See record.h. */
#include "ipc/record.h"

#include <errno.h>
#include <string.h>

struct list {
	void *v;
	size_t n;
};

static int put_u32(struct buf *b, size_t v)
{
	uint32_t le = (uint32_t)v;

	if (v > UINT32_MAX)
		return -E2BIG;
	return buf_append(b, &le, sizeof(le)); /* both ends are on one machine: host order */
}

static int put_str(struct buf *b, const char *s)
{
	size_t len = s ? strlen(s) : 0;
	int r = put_u32(b, len);

	return r < 0 ? r : buf_append(b, s ? s : "", len + 1);
}

static int put_field(const struct field *f, const void *record, struct buf *b)
{
	const uint8_t *p = (const uint8_t *)record + f->offset;
	int r;

	switch (f->kind) {
	case FIELD_U64:
		return buf_append(b, p, 8);
	case FIELD_HASH:
		return buf_append(b, p, 32);
	case FIELD_STR:
		return put_str(b, *(char *const *)p);
	case FIELD_BYTES: {
		const struct bytes *v = (const void *)p;

		r = put_u32(b, v->n);
		return r < 0 ? r : buf_append(b, v->v, v->n);
	}
	case FIELD_STRV: {
		const struct strv *v = (const void *)p;

		r = put_u32(b, v->n);
		for (size_t i = 0; r == 0 && i < v->n; i++)
			r = put_str(b, v->v[i]);
		return r;
	}
	case FIELD_LIST: {
		const struct list *v = (const void *)p;

		r = put_u32(b, v->n);
		for (size_t i = 0; r == 0 && i < v->n; i++)
			r = record_encode(f->sub, (const uint8_t *)v->v + i * f->sub->size, b);
		return r;
	}
	}
	return -EINVAL;
}

int record_encode(const struct layout *l, const void *record, struct buf *b)
{
	for (size_t i = 0; i < l->n_fields; i++) {
		int r = put_field(&l->fields[i], record, b);

		if (r < 0)
			return r;
	}
	return 0;
}

struct reader {
	const uint8_t *p;
	size_t left;
	struct arena *arena;
};

static int take(struct reader *r, size_t n, const uint8_t **ret)
{
	if (n > r->left)
		return RECORD_BAD;
	*ret = r->p;
	r->p += n;
	r->left -= n;
	return 0;
}

static int get_u32(struct reader *r, size_t *ret)
{
	const uint8_t *p;
	uint32_t v;

	if (take(r, sizeof(v), &p))
		return RECORD_BAD;
	memcpy(&v, p, sizeof(v));
	*ret = v;
	return 0;
}

static int get_str(struct reader *r, char **ret)
{
	const uint8_t *p;
	size_t len;

	if (get_u32(r, &len) || len >= r->left || take(r, len + 1, &p))
		return RECORD_BAD;
	if (p[len] != 0 || memchr(p, 0, len))
		return RECORD_BAD;
	*ret = arena_strndup(r->arena, p, len);
	return *ret ? 0 : RECORD_BAD;
}

static int get_record(const struct layout *l, struct reader *r, void *ret);

/* The least room one element of a list can take: a count beyond what is left is refused before
 * anything is allocated for it. */
static size_t least_size(const struct layout *l)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n_fields; i++)
		n += l->fields[i].kind == FIELD_U64    ? 8
		     : l->fields[i].kind == FIELD_HASH ? 32
		     : l->fields[i].kind == FIELD_STR  ? 5
						       : 4;
	return n;
}

static int get_field(const struct field *f, struct reader *r, void *record)
{
	uint8_t *out = (uint8_t *)record + f->offset;
	const uint8_t *p;
	size_t n;

	switch (f->kind) {
	case FIELD_U64:
		if (take(r, 8, &p))
			return RECORD_BAD;
		memcpy(out, p, 8);
		return 0;
	case FIELD_HASH:
		if (take(r, 32, &p))
			return RECORD_BAD;
		memcpy(out, p, 32);
		return 0;
	case FIELD_STR:
		return get_str(r, (char **)out);
	case FIELD_BYTES: {
		struct bytes *v = (void *)out;

		if (get_u32(r, &n) || take(r, n, &p))
			return RECORD_BAD;
		v->v = arena_dup(r->arena, p, n);
		v->n = n;
		return v->v ? 0 : RECORD_BAD;
	}
	case FIELD_STRV: {
		struct strv *v = (void *)out;

		if (get_u32(r, &n) || n > r->left / 5)
			return RECORD_BAD;
		v->v = arena_array(r->arena, n, sizeof(char *));
		if (!v->v)
			return RECORD_BAD;
		for (v->n = 0; v->n < n; v->n++)
			if (get_str(r, &v->v[v->n]))
				return RECORD_BAD;
		return 0;
	}
	case FIELD_LIST: {
		struct list *v = (void *)out;

		if (get_u32(r, &n) || n > r->left / least_size(f->sub))
			return RECORD_BAD;
		v->v = arena_array(r->arena, n, f->sub->size);
		if (!v->v)
			return RECORD_BAD;
		for (v->n = 0; v->n < n; v->n++)
			if (get_record(f->sub, r, (uint8_t *)v->v + v->n * f->sub->size))
				return RECORD_BAD;
		return 0;
	}
	}
	return RECORD_BAD;
}

static int get_record(const struct layout *l, struct reader *r, void *ret)
{
	for (size_t i = 0; i < l->n_fields; i++)
		if (get_field(&l->fields[i], r, ret))
			return RECORD_BAD;
	return 0;
}

int record_decode(const struct layout *l, const uint8_t *data, size_t len, struct arena *a,
		  void *ret)
{
	struct reader r = { .p = data, .left = len, .arena = a };

	memset(ret, 0, l->size);
	if (get_record(l, &r, ret) || r.left)
		return RECORD_BAD;
	return 0;
}
