/* What the files of the build supervisor share: one build, one process, one struct.
 *
 * The life of a build: ns_outer() makes the user namespace O and gets ids mapped into it;
 * child_start() clones the builder's process, which builds its root (root.c) and execs;
 * ns_retreat() takes every path but the scratch away from the supervisor; watch_run() reads the
 * log until the last process is dead; outputs_collect() looks at what was left behind. */
#pragma once

#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/fd.h"
#include "ipc/build.h"

/* Colours as upstream puts them into its sentences; clients strip them when they must. */
#define C_MAGENTA "\x1b[35;1m"
#define C_RED	  "\x1b[31;1m"
#define C_BOLD	  "\x1b[1m"
#define C_NORMAL  "\x1b[0m"
/* An argument of an error sentence: '%s' in magenta, quoted the two ways upstream has. */
#define Q_ARG  "'" C_MAGENTA "%s" C_NORMAL "'"
#define Q_PATH C_MAGENTA "\"%s\"" C_NORMAL

struct logfile;

struct build {
	struct arena arena; /* everything that came with BUILD_START */
	struct build_start s;
	struct build_ids ids;
	bool mapped;	/* O has its ids */
	uid_t host_uid; /* the daemon's, as the host sees it */
	gid_t host_gid;
	uid_t owner_uid; /* the daemon's id in O: what finished files belong to */
	gid_t owner_gid;
	int chan;	     /* fd 3 */
	int log_fd, zlog_fd; /* -1 when there is none */
	int cgroup;	     /* the build's, a directory; -1 when it has none */
	int lease_fd;	     /* held open until the end: the slot is ours as long as it is */
	int master, slave;   /* the builder's terminal */
	int status_fd;	     /* a socket: the child's "S" once set up, or a sentence; our "G" */
	int pidfd;
	pid_t pid;
	int top;	/* the scratch directory */
	bool warm;	/* started before its build was known: see ns_warm() */
	int warm_error; /* -errno of that, told with the build's end */
	/* Held so that neither is taken down while somebody waits for the build: its mounts, and
	 * the terminal's devpts. */
	int mounts_fd, pts_fd;
	int net_pidfd, net_out;	 /* pasta, while there is one; what it says while it starts */
	bool shares;		 /* see root_shares() */
	int socket, show_chan;	 /* of a build with a daemon of its own, until its builder has them */
	int show_pipe;		 /* held by the supervisor: that process ends with it */
	pid_t show_pid;
	const char *net_missing; /* why a build that may use the network has none */
	struct logfile *log;
	bool cancelled;	 /* the core hung up or said BUILD_CANCEL */
	int wait_status; /* of the builder, as wait4 has it */
	struct rusage usage;
};

/* Is the builder root of a range of ids (the feature uid-range)? */
static inline bool is_range(const struct build *b)
{
	return b->s.n_ids > 1;
}

/* namespace.c */
/* Before BUILD_START: everything that is the same for each sandboxed build without a network. It
 * unshares O with a network, IPC and UTS namespace and asks for ids. */
void ns_warm(struct build *b);
/* Unshares O, asks the core for ids, and maps them (mode single). BUILD_CANCELLED when the core
 * changed its mind meanwhile. */
enum { BUILD_CANCELLED = 1 };
int ns_outer(struct build *b, struct err *e);
/* The builder's terminal: a pseudoterminal of a devpts instance that nobody else can see. */
int ns_terminal(struct build *b, struct err *e);
/* Makes the scratch the supervisor's root directory; nothing else is left in its mount namespace.
 */
int ns_retreat(struct build *b, struct err *e);
/* The same for any directory; `top` becomes an fd of it. */
int ns_retreat_to(const char *dir, int *top, struct err *e);

/* child.c */
int child_start(struct build *b, struct err *e);
/* Takes the slot's ids and leaves the daemon's groups, signals and keyring. */
int child_become_slot(const struct build *b, struct err *e);
int child_reopen_scratch(struct build *b, struct err *e);
/* Kills the child and everything it started, and waits until all of it is dead. */
void child_end(struct build *b);

/* privileges.c: the child's last steps. Afterwards it has no capability, cannot get one, and its
 * system calls are filtered; the second looks whether all of that, and who it is, is so. */
