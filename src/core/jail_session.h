/* Shared by the halves of the jail: making it (jail.c), starting sessions in it (jail_spawn.c). */
#pragma once

#include <sys/types.h>

enum { JAIL_STACK = 64 * 1024 };

struct jail {
	int chan;   /* to the porter */
	int pidfd;  /* the porter */
	pid_t core; /* whose child it is */
};

/* The porter's fds, fixed before it serves. */
enum { PORTER_CHAN = 3, PORTER_NULL = 4, PORTER_PROGRAM = 5, PORTER_FIRST_FREE = 6 };

/* The porter's life after the jail is made: starts what the core asks for, until the core hangs
 * up. `core` is the parent of all. */
_Noreturn void porter_serve(pid_t core);
