/* A connection to the daemon, as a client: any daemon that speaks the worker protocol. */
#pragma once

#include "base/arena.h"
#include "wire/proto.h"
#include "wire/reader.h"
#include "wire/writer.h"

struct daemon {
	int fd;
	struct wire_in in;
	struct wire_out out;
	const char *store_dir;
	bool trusted, trust_known;
	uint8_t bytes[65536];
};

/* 0, or negative with a sentence. */
int daemon_open(struct daemon *d, const char *socket, const char *store_dir, struct err *e);
void daemon_close(struct daemon *d);
/* Sends what was put into `out` and reads up to the answer: what follows is the operation's. 0, or
 * negative with a sentence: the daemon's, where it refuses. */
int daemon_ask(struct daemon *d, struct err *e);
