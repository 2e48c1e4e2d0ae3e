/* One client's session: its connection, its view of the store, its spool, and what it waits for.
 *
 * Everything in here may have been shaped by the client's bytes: the core checks each message.
 * Linked by airplant-session alone.
 *
 * Errors of the functions below: 0; a negative errno (ours or the machine's, with a sentence in `e`
 * where one is passed); OP_FAILED (the request was understood and failed); WIRE_BAD (the client
 * broke the protocol: told, then closed); WIRE_EOF (the client is gone: close in silence). */
#pragma once

#include "drv/closure.h"
#include "ipc/session.h"
#include "store/db.h"
#include "wire/frames.h"
#include "wire/info.h"
#include "wire/limits.h"
#include "wire/reader.h"

enum { OP_FAILED = 16 }; /* apart from WIRE_BAD and WIRE_EOF */

enum {
	IN_SIZE = 64 * 1024,		     /* input buffer, allocated when the client speaks */
	IDLE_MSEC = SESSION_IDLE_SEC * 1000, /* of silence, then memory is given back */
	PENDING_MAX = 128,		     /* adds on their way to the core */
	DRAIN_MAX = 0x7fffffff,		     /* bytes of a failed stream that are read to its end */
};

/* An answer that may be sent when the core has said DONE. */
struct pending {
	uint32_t id; /* of the request to the core; 0: nothing to wait for */
	bool done, ok;
	char *error;		 /* when not ok */
	struct wire_out reply;	 /* behind LAST */
	char *path;		 /* base name being added */
	struct strv spool_names; /* heap; to be deleted when the add fails */
	bool silent;		 /* part of a request that goes on: no answer; see batch_error */
	bool existing;		 /* `path` was valid before it became a root: is it still? */
};

struct session {
	struct session_client client;
	struct arena client_arena;
	int fd_in, fd_out, core, spool, store;
	const char *db_dir; /* "/db" in the jail */
	struct wire_in in;
	struct wire_out out;
	uint8_t *in_buf;
	bool in_limited;       /* a read ends by itself after SESSION_IDLE_SEC of silence */
	bool between_requests; /* memory may be given back */
	struct err in_err;
	unsigned version;
	unsigned features; /* enum wire_features */
	uint64_t verbosity;
	/* The request at hand. */
	struct arena arena;
	bool consumed; /* its fixed part is read: an error leaves the stream in step */
	struct wire_framed
		*framed; /* its open stream (`frame`), read to the end before the answer */
	struct wire_framed frame;
	char *batch_error; /* why a silent part failed: the first reason */
	/* The database. */
	struct db *db;
	bool snapshot;
	struct drv_hashes hashes; /* of derivations, given back with the other memory */
	/* Adds on their way. */
	struct pending *pending; /* PENDING_MAX, a ring; allocated by the first add */
	size_t pending_first, n_pending;
	struct smap pending_paths; /* base name -> non-NULL */
	bool settling;
	uint32_t next_id;
	uint64_t next_activity, next_spool;
	struct smap allowed; /* of a build: base names that nest_allows() has allowed */
};

/* conn.c */
void session_init(struct session *s);
void session_done(struct session *s);
/* Before the first read: learns how the client's fd waits. */
void conn_begin(struct session *s);
/* Waits for the next request's first byte; gives memory back when it takes long. */
int conn_wait(struct session *s);
int conn_flush(struct session *s);
/* Bytes of input that are here already. */
static inline bool conn_has_input(const struct session *s)
{
	return s->in.p < s->in.end;
}

/* loop.c: greets the client and serves it until it leaves. */
int session_run(struct session *s);
/* The request's fixed part is read: from here on errors leave the connection usable. */
static inline void request_read(struct session *s)
{
	s->consumed = true;
}
/* Opens the request's stream: framed, or (`pulled`) out of answers to READ frames. */
struct wire_in *framed_open(struct session *s, bool pulled);
/* Reads the stream to its end mark. */
int framed_close(struct session *s);

static inline bool client_may(const struct session *s, enum session_right right)
{
	return s->client.rights & right;
}

/* log.c: what the client is told besides answers. */
void tell(struct session *s, enum wire_level level, const char *fmt, ...) _printf_(3, 4);
void tell_warning(struct session *s, const char *fmt, ...) _printf_(2, 3);
uint64_t activity_id(struct session *s);

/* core.c: requests to the core. Sentences of its refusals come back in `e` with OP_FAILED. */
int core_send(struct session *s, uint32_t type, const struct layout *l, const void *record,
	      uint32_t *ret_id);
/* Waits for DONE of `id`. */
int core_wait_done(struct session *s, uint32_t id, struct err *e);
/* Waits for the message of `type` that answers `id`. */
int core_wait(struct session *s, uint32_t id, uint32_t type, struct msg *ret);
/* The next message of the core, while a long request is open: WIRE_EOF when the client leaves. */
int core_event(struct session *s, struct msg *ret);
/* A request with one text and the answer DONE. */
int core_text(struct session *s, uint32_t type, const char *text, struct err *e);
/* Queues an answer; takes what the entry holds. */
int pending_add(struct session *s, struct pending *p);
/* Sends all queued answers, waiting for the core. */
int pending_settle(struct session *s);
/* Makes room for one more. */
int pending_room(struct session *s);
void pending_drop(struct pending *p);

/* store.c: the read-only view. */
int store_db(struct session *s, struct err *e); /* opened, inside a snapshot */
void store_release(struct session *s);		/* ends the snapshot */
void store_close(struct session *s);
/* 0 valid; DB_ABSENT; or an error with a sentence. */
int store_valid(struct session *s, const struct store_path *p, struct err *e);
/* As store_valid, with the row. */
int store_info(struct session *s, const struct store_path *p, struct wire_info *ret, struct err *e);
/* An invalid path is OP_FAILED: "path '…' is not valid". */
int store_info_must(struct session *s, const struct store_path *p, struct wire_info *ret,
		    struct err *e);
int store_not_valid(struct session *s, const struct store_path *p, struct err *e);
int store_fail(struct err *e, int r, const char *what);
/* OP_FAILED when one needs a feature that is off. */
struct derived_paths;
int session_may_ask(const struct session *s, const struct derived_paths *targets, struct err *e);
bool session_has(const struct session *s, const char *feature);
/* Under what the outputs of `d` are realised. */
int store_drv_hash(struct session *s, const struct drv *d, uint8_t ret[32], struct err *e);
/* Names and base names of the outputs of a valid derivation; "" where nobody knows the path. */
int store_outputs(struct session *s, const struct store_path *p, struct strv *ret_names,
		  struct strv *ret_paths, struct err *e);
/* Reads and parses a .drv of the store. */
int store_drv(struct session *s, const struct store_path *p, struct arena *a, struct drv *ret,
	      struct err *e);
char *store_print(struct session *s, const char *base);
/* An outcome for "memory or the request's limit is exhausted". */
int too_large(struct err *e);
