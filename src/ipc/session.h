/* The boundary between the core and a session: everything either may say.
 *
 * The session has the client's bytes in it and counts as hostile. It finds these fds open:
 * 3 = channel to the core, 4 = its spool; the rest comes in SESSION_CLIENT.
 * Store paths travel as base names ("<32 chars>-<name>"); the receiver parses them again.
 * Every request carries an id; every answer repeats it. A session may have many ADD requests on
 * their way at once (they are answered in order), but only one BUILD.
 * Closing the channel ends everything the session asked for. */
#pragma once

#include "ipc/chan.h"

enum { SESSION_FD = 3, SESSION_SPOOL_FD = 4, SESSION_MSG_MAX = 64 << 20 };
/* A client's silence, after which its session gives memory back. The core makes it the socket's
 * receive timeout, which saves a poll for each request. */
enum { SESSION_IDLE_SEC = 2 };

enum session_msg {
	/* core -> session, once */
	SESSION_CLIENT = 1, /* struct session_client; fds: client socket [, second fd for stdio] */

	/* session -> core: requests */
	SESSION_OPTIONS = 16,  /* struct session_options; no answer */
	SESSION_ADD,	       /* struct session_add -> SESSION_DONE */
	SESSION_TEMP_ROOT,     /* struct session_text (base name) -> SESSION_DONE */
	SESSION_INDIRECT_ROOT, /* struct session_text (absolute path of the link) -> SESSION_DONE */
	SESSION_FIND_ROOTS,    /* empty -> SESSION_ROOTS */
	SESSION_ADD_SIGS,      /* struct session_sigs -> SESSION_DONE */
	SESSION_ENSURE,	       /* struct session_text (base name) -> SESSION_DONE */
	SESSION_REALISATION,   /* struct session_realisation -> SESSION_DONE */
	SESSION_BUILD,	       /* struct session_build -> events, then SESSION_BUILT */
	SESSION_ADD_LOG,       /* struct session_log -> SESSION_DONE */
	SESSION_DROP_LINK,  /* struct session_text (name in .links): it is corrupt -> SESSION_DONE */
	SESSION_INVALIDATE, /* struct session_text (base name): its files are gone -> SESSION_DONE
			     */
	SESSION_PERM_ROOT,  /* struct session_root -> SESSION_DONE */
	SESSION_OPTIMISE,   /* empty -> EV_TEXT and EV_PROGRESS, then SESSION_DONE */
	SESSION_TEMP_ROOTS, /* struct session_texts (base names) -> SESSION_DONE */
	SESSION_COLLECT,    /* struct session_collect -> events, then SESSION_COLLECTED */
	SESSION_ALLOWED,    /* of a build; struct session_texts (base names; none: all there are) ->
			     * SESSION_ALLOWED_ARE */

	/* core -> session: answers */
	SESSION_DONE = 32, /* struct session_done */
	SESSION_ROOTS,	   /* struct session_roots */
	SESSION_BUILT,	   /* struct session_built */
	SESSION_COLLECTED, /* struct session_collected */
	SESSION_ALLOWED_ARE, /* struct session_texts: those that are allowed */

	/* core -> session: events while a SESSION_BUILD is open; id is that of the request */
	SESSION_EV_STARTED = 48, /* struct session_ev_build; fds: the log, read-only, plain text */
	SESSION_EV_LOG,	     /* struct session_ev_build: `size` bytes of the log are there now */
	SESSION_EV_ENDED,    /* struct session_ev_build: no more log; `size` is final */
	SESSION_EV_PROGRESS, /* struct session_progress */
	SESSION_EV_TEXT,     /* struct session_note: a line for the client's log */
	SESSION_EV_HOOK,     /* struct session_ev_hook; fds: what it prints, read-only. Then as a
			      * build of that number: SESSION_EV_LOG, SESSION_EV_ENDED */

	/* while a SESSION_COLLECT is open; the first carries the list as its fd */
	SESSION_EV_GARBAGE = 64, /* struct session_garbage */
};

/* What a client may do (core/rights.h). The first group is everybody's unless it was taken away,
 * the second are parts of trust. */
enum session_right {
	RIGHT_ADD = 1,	     /* anything into the store */
	RIGHT_BUILD = 2,     /* start builds */
	RIGHT_GC = 4,	     /* delete what is not used */
	RIGHT_OPTIMISE = 8,  /* operation 34 */
	RIGHTS_ALLOWED = 15, /* all of these */

	RIGHT_IMPORT_UNSIGNED = 16, /* paths that nobody has signed */
	RIGHT_BUILD_ANY = 32,	    /* operation 36 with output paths of its choice */
	RIGHT_REALISE = 64,	    /* operation 42 without a signature */
	RIGHT_IGNORE_LIVENESS = 128,
	RIGHT_SEE_ROOTS = 256, /* names of other people's roots */
	RIGHT_ADD_ROOTS = 512, /* operation 47 */
	RIGHT_ADD_LOGS = 1024, /* operation 45 */
	RIGHTS_TRUSTED = 2047,
};

struct session_client {
	char *store_dir;      /* "/nix/store" */
	char *daemon_version; /* what the handshake reports, e.g. "2.34.8" */
	char *peer_name;      /* user name, for messages */
	uint64_t trusted;     /* the core's decision: 1 trusted, 0 not */
	uint64_t peer_uid, peer_pid;
	uint64_t log_lines; /* setting log-lines */
	struct strv experimental_features;
	char *state_dir, *log_dir; /* for messages only; the session cannot see them */
	char *system;		   /* setting system, e.g. "x86_64-linux" */
	struct strv substituters;  /* configured, plus trusted-substituters: for warnings */
	uint64_t rights;	   /* enum session_right: for early refusals */
	struct strv may_set;	   /* settings it may override besides upstream's: for warnings */
	/* 1: the client is a build (session/nest.c): it knows of no path but those that
	 * SESSION_ALLOWED tells. */
	uint64_t restricted;
};

