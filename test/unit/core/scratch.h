/* A store of its own for a test, deleted afterwards: database, spool and place, without sessions.
 */
#pragma once

#include "core/core.h"
#include "core/place.h"
#include "core/spool.h"

struct scratch {
	struct core core;
	char top[64];
};

void scratch_open(struct scratch *s);
void scratch_close(struct scratch *s);
/* Runs the loop until everything that was put off has run. */
void scratch_spin(struct scratch *s);
/* A file in a fresh spool directory, as a session would leave it. */
void scratch_write(int dirfd, const char *name, const char *text);
bool scratch_exists(const struct scratch *s, const char *base);
