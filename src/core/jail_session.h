/* Shared by the two halves of the jail: making it (jail.c), entering it (jail_spawn.c). */
#pragma once

#include <sys/types.h>

enum { JAIL_NS = 5, JAIL_STACK = 64 * 1024 };

struct jail_entry {
	int program; /* airplant-session, opened once; above the numbers it finds open */
	int null_fd;
	int ns[JAIL_NS]; /* user first: the others belong to it */
};

struct jail {
	struct jail_entry entry;
	void *stack; /* of a child between clone and exec; one at a time */
};
