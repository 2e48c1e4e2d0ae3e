/* The client's side of a connection to a session under test. Anything unexpected fails the test. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fake_core.h"
#include "wire/frames.h"
#include "wire/info.h"
#include "wire/reader.h"

struct client {
	int fd;
	pid_t pids[2];
	struct wire_in in;
	struct wire_out out;
	struct arena a;
	uint8_t buf[4096];
	unsigned version;
	/* What the last answer brought before LAST or ERROR. */
	char error[4096];
	char log[8192]; /* NEXT and log lines, "phase:", "start:", "stop" */
	size_t n_reads; /* READ frames, answered out of `pull` */
	const uint8_t *pull;
	size_t pull_len;
	uint8_t written[65536]; /* WRITE frames */
	size_t n_written;
};

void client_start(struct client *c, const struct fake_core *f, unsigned minor);
/* Closes; true when the session ended well. */
bool client_end(struct client *c);
void client_send(struct client *c);
/* Reads frames to LAST (true) or ERROR (false, with `error`). */
bool client_answer(struct client *c);
uint64_t client_u64(struct client *c);
char *client_str(struct client *c);
/* The server has closed. */
bool client_at_end(struct client *c);
void client_options(struct client *c, const char *name, const char *value);
/* Op 7 with a framed dump. */
void client_add(struct client *c, const char *name, const char *method, const void *data,
		size_t len);
struct wire_info client_keyed_info(struct client *c);
/* The NAR of a plain file. */
void file_nar(struct buf *b, const char *text);
