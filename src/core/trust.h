/* Who may connect and who is trusted: decided once, at accept, from the kernel's word about the
 * peer (SO_PEERCRED, SO_PEERGROUPS) and the settings. Feature row I1. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "conf/conf.h"
#include "core/rights.h"

struct names;
struct nest;

struct peer {
	uid_t uid;
	gid_t gid;
	pid_t pid;
	gid_t *groups; /* supplementary groups; heap */
	size_t n_groups;
	char *name; /* user name, or the number when there is none; heap */
	/* It is the account that its name belongs to: not one without a name, which goes by its
	 * number here, and not the second of two with the same name. */
	bool owns_name;
	bool allowed, trusted;
	struct rights rights;
	/* Not a user's: of a build (nest.h). `nest` is NULL when that is over. */
	bool nested;
	struct nest *nest;
};

void peer_done(struct peer *p);
#define _cleanup_peer_ _cleanup_(peer_done)

/* Asks the kernel who connected. 0 or -errno. The name and the decision are not filled. */
int peer_read(int fd, struct peer *ret);
/* The groups that these settings name, without the "@": what has to be known of a client besides its
 * own names. Heap. 0 or -ENOMEM. */
int peer_groups(const struct settings *s, struct strv *ret);
/* Fills name, allowed, trusted and rights, from what the user database says (core/names.h), which
 * covers peer_groups. 0 or -ENOMEM. */
int peer_judge(struct peer *p, const struct names *n, const struct settings *s);
/* Does a list ("*", "name", "@group", a number for a user without a name) name this peer? */
bool peer_matches(const struct peer *p, const struct names *n, const struct strv *list);
