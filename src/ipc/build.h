/* The boundary between the core and a build supervisor (one build, one process).
 *
 * fd 3 = channel to the core. BUILD_START brings everything the build needs; the supervisor
 * never opens a path that is not below what BUILD_START names. Store paths are base names. */
#pragma once

#include "ipc/chan.h"

enum { BUILD_FD = 3, BUILD_MSG_MAX = 256 << 20 };

/* argv[1] of a supervisor that makes its namespaces at once, for a build it does not know yet: one
 * with a sandbox and without a network. It sends BUILD_NEED_IDS before it gets BUILD_START. */
#define BUILD_WARM "warm"
/* argv[1] of one that only deletes (clean.c); argv[2] is the directory. It sends BUILD_NEED_IDS,
 * gets the ids of a whole slot and its lease with BUILD_IDS, and ends with BUILD_BYE. */
#define BUILD_CLEAN "clean"
/* argv[1] of one that runs a program of the administrator's beside a build (build/hook.c). It gets
 * BUILD_HOOK_START, sends BUILD_LOG and ends with BUILD_END; BUILD_CANCEL or a hang-up ends it. */
#define BUILD_HOOK "hook"

/* In the build's directory, as upstream calls it. */
#define BUILD_SOCKET ".nix-socket"

enum build_msg {
	BUILD_START = 1, /* core -> supervisor: struct build_start; fds: log file (write),
			  * compressed log file (write) unless compress_log is 0, the daemon's
			  * socket for the builder (to be bound) and the channel of the process
			  * that shows it paths unless recursive is 0, directory of the build's
			  * cgroup unless cgroup is 0 */
	BUILD_NEED_IDS,	 /* supervisor -> core: empty. It has unshared its namespace O and waits */
	BUILD_IDS,	 /* core -> supervisor: struct build_ids; fds: lease (none for single) */
	BUILD_RUNNING,	 /* supervisor -> core: struct build_running; fd: the builder's pidfd. It is
			  * told to exec when this is sent: the core can end what a supervisor
			  * that was killed leaves behind */
	BUILD_LOG,	 /* supervisor -> core: struct build_log. The log has grown; coalesced */
	BUILD_END,	 /* supervisor -> core: struct build_end. Outputs lie in <scratch>/out/ */
	BUILD_RELEASE, /* core -> supervisor: empty. Outputs are moved: delete the scratch, exit */
	BUILD_CANCEL,  /* core -> supervisor: empty. End the build now, delete the scratch, exit */
	BUILD_BYE,     /* supervisor -> core: struct build_bye. The scratch is gone (or is not) */
	BUILD_HOOK_START, /* core -> hook: struct build_hook; fd: file for what it prints (write) */

	/* Builds that have a daemon of their own (recursive): */
	BUILD_ASK_ADDED, /* supervisor -> core: empty. The builder is dead: what came to its inputs? */
	BUILD_ADDED,	 /* core -> supervisor: struct build_names. Nothing comes any more */
	/* On a channel of its own, between the core and the process that shows a builder paths
	 * (build/show.c), one at a time: */
	BUILD_SHOW,  /* core -> it: struct build_names */
	BUILD_SHOWN, /* it -> core: struct build_shown */
};

enum build_ids_mode { IDS_BROKER, IDS_SUBID, IDS_SINGLE };
enum build_sandbox { SANDBOX_OFF, SANDBOX_ON };

struct build_pair {
	char *name, *value;
};
struct build_pairs {
	struct build_pair *v;
	size_t n;
};

struct build_output {
	char *name;	       /* "out" */
	char *path;	       /* base name: where the builder puts it */
	char *ca;	       /* "fixed:r:sha256": its path follows from its contents; or "" */
	uint64_t discard_refs; /* 1: what it refers to does not count */
};

