/* The three sources of ids behind lease.h: what they share, and what each offers lease.c. */
#pragma once

#include "core/lease.h"
#include "core/loop.h"
#include "ipc/ids.h"
#include "slots/slots.h"

struct subid;

struct lease_call {
	struct lease *lease;
	struct lease_call *next, **owner; /* *owner: the caller's, NULL at the end */
	const struct lease_events *ev;
	void *ctx;
	uint64_t since_usec;
	bool begun, told;
	int fds[2]; /* copies: what is sent to the broker, or -1 */
	/* broker */
	enum ids_kind kind;
	unsigned int attempts;
	/* subid: the slot, and the helper that runs */
	pid_t pid;
	struct build_ids ids;
	uint32_t first_gid;
	int lease_fd, helper;
	unsigned int step;
	bool late;
	struct loop_fd *watch;
	struct loop_timer *limit;
};

struct lease {
	const struct core *core; /* whose loop it is */
	enum build_ids_mode mode;
	uid_t uid;
	gid_t gid;
	struct lease_call *calls; /* in the order in which they came */
	struct loop_timer *patience;
	bool told_late;
	/* broker */
	char *socket_path;
	int broker;
	struct loop_fd *watch;
	struct loop_timer *retry;
	uint64_t start_id, id_count; /* as nix.conf has them; 0: it does not say */
	bool told_block;
	/* subid */
	struct subid *subid;
};

/* lease.c. The call is over, and the lease's fd the callee's. */
void call_end(struct lease_call *c, int r, const struct build_ids *ids, int fd,
	      const struct err *e);

/* lease_broker.c: asks the id broker, one call at a time. */
int broker_connect(const char *path);
void broker_go(struct lease *l); /* with the first call that is there */
void broker_close(struct lease *l);

/* lease_subid.c: newuidmap, a set-user-ID program, and grants in /etc/subuid and /etc/subgid. */
int subid_setup(struct lease *l, const char *state_dir, struct err *e);
void subid_free(struct subid *s);
bool subid_offers(const struct subid *s, enum lease_kind kind);
void subid_log(const struct subid *s);
void subid_map(struct lease_call *c, enum lease_kind kind);
void subid_clean(struct lease_call *c, int lease_fd);
int subid_return(struct lease *l, int lease_fd, struct err *e);

/* lease_helper.c: runs newgidmap and newuidmap of that directory for a call that has its slot. */
void helpers_run(struct lease_call *c, const char *dir);
void helpers_stop(struct lease_call *c);
const char *subid_helpers(const struct subid *s);
