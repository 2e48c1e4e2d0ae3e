/* What one request may hold, one table. A request beyond it costs the client its connection.
 *
 * Streams (NARs, files, logs) have no limit here: they pass through fixed buffers. */
#pragma once

enum {
	WIRE_STR_MAX = 64 << 20,      /* bytes of any string without a tighter row */
	WIRE_PATH_MAX = 4096,	      /* a file name, store path or derived path with few outputs */
	WIRE_TARGET_MAX = 64 << 10,   /* a derived path with its outputs */
	WIRE_NAME_MAX = 4096,	      /* names of settings, methods, objects: checked further on */
	WIRE_SIG_MAX = 4096,	      /* one signature */
	WIRE_TEXT_MAX = 64 << 20,     /* op 8's text, that came as one string */
	WIRE_LIST_MAX = 4 << 20,      /* items of a list */
	WIRE_OUTPUTS_MAX = 64 << 10,  /* outputs of a derivation */
	WIRE_ENV_MAX = 1 << 20,	      /* environment variables of a derivation */
	WIRE_FEATURES_MAX = 256,      /* feature strings of a handshake */
	WIRE_OVERRIDES_MAX = 1024,    /* settings of op 19 */
	WIRE_REQUEST_MAX = 256 << 20, /* bytes of memory for one request and its answer's parts */
};
