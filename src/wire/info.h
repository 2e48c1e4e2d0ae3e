/* Path info as ops 7, 26, 39 and 44 carry it.
 *
 *   info  = deriver hash16 refs u64 time u64 size u64 ultimate sigs ca
 *   keyed = path info
 * Paths travel in full and become base names here. Pure. */
#pragma once

#include "path/path.h"
#include "wire/reader.h"
#include "wire/writer.h"

struct wire_info {
	struct store_path path; /* keyed form */
	char *deriver;		/* base name or "" */
	uint8_t nar_hash[32];
	struct strv refs; /* base names, sorted, each once */
	uint64_t registration_time, nar_size;
	bool ultimate;
	struct strv sigs;
	char *ca; /* checked by the receiver; "" */
};

int wire_path(struct wire_in *in, const char *store_dir, struct arena *a, struct store_path *ret);
/* A path, or "" for none. */
int wire_opt_path(struct wire_in *in, const char *store_dir, struct arena *a, char **ret_base);
/* A set of paths as sorted base names. */
int wire_paths(struct wire_in *in, const char *store_dir, struct arena *a, struct strv *ret);
/* Signatures: not empty, without blanks (the database separates them by blanks). */
int wire_sigs(struct wire_in *in, struct arena *a, struct strv *ret);
int wire_get_info(struct wire_in *in, const char *store_dir, struct arena *a,
		  struct wire_info *ret);
void wire_put_info(struct wire_out *out, const struct wire_info *info);
void wire_put_keyed_info(struct wire_out *out, const struct wire_info *info);
