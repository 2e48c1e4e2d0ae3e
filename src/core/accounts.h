/* What each uid uses of the daemon: connections now, and sessions it crashed lately. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/strv.h"

enum { CONNECTIONS_PER_UID = 512, CONNECTIONS_MAX = 4096 };

struct accounts {
	struct smap uids;
	size_t n_connections;
};

enum { ACCOUNT_FULL = 1 };
/* Temporary roots of all sessions of a uid; they stay in the core's memory. */
enum { TEMP_ROOTS_PER_UID = 2 * 1000 * 1000 };

void accounts_done(struct accounts *a);
/* One more connection. 0, -ENOMEM, or ACCOUNT_FULL: this uid or everybody has enough. */
int account_open(struct accounts *a, uid_t uid);
void account_close(struct accounts *a, uid_t uid);
/* One temporary root more. 0, or ACCOUNT_FULL. */
int account_hold(struct accounts *a, uid_t uid);
void account_let_go(struct accounts *a, uid_t uid, size_t n);
/* A session of this uid died of a signal. */
void account_crash(struct accounts *a, uid_t uid);
/* Microseconds that this uid's next session has to wait: 0 for those who crash nothing. */
uint64_t account_penalty(struct accounts *a, uid_t uid);
