/* What the files of the tracer of roots share. Linked by airplant-roots alone.
 *
 * The tracer may read what every process and every user has, so it says almost nothing: base names
 * that exist in the store, names of links below the state directory, numbers. It writes no file,
 * executes nothing, attaches to nobody, and below /proc/PID opens only the names that are spelled
 * out in procs.c.
 *
 * A user's process can make a read of its memory block for ever (a page that comes from a file
 * system of the user's), and so can a link in a home. All looking is therefore done by a child,
 * the looker: one request at a time, and when an answer takes too long it is killed and another one
 * goes on (serve.c). No user can stop the others' collections that way. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macro.h"

enum { BASE_MAX = 32 + 1 + 211, MESSAGE_MAX = 24 * 1024 };

struct tracer {
	const char *store, *state, *proc; /* proc: "/proc", but for tests */
	bool own_user;			  /* only processes of our own user can be seen */
	bool skip_hidden;		  /* a process that the kernel hides is only counted */
	uid_t store_uid;		  /* who owns the store */
	int process_msec;		  /* for one process of an ordinary user */
	uint64_t account_usec; /* for all of one's processes; then only a glance at each */
	int rules;	       /* Landlock's, for the looker at links; or -1 */
};

/* Requests to the looker, each a string; `off` is where a listing goes on.
 *   "d<off> <dir>"     the links of a directory below the state directory
 *   "b<off> <dir>"     the same without following any
 *   "s"                list the processes
 *   "k"                what the kernel may execute
 *   "t"                the temporary roots of stock processes
 *   "p<pid>"           a process
 * It answers with messages: records of ipc/roots.h (P, L, I), and these, of its own. */
enum {
	SAY_NEXT = 'n',	   /* another request, to be served first */
	SAY_STUCK = 'w',   /* should this be my last word: a request to go on with, NUL, a record */
	SAY_ACCOUNT = 'u', /* the uid that this process's time is charged to. Answered by a 'y',
			    * or by an 'n': there is time for exe, cwd and root alone */
	SAY_HINDERED = 'h', /* its user keeps us from seeing all; a sentence */
	SAY_SKIPPED = 's',  /* a process that may be skipped and cannot be seen */
	SAY_DONE = 'e',
};

struct looker {
	const struct tracer *t;
	int chan; /* SOCK_SEQPACKET */
	bool blind;
	char seen[256][BASE_MAX + 1];
	uint64_t own_ns,
		mounts[1024]; /* inodes of namespaces: ours; those whose mounts were seen */
};

/* look.c */
/* A looker takes requests of one kind. To Landlock, all processes of the machine lie outside of its
 * domain and may not be looked at, whatever one's capabilities; links can do with it. */
_noreturn_ void looker_run(struct looker *l, bool links);
void say(const struct looker *l, char kind, const char *fmt, ...) _printf_(3, 4);
/* A record of several fields, each with its NUL. */
void say_fields(const struct looker *l, char kind, int n, ...);
/* What a failure means that is not "gone meanwhile": the whole answer is incomplete. */
void say_failed(const struct looker *l, const char *what, int r);
void forget_seen(struct looker *l);
/* The length of the base name of a store path that begins at `s`, 0 if none does. */
size_t base_length(const char *s, size_t len);
/* Tells each store path that is named in `text` after a slash. Returns how many bytes of it are
 * done with: a name may go on behind the end unless `whole`. */
size_t say_roots(struct looker *l, const char *text, size_t len, bool whole, const char *what);

/* links.c */
void look_at_links(struct looker *l, const char *dir, long off);

/* temp.c */
void look_at_temp_roots(struct looker *l);

/* procs.c */
void list_processes(struct looker *l);
void look_at_process(struct looker *l, const char *pid);
void look_at_kernel(struct looker *l);

/* serve.c: one whole answer to `out`. With `upstream` in the form that a stock daemon reads.
 * 0, or a negative errno when the peer did not take it. */
int serve(const struct tracer *t, int out, bool upstream);
