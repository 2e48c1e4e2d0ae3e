/* Builds in control groups (v2): one leaf per build below the group that was delegated to the
 * daemon, with the administrator's limits. Linked by the core. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct core;
struct cgroups;

/* Looks for a group that this user may write (the setting 'build-cgroup', else the daemon's own),
 * moves the daemon into a leaf of it, turns the controllers on, removes what an earlier daemon
 * left there, and says in one line of the log what works and what is missing. NULL when there is
 * none: builds then run in the daemon's own group. */
struct cgroups *cgroups_new(const struct core *core);
void cgroups_free(struct cgroups *g);
/* Does the kernel count processes in it, or must the build's own limit do (RLIMIT_NPROC)? */
bool cgroups_count_pids(const struct cgroups *g);

struct cgroup {
	int fd; /* the directory; -1 when there is none */
	char name[256];
};
#define CGROUP_INIT ((struct cgroup){ .fd = -1 })

/* Makes the leaf for one build, with the limits that are set now. `divisible`: the build may make
 * groups of its own below it. 0, or a sentence. */
int cgroup_make(struct cgroups *g, const struct core *core, const char *drv_base, bool divisible,
		struct cgroup *ret, struct err *e);
/* The same for a hook: what it leaves behind on purpose goes on in it, and may outlive the daemon. */
int cgroup_make_hook(struct cgroups *g, const struct core *core, const char *program,
		     struct cgroup *ret, struct err *e);
/* Moves a process that waits for its work into it: 0 or -errno. */
int cgroup_enter(const struct cgroup *c, pid_t pid);
/* A hook's is removed when its last process is gone: tried now, and whenever the next is made. */
void cgroup_leave(struct cgroups *g, struct cgroup *c);
/* Ends every process in it and below; the kernel needs a moment for that. */
void cgroup_kill(const struct cgroup *c);
/* 0 when it is gone (also when there was none), -EBUSY while something is left in it. */
int cgroup_remove(struct cgroups *g, struct cgroup *c);
