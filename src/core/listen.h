/* The socket that clients connect to, and the door: who may enter. */
#pragma once

#include "base/err.h"

struct core;
struct names_desk;
struct listener;

/* Listens on core->socket_path, or on the socket that the service manager passed (LISTEN_FDS).
 * A stale socket file is replaced; one that answers is another daemon: refused. */
int listener_new(struct core *core, struct listener **ret, struct err *e);
/* For others who ask about users. */
struct names_desk *listener_desk(struct listener *l);
/* Clients are accepted from now on. */
int listener_start(struct listener *l, struct err *e);
/* The client reads why it is not served, and its connection is closed. Takes fd over. */
void listener_refuse(struct listener *l, int fd, const char *text);
/* Closes; removes the socket file if it made it. */
void listener_free(struct listener *l);
