/* A store and a machine that exist in memory only, for tests of the goal graph: derivations with
 * one output, builds that end when the test says so, and a loop that runs when it is told to. */
#pragma once

#include "core/goals_int.h"

enum { WORLD_MAX = 4200 };

struct fake_build {
	int node;
	const struct build_run_events *ev;
	void *ctx;
	bool live, cancelled;
};

extern struct core core;
extern struct fake_build builds[WORLD_MAX];
extern size_t n_builds;

struct client {
	struct request *request;
	bool answered, ok;
	char *error;
	size_t n_results;
	uint64_t status[64];
	char *errors[64];
	size_t n_started, n_ended, n_logs;
	uint64_t last_size;
	struct session_progress progress;
	char *notes;
	bool cancel_when_started;
};

void world_reset(uint64_t max_jobs);
int node_add(const int *needs, size_t n); /* its number */
void node_set_valid(int node);
void node_platform(int node, const char *platform);
const char *node_base(int node);
const char *node_output(int node);
/* Somebody outside has the lock of its output; given back, nothing is told. */
void node_lock(int node, bool locked);
bool node_is_locked(int node); /* by us */
void world_wait(void);	       /* until the timer that was set last is over */
void world_run(void); /* rounds until nothing is due */
size_t running(void);
/* The build of a node that runs, or NULL. */
struct fake_build *build_of(int node);
size_t times_started(int node);
void finish(int node, uint64_t status, const char *error);
/* Ends all running builds well until there are none. Gives the largest number that ran at once. */
size_t finish_all(void);

/* Asks for the outputs of nodes. max_jobs 0 means 1000. */
void ask(struct client *c, const int *nodes, size_t n, uid_t uid, uint64_t max_jobs,
	 bool keep_going);
void ask_mode(struct client *c, const int *nodes, size_t n, uint64_t mode);
/* The build of `outer`, which runs, asks from within. False when it is refused. */
bool ask_within(struct client *c, int outer, const int *nodes, size_t n);
void client_done(struct client *c);
