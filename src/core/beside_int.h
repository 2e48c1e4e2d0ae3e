/* What the files of beside.h share.
 *
 *   beside.c        the lock and our promises
 *   beside_serve.c  stock processes' promises while a collection of ours runs */
#pragma once

#include "core/beside.h"
#include "core/core.h"

enum beside_mode {
	BESIDE_IDLE,	/* nothing is promised but our own directory in the store */
	BESIDE_SHARED,	/* we have gc.lock with others */
	BESIDE_ALONE,	/* a collection of ours */
	BESIDE_FOREIGN, /* another's, or it has just ended: all promises are in the file */
};

struct beside {
	struct core *core;
	enum beside_mode mode;
	int lock_fd, file_fd;
	unsigned long long lock_ino;
	char *file, *socket;
	int teller; /* connection to another collector */
	struct loop_timer *timer;
	/* a collection of ours */
	int listener;
	struct loop_fd *watch;
	struct beside_client *clients;
	size_t n_clients;
};

int beside_serve(struct beside *b, struct err *e);
void beside_serve_stop(struct beside *b);
