/* The network of a build: see network.c. */
#pragma once

#include "base/err.h"

struct build;

/* pasta's end of the wire, where it answers name lookups. */
#define NETWORK_DNS "169.254.1.1"

/* Moves the supervisor into a network namespace of its own, which the builder inherits, and starts
 * pasta, which stays in the machine's. 0 or an error; that pasta cannot do its work is none. */
int net_start(struct build *b, struct err *e);
/* Waits until the network is up, the core has something to say, or pasta is given up: then
 * b->net_missing says why, and the namespace stays empty. */
void net_wait(struct build *b);
/* Ends pasta and waits for its end. */
void net_end(struct build *b);
