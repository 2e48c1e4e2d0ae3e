/* airplant-fetch: the builders builtin:fetchurl and builtin:unpack-channel (feature rows C20, C21).
 *
 * It reads what the network and an archive hold, so it runs where a foreign builder would: as the
 * build's id, in its sandbox, behind its filter. What it is to do comes as arguments name=value
 * from the daemon; nothing of the derivation reaches its environment but the proxies. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

enum { FETCH_FAILED = 1 /* with a sentence */ };

struct fetch {
	const char *url, *out;	 /* `out`: absolute path, does not exist */
	const char *mirrors;	 /* separated by spaces; each complete but for the hash */
	const char *mirror_hash; /* "sha256/<base 16>"; NULL: mirrors cannot have it */
	const char *ca_file;	 /* certificates; NULL: the library's own */
	const char *netrc;	 /* NULL: none */
	const char *user_agent;
	bool unpack, executable;
	uint64_t connect_timeout, stalled_timeout; /* seconds; 0: the library's own, never */
	uint64_t attempts;
};

/* download.c. 0, or FETCH_FAILED. */
int fetch_url(const struct fetch *f, struct err *e);

/* unpack.c: the one directory in archive `src` becomes <out>/<channel>. 0, or FETCH_FAILED. */
int unpack_channel(const char *src, const char *channel, const char *out, struct err *e);
