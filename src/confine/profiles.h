/* The shape of the table of profiles. Read by the generator (system calls) and by seal.c
 * (everything else); nobody else includes it. */
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
};

/* What the kernel answers. An errno stands for itself. */
enum { ANSWER_ALLOW = 0, ANSWER_KILL = -1 };

struct rule {
	int answer;
	const struct call *calls; /* ends with a NULL name */
};

enum { PROFILE_RULES_MAX = 10 };

struct profile {
	const char *process;
	uint64_t caps; /* kept: effective and permitted; the bounding set is cut to them */
	bool dumpable;
	bool privileged_children; /* children may gain privilege by exec: no no_new_privs, no locked
				   * bits, no cut bounding set, and hence no filter */
	bool foreign_arches;	  /* the filter also speaks for the machine's 32-bit ABIs */
	int otherwise;		  /* the answer to calls without a rule */
	struct rule rules[PROFILE_RULES_MAX]; /* ends with NULL calls */
};

enum { N_PROFILES = CONFINE_CORE_SUBID + 1 };

extern const struct profile confine_profiles[N_PROFILES];
extern const struct profile confine_builder;

/* Generated at build time from the above. */
extern const struct sock_fprog confine_filters[N_PROFILES];
extern const struct sock_fprog confine_builder_program;
