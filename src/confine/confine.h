/* How our own processes seal themselves. The profiles stand in one table, profiles.c, which a
 * reviewer reads as a page; the filters are compiled from it at build time (libseccomp), so that
 * a process installs a constant array and links libc alone. */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* Where a supervisor has its build's cgroup, if it has one. */
enum { CONFINE_CGROUP_FD = 64 };

enum confine_profile {
	CONFINE_SESSION,    /* client bytes: no exec, no sockets, no path outside its jail */
	CONFINE_SUPERVISOR, /* after the builder started: no exec, no ptrace, no kill by pid … */
	CONFINE_CORE,  /* may spawn; no set*id, no ptrace, no mount, no module, bpf, keyring … */
	CONFINE_IDS,   /* the broker: see security.md 3.1 row idb */
	CONFINE_ROOTS, /* the tracer of roots: opens for reading alone, reaches no memory */
	CONFINE_ROOTS_OWN,  /* the same without a capability */
	CONFINE_CORE_SUBID, /* as CORE where newuidmap is used: it is set-user-ID, so no_new_privs
			     * and with it the filter must be done without */
	CONFINE_CLEANER, /* deletes in the one directory it still has; cannot make a file */
	CONFINE_PORTER,	 /* starts sessions, in their jail already: one program, one kind of clone */
	CONFINE_SHOWER,	 /* mounts the store's paths where one builder sees them */
	CONFINE_DELETER, /* the core's child that deletes: in the directory that is its fd 3 */
	CONFINE_NAMES,	 /* asks the user database: reads files, may connect; writes no file */
};

/* Seals the calling process for good: not dumpable (except where `keep_dumpable`), no_new_privs,
 * then the profile's capabilities (none, but SETUID+SETGID kept for CONFINE_IDS,
 * DAC_READ_SEARCH+SYS_PTRACE for CONFINE_ROOTS; a SUPERVISOR keeps those of its own namespace that
 * the profile names), empty ambient and bounding set, locked securebits, then Landlock where the kernel has it, then the filter; and looks
 * at itself afterwards (/proc is not needed: prctl, capget). 0, or a negative errno with a sentence
 * naming what is missing. Single-threaded callers only. */
int confine_seal(enum confine_profile profile, struct err *e);

/* After unshare(flags) or clone(flags) failed: "this machine refuses network namespaces (the limit
 * … is 0 or reached; raise it)". Tries the kinds one by one: only for a process that is about to give up. */
void confine_explain_namespaces(int flags, char *ret, size_t size);

/* The filters for builders (feature row D16, security.md 3.3): the table is builder.c. */
enum confine_builder {
	CONFINE_BUILDER_PLAIN,	/* no namespaces of its own */
	CONFINE_BUILDER_NESTED, /* containers and sandboxes may run inside */
	CONFINE_BUILDER_RANGE,	/* root of a range of ids: whole systems are unpacked and run inside */
};

/* Installed last, by the child. `i386_sockets`: through the 32-bit entry of an x86_64 kernel most
 * libraries make sockets with socketcall(2), whose arguments no filter can see; it is open to
 * builds for that platform alone. */
const struct sock_fprog *confine_builder_filter(enum confine_builder which, bool i386_sockets);