struct build_start {
	char *drv;	  /* base name of the .drv */
	char *drv_name;	  /* "hello-1.0" */
	char *store_dir;  /* logical, as the builder sees it: "/nix/store" */
	char *real_store; /* where it lies on this machine */
	char *scratch;	  /* absolute path of an empty 0700 directory on the store's file system */
	char *platform;
	char *builder;		  /* absolute path, or "builtin:…" */
	struct strv args;	  /* without argv[0] */
	struct strv fetch;	  /* the command line of airplant-fetch, which is run in the place of
				   * two of the builtin builders; empty for others */
	struct build_pairs env;	  /* complete environment, sorted by name */
	struct build_pairs files; /* written into the build's top directory before it starts */
	struct strv inputs;	  /* base names of the whole input closure */
	struct {
		struct build_output *v;
		size_t n;
	} outputs;
	uint64_t fixed;		 /* 1: fixed or impure: sees a network */
	struct bytes fixed_hash; /* what its one output must have; empty: nothing */
	/* network; a sandbox without it has an empty network namespace */
	uint64_t network;      /* 1: user-mode networking */
	uint64_t net_loopback; /* 1: and the host's loopback services with it */
	char *net_helper;      /* absolute path of pasta, or "" */
	/* sandbox */
	uint64_t sandbox; /* enum build_sandbox */
	char *build_dir;  /* inside: "/build" */
	struct build_pairs
		binds; /* name = target inside, value = source; a trailing '?' on value: optional */
	char *shm_size;	   /* "50%" */
	uint64_t uid, gid; /* inside: 1000, 100 */
	uint64_t n_ids;	   /* 1; 65536 or 262144: the builder is root of so many, uid and gid 0 */
	uint64_t kvm;	   /* 1: /dev/kvm is there, and the daemon's groups open it */
	uint64_t filter_syscalls, allow_new_privileges, impersonate_linux_26;
	uint64_t nested; /* the builder may make namespaces of its own */
	/* limits; 0 = none */
	uint64_t timeout_sec, max_silent_sec, max_log_bytes;
	uint64_t log_lines;    /* lines of the log's end that a failure quotes */
	uint64_t nix_log;      /* 1: which says "nix log", not "nix-store -l" */
	uint64_t compress_log; /* 1: bzip2 into the second fd */
	uint64_t keep_failed;
	uint64_t check; /* --check: outputs are compared by the core, not registered */
	uint64_t recursive; /* 1: BUILD_SOCKET in its directory leads to the daemon */
	/* What holds the build's processes together: */
	uint64_t cgroup;    /* 1: the last fd is the directory of its cgroup */
	uint64_t max_procs; /* processes, where no cgroup counts them; 0 = none */
};

struct build_ids {
	uint64_t mode;	    /* enum build_ids_mode */
	uint64_t count;	    /* IDs in the slot; 1 for a plain build */
	uint64_t host_base; /* for people only */
};
struct build_names {
	struct strv names; /* base names of valid paths */
};
struct build_shown {
	uint64_t ok;
	char *error;
};
struct build_running {
	uint64_t host_uid; /* the builder's uid as the host sees it */
};
struct build_log {
	uint64_t size; /* bytes written to the log file so far */
};

struct build_made {
	char *name; /* output name */
	char *path; /* base name, under which it lies now */
	uint8_t nar_hash[32];
	uint64_t nar_size;
	struct strv refs; /* base names out of inputs and outputs, sorted */
	char *ca;	  /* "fixed:r:sha256:…" or "" */
};
struct build_end {
	uint64_t status; /* enum build_status: 0 built, 3 permanent failure, … features.md 1.2 */
	char *error;	 /* the whole sentence a client prints, with the log's last lines */
	struct {
		struct build_made *v;
		size_t n;
	} outputs; /* complete when status is 0 */
	/* A fixed output with a wrong hash is kept where its real hash belongs: */
	char *real_path; /* base name, or "" */
	uint64_t cpu_user_usec, cpu_system_usec;
	/* Of the largest process where no cgroup counts; 0 is unknown. */
	uint64_t peak_memory_bytes, peak_procs;
	uint64_t log_size; /* final size of the plain log */
};
struct build_bye {
	uint64_t clean; /* 1: the scratch is empty */
	char *error;
};

/* Status 0 of its BUILD_END: it exited with 0; else `error` has a sentence. */
struct build_hook {
	char *program;		  /* looked for in PATH when it has no slash */
	struct strv args;	  /* without argv[0] */
	struct build_pairs env;	  /* its complete environment */
	uint64_t errors_apart; /* 1: only standard output goes to the file */
};

extern const struct layout build_names_layout, build_shown_layout;
extern const struct layout build_hook_layout, build_start_layout, build_ids_layout, build_running_layout,
	build_log_layout, build_end_layout, build_bye_layout;

/* A variable that names a proxy to curl, in capitals or not: all that a builtin's program gets of its
 * environment. */
bool build_is_proxy(const char *name);

/* Status numbers of a build result, as the wire has them. */
enum build_status {
	BUILT = 0,
	SUBSTITUTED = 1,
	ALREADY_VALID = 2,
	PERMANENT_FAILURE = 3,
	INPUT_REJECTED = 4,
	OUTPUT_REJECTED = 5,
	TRANSIENT_FAILURE = 6,
	CACHED_FAILURE = 7,
	TIMED_OUT = 8,
	MISC_FAILURE = 9,
	DEPENDENCY_FAILED = 10,
	LOG_LIMIT_EXCEEDED = 11,
	NOT_DETERMINISTIC = 12,
	RESOLVES_TO_ALREADY_VALID = 13,
	NO_SUBSTITUTERS = 14,
};