struct identity {
	unsigned int uid, gid;
};
int privileges_drop(const struct build *b, struct err *e);
int privileges_check(const struct build *b, const struct identity *id, struct err *e);

/* range.c: around the clone of a builder that is root of its ids. range_root() makes its root
 * directory and goes there; range_map() maps its ids and lets it go on; range_leave() goes away
 * from the builder's mounts, which are its own by then. */
int range_root(struct build *b, struct err *e);
int range_map(struct build *b, struct err *e);
int range_leave(struct build *b, struct err *e);

/* root.c; runs in the child, as the slot's id with the capabilities of O. Afterwards "/" is the
 * builder's root and the working directory is the build directory. */
int root_scratch(struct build *b, struct err *e);
/* Sets the loopback interface of the process's network namespace up. 0 or -errno. */
int root_loopback(void);
int root_enter(struct build *b, struct err *e);
/* Do the configured paths show the builder anything of the host's in which others could listen to it:
 * a directory, a socket? Asked before the supervisor gives up the host's files. */
bool root_shares(const struct build *b);
/* The same in two steps, for a range: what takes O's capabilities, and what takes those of I; the
 * working directory is that of root_path() at the start of the second. */
int root_make(struct build *b, struct err *e);
int root_finish(struct build *b, struct err *e);
void root_path(const struct build *b, char *ret, size_t size);
/* proc.c: mounts "proc" in the working directory. */
int root_proc(const struct build *b, struct err *e);
/* host.c: the same without a sandbox. The host's files, with the store covered by an overlay. */
int host_enter(struct build *b, struct err *e);

/* watch.c: until the builder is dead and its terminal is drained. Fills what of `end` follows from
 * the builder's end alone: status BUILT when it succeeded. */
void watch_run(struct build *b, struct build_end *end);
/* Waits for BUILD_RELEASE, BUILD_CANCEL or the core's hang-up. */
void watch_release(struct build *b);
/* Has the core hung up or said BUILD_CANCEL meanwhile? Sets `cancelled`; does not wait. */
bool watch_cancelled(struct build *b);
/* Sends and waits where the core is slow. 0 or -errno. */
int watch_send(struct build *b, uint32_t type, const struct layout *l, const void *record);

/* Waits for a message of this type; whatever else comes means that the build is cancelled. 0 or -errno. */
int watch_receive(struct build *b, uint32_t type, struct msg *ret);

/* cgroup.c; without a cgroup each of them does what can be done */
/* Gives it to the build's root: groups and processes below it are the build's to arrange. */
int cgroup_delegate(struct build *b, struct err *e);
void cgroup_kill(struct build *b);
/* Processor time and peaks, from the cgroup or else from the reaped process. */
void cgroup_account(const struct build *b, struct build_end *end);
/* "was killed because it used more than its memory limit of …", when that is so: 1, else 0. */
int cgroup_print_end(const struct build *b, struct buf *t);
/* A note about the limit of processes, when that was hit. */
int cgroup_print_note(const struct build *b, struct buf *t);
/* Removes the groups below it, after the last process is dead. 0 or -errno. */
int cgroup_empty(struct build *b);

/* outputs.c */
int outputs_collect(struct build *b, struct build_end *end);
/* show.c, for a build with a daemon of its own (the feature recursive-nix) */
/* Makes its socket in the build directory, which is `dir`. Runs in the child. */
int show_bind(struct build *b, int dir, struct err *e);
/* Starts the process that shows the builder, which has been cloned, what comes to its inputs. */
int show_start(struct build *b, struct err *e);
/* Ends it, before anything is deleted. */
void show_end(struct build *b);
/* After the builder's death: what came belongs to the inputs. 0, or a sentence. */
int show_added(struct build *b, struct err *e);

/* keep.c: copies what the builder left in its build directory to <scratch>/keep. */
int keep_build_dir(struct build *b);

/* Maps this process's own id, as the host has it, as 0 of its new namespace. */
int ns_map_own(uid_t uid, gid_t gid, struct err *e);

/* clean.c: the whole of "airplant-build clean". Returns the exit status. */
int clean_main(const char *dir);

/* hook.c: the whole of "airplant-build hook". Returns the exit status. */
int hook_main(void);

/* builtins.c: runs in the builder's place, writes to stderr, returns its exit status. */
int builtin_run(struct build *b);
