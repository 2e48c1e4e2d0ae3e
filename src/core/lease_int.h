/* The three sources of ids behind lease.h: what they share, and what each offers lease.c. */
#pragma once

#include "core/lease.h"
#include "slots/slots.h"

struct subid;

struct lease {
	enum build_ids_mode mode;
	uid_t uid;
	gid_t gid;
	/* broker */
	char *socket_path;
	int broker;
	uint64_t start_id, id_count; /* as nix.conf has them; 0: it does not say */
	bool told_block;
	/* subid */
	struct subid *subid;
};

/* lease_broker.c: asks the id broker. Blocks for two seconds at most. */
int broker_connect(const char *path);
int broker_map(struct lease *l, enum lease_kind kind, int pidfd, struct build_ids *ret_ids,
	       int *ret_fd, struct err *e);
int broker_clean(struct lease *l, int lease_fd, int pidfd, struct build_ids *ret_ids, int *ret_fd,
		 struct err *e);
int broker_return(struct lease *l, int lease_fd, struct err *e);

/* lease_subid.c: newuidmap, a set-user-ID program, and grants in /etc/subuid and /etc/subgid.
 * Blocks for as long as newuidmap and newgidmap take, ten seconds at most. */
int subid_setup(struct lease *l, const char *state_dir, struct err *e);
void subid_free(struct subid *s);
bool subid_offers(const struct subid *s, enum lease_kind kind);
void subid_log(const struct subid *s);
int subid_map(struct lease *l, enum lease_kind kind, pid_t pid, struct build_ids *ret_ids,
	      int *ret_fd, struct err *e);
int subid_clean(struct lease *l, int lease_fd, pid_t pid, struct build_ids *ret_ids, int *ret_fd,
		struct err *e);
int subid_return(struct lease *l, int lease_fd, struct err *e);
