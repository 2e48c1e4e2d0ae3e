/* The shape of the table of profiles. Read by the generator, which prints what seal.c
 * needs of it; nobody else includes it. */
#pragma once

#include <linux/filter.h>
#include <stdbool.h>
#include <stdint.h>

#include "confine/confine.h"

/* (argument & mask) == value. Masks cover the 32 bits the kernel looks at where the argument is an
 * int, so that garbage in the upper half neither opens nor closes a door. */
struct cond {
	uint8_t arg;
	uint64_t mask, value;
};

struct call {
	const char *name; /* as libseccomp spells it */
	uint8_t n_conds;
	struct cond conds[2];
	/* And, where `none_of.n` is not 0: argument `other`, an int or a pointer, is none of these
	 * values. */
	uint8_t other;
	bool is_pointer;
	struct {
		uint8_t n;
		uint32_t v[6];
	} none_of;
};

/* By number, where libseccomp does not know the name yet. From 424 on a system call has the same
 * number on every architecture. */
struct numbers {
	uint32_t first, last;
	int answer;
};

/* What the kernel answers. An errno stands for itself. */
/* NOTHING_DONE: success, without effect. */
enum { ANSWER_ALLOW = 0, ANSWER_KILL = -1, ANSWER_NOTHING_DONE = -2 };

struct rule {
	int answer;
	const struct call *calls; /* ends with a NULL name */
};

enum { PROFILE_RULES_MAX = 16, PLACES_MAX = 2 };

/* A directory by path, or by fd where `path` is NULL: what is beneath may be read, or worked on. */
struct place {
	const char *path;
	int fd;
	bool work;
	bool optional; /* the fd may be closed */
};

struct profile {
	const char *process;
	const char *starter;	/* of ours: its filter is inherited, this one comes on top */
	uint64_t caps;		/* kept: effective and permitted; the bounding set is cut to them */
	bool passes_no_caps_on; /* the bounding set is cut to nothing */
	bool dumpable;
	bool privileged_children; /* children may gain privilege by exec: no no_new_privs, no locked
				   * bits, no cut bounding set, and hence no filter */
	/* Landlock, where the kernel has it (wall.c). Without places there is no wall. */
	struct place places[PLACES_MAX];
	size_t n_places;
	bool signals; /* may signal processes outside of the wall */
	bool network; /* may connect to whom it likes */
	/* CLONE_NEW*: those it has made, or was born in, before it seals itself; all others are the
	 * machine's. Nothing applies this: test_seals.py holds running processes against it. */
	unsigned int namespaces;
	bool foreign_arches; /* the filter also speaks for the machine's 32-bit ABIs */
	int otherwise;	     /* the answer to calls without a rule */
	struct rule rules[PROFILE_RULES_MAX]; /* ends with NULL calls */
	/* Builders alone: */
	uint32_t newest;	       /* what has a higher number does not exist (ENOSYS) */
	const struct numbers *numbers; /* ends with a 0; they come before the rules */
};

/* wall.c; under no_new_privs. */
int confine_wall(const struct profile *p, struct err *e);

enum { N_PROFILES = CONFINE_NAMES + 1, N_BUILDERS = CONFINE_BUILDER_RANGE + 1 };

/* The tables; on the building machine, and in print-profiles. */
extern const struct profile confine_profiles[N_PROFILES];
extern const struct profile confine_builders[N_BUILDERS];

/* Generated at build time from the above. The first are the profiles without their rules and what
 * only tests read. */
extern const struct profile confine_seals[N_PROFILES];
extern const struct sock_fprog confine_filters[N_PROFILES];
extern const struct sock_fprog confine_builder_programs[N_BUILDERS][2]; /* [][i386 sockets?] */
