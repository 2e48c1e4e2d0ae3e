/* The socket that clients connect to, and the door: who may enter. */
#pragma once

#include "base/err.h"

struct core;
struct listener;

/* Listens on core->socket_path, or on the socket that the service manager passed (LISTEN_FDS).
 * A stale socket file is replaced; one that answers is another daemon: refused. */
int listener_new(struct core *core, struct listener **ret, struct err *e);
/* Clients are accepted from now on. */
int listener_start(struct listener *l, struct err *e);
/* Closes; removes the socket file if it made it. */
void listener_free(struct listener *l);
