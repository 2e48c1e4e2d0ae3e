/* Path info: see info.h. */
#include "wire/info.h"

#include <string.h>

#include "hash/hash.h"
#include "wire/limits.h"

int wire_path(struct wire_in *in, const char *store_dir, struct arena *a, struct store_path *ret)
{
	char *full;

	int r = wire_str(in, a, WIRE_PATH_MAX, &full);
	if (r)
		return r;
	return store_path_parse(store_dir, full, ret, in->e) ? WIRE_BAD : 0;
}

int wire_opt_path(struct wire_in *in, const char *store_dir, struct arena *a, char **ret_base)
{
	struct store_path p;
	char *full;

	int r = wire_str(in, a, WIRE_PATH_MAX, &full);
	if (r)
		return r;
	if (!*full) {
		*ret_base = full;
		return 0;
	}
	if (store_path_parse(store_dir, full, &p, in->e))
		return WIRE_BAD;
	*ret_base = arena_strdup(a, p.base);
	return *ret_base ? 0 : err_set(in->e, WIRE_BAD, "the request is too large");
}

int wire_paths(struct wire_in *in, const char *store_dir, struct arena *a, struct strv *ret)
{
	struct strv list = {};

	int r = wire_strv(in, a, WIRE_LIST_MAX, WIRE_PATH_MAX, &list);
	if (r)
		return r;
	for (size_t i = 0; i < list.n; i++) {
		struct store_path p;
		if (store_path_parse(store_dir, list.v[i], &p, in->e))
			return WIRE_BAD;
		/* A base name fits where its full path stood. */
		memcpy(list.v[i], p.base, strlen(p.base) + 1);
	}
	strv_sort_uniq(&list, false);
	*ret = list;
	return 0;
}

static int get_hash(struct wire_in *in, struct arena *a, uint8_t ret[32])
{
	static const enum hash_algo algo = HASH_SHA256;
	struct hash h;
	char *text;

	int r = wire_str(in, a, WIRE_NAME_MAX, &text);
	if (r)
		return r;
	if (hash_parse(text, &algo, &h, in->e))
		return WIRE_BAD;
	if (h.algo != HASH_SHA256)
		return err_set(in->e, WIRE_BAD, "NAR hash '%s' is not a SHA-256 hash", text);
	memcpy(ret, h.bytes, 32);
	return 0;
}

int wire_sigs(struct wire_in *in, struct arena *a, struct strv *ret)
{
	struct strv list = {};

	int r = wire_strv(in, a, WIRE_LIST_MAX, WIRE_SIG_MAX, &list);
	if (r)
		return r;
	for (size_t i = 0; i < list.n; i++)
		if (!signature_has_form(list.v[i]))
			return err_set(in->e, WIRE_BAD, "signature '%s' is corrupt", list.v[i]);
	strv_sort_uniq(&list, false);
	*ret = list;
	return 0;
}

int wire_get_info(struct wire_in *in, const char *store_dir, struct arena *a, struct wire_info *ret)
{
	struct wire_info i = { .path = ret->path };

	int r = wire_opt_path(in, store_dir, a, &i.deriver);
	if (!r)
		r = get_hash(in, a, i.nar_hash);
	if (!r)
		r = wire_paths(in, store_dir, a, &i.refs);
	if (!r)
		r = wire_number(in, INT64_MAX, &i.registration_time);
	if (!r)
		r = wire_u64(in, &i.nar_size);
	if (!r)
		r = wire_bool(in, &i.ultimate);
	if (!r)
		r = wire_sigs(in, a, &i.sigs);
	if (!r)
		r = wire_str(in, a, WIRE_NAME_MAX, &i.ca);
	if (!r)
		*ret = i;
	return r;
}

void wire_put_info(struct wire_out *out, const struct wire_info *info)
{
	char hex[65];

	base16_encode(info->nar_hash, 32, hex);
	wire_put_path(out, info->deriver);
	wire_put_blob(out, hex, 64);
	wire_put_paths(out, &info->refs);
	wire_put_u64(out, info->registration_time);
	wire_put_u64(out, info->nar_size);
	wire_put_u64(out, info->ultimate);
	wire_put_strv(out, &info->sigs);
	wire_put_str(out, info->ca ? info->ca : "");
}

void wire_put_keyed_info(struct wire_out *out, const struct wire_info *info)
{
	wire_put_path(out, info->path.base);
	wire_put_info(out, info);
}