/* What op 19 (SetOptions) said. The core applies only what the client's trust allows. */
struct session_setting {
	char *name, *value;
};
struct session_options {
	uint64_t keep_failed, keep_going, try_fallback, max_jobs, max_silent_time, cores,
		use_substitutes;
	struct {
		struct session_setting *v;
		size_t n;
	} overrides;
};

/* One object that the session has put into its spool, complete, hashed and with canonical
 * metadata (files 0444/0555, directories 0755 and to be sealed by the core, mtime 1). */
struct session_object {
	char *path;	  /* base name of the store path */
	char *spool_name; /* its name in the session's spool */
	uint8_t nar_hash[32];
	uint64_t nar_size; /* bytes */
	struct strv refs;  /* base names; may contain `path` itself */
	char *deriver;	   /* base name or "" */
	char *ca;	   /* content address as the database writes it, or "" */
	struct strv sigs;
	uint64_t ultimate;
	uint64_t registration_time; /* seconds; 0: now */
};
struct session_add {
	struct {
		struct session_object *v;
		size_t n;
	} objects;		  /* all or nothing; topological order is not required */
	uint64_t dont_check_sigs; /* asked for; honoured for trusted clients */
	uint64_t repair;
};

struct session_text {
	char *text;
};
struct session_texts {
	struct strv texts;
};
struct session_sigs {
	char *path;
	struct strv sigs;
};

/* The log of a build that was made elsewhere. */
struct session_log {
	char *drv;	  /* base name */
	char *spool_name; /* a file in the session's spool: plain text */
};
struct session_realisation {  /* op 42 */
	uint8_t drv_hash[32]; /* the derivation's hash modulo */
	char *output, *path;  /* "out", base name */
	struct strv sigs;
};

enum session_build_mode { BUILD_NORMAL = 0, BUILD_REPAIR = 1, BUILD_CHECK = 2 };
struct session_build {
	/* Base name for an opaque path, "<base name>!out1,out2" or "<base name>!*" for outputs. */
	struct strv targets;
	uint64_t mode;
	struct strv broken; /* BUILD_REPAIR: base names of what is valid and differs from its hash */
	uint64_t with_results; /* op 46: the client reads each error in its result, so none is told
				  twice */
	/* Op 36: the text of the one target's derivation, without input derivations; it need not
	 * be in the store. "": targets are read there. */
	char *drv;
	/* The core's own decision, not on the wire: its output paths need no proof. */
	bool believed;
};

enum session_gc_action { SESSION_GC_LIVE, SESSION_GC_DEAD, SESSION_GC_DELETE, SESSION_GC_SPECIFIC };
struct session_collect {
	uint64_t action;	   /* enum session_gc_action */
	uint64_t whole_store;	   /* else `paths` alone … */
	uint64_t delete_referrers; /* … and the dead ones that refer to them */
	uint64_t ignore_liveness;  /* asked for; honoured for trusted clients */
	uint64_t max_freed;	   /* bytes */
	struct strv paths;	   /* base names */
};
/* The list is a file, read-only and growing: names of files in the store (of the live, the dead or
 * the deleted), each with a NUL behind it. */
struct session_garbage {
	uint64_t done, expected; /* paths */
	uint64_t freed;		 /* bytes */
	uint64_t list_size;	 /* bytes of the list that are there now */
};
struct session_collected {
	uint64_t ok;
	char *error;
	uint64_t freed, list_size; /* bytes */
};

struct session_done {
	uint64_t ok;
	char *error; /* the sentence, when not ok */
};

struct session_root {
	char *link, *target; /* absolute path of the link or "{...}"; base name */
};
struct session_roots {
	uint64_t ok;
	char *error;
	struct {
		struct session_root *v;
		size_t n;
	} roots;
};

struct session_output {
	char *name, *path; /* "out", base name */
};
struct session_result {
	char *target;	 /* as asked */
	uint64_t status; /* enum build_status, features.md 1.2 */
	char *error;	 /* the whole sentence with log tail, "" when it went well */
	uint64_t times_built, start_time, stop_time; /* seconds */
	uint64_t cpu_known, cpu_user_usec, cpu_system_usec;
	struct {
		struct session_output *v;
		size_t n;
	} outputs;
};
struct session_built {
	uint64_t ok; /* every target succeeded */
	char *error; /* what op 9 reports: one sentence, when not ok */
	struct {
		struct session_result *v;
		size_t n;
	} results; /* one per target, in order */
};

struct session_ev_build {
	uint64_t build; /* number of the build, unique in this daemon's life */
	char *drv;	/* base name */
	uint64_t size;	/* bytes of log so far */
	uint64_t ok;	/* ENDED only */
};
struct session_ev_hook {
	uint64_t build; /* a number as builds have */
	char *drv, *program;
};
struct session_progress { /* builds of this request's goal graph */
	uint64_t done, expected, running, failed;
};
struct session_note {
	uint64_t level; /* the client's verbosity levels: 0 error … 7 vomit */
	char *text;
};

extern const struct layout session_client_layout, session_options_layout, session_add_layout,
	session_text_layout, session_texts_layout, session_sigs_layout, session_realisation_layout, session_log_layout,
	session_root_layout, session_build_layout, session_done_layout, session_roots_layout,
	session_built_layout, session_ev_build_layout, session_ev_hook_layout, session_progress_layout, session_note_layout,
	session_collect_layout, session_garbage_layout, session_collected_layout;
