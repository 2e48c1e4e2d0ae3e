/* See accounts.h. Linked by airplantd. */
#include "base/clock.h"
#include "core/accounts.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

/* The first crashes are free: a client may meet a bug of ours. Then it doubles. */
enum {
	FREE_CRASHES = 2,
	FIRST_USEC = 100 * 1000,
	MOST_USEC = 60 * 1000 * 1000,
	FORGET_USEC = 600 * 1000 * 1000
};

struct account {
	size_t connections, temp_roots;
	unsigned int crashes;
	uint64_t last_crash_usec, until_usec;
};

static struct account *find(struct accounts *a, uid_t uid, bool make)
{
	char key[16];
	struct account *acc;

	snprintf(key, sizeof(key), "%u", (unsigned int)uid);
	acc = smap_get(&a->uids, key);
	if (acc || !make)
		return acc;
	acc = calloc(1, sizeof(*acc));
	if (acc && smap_put(&a->uids, key, acc) < 0) {
		free(acc);
		acc = NULL;
	}
	return acc;
}

void accounts_done(struct accounts *a)
{
	struct smap_entry *e;

	for (size_t i = 0; (e = smap_next(&a->uids, &i));)
		free(e->value);
	smap_done(&a->uids);
}

int account_open(struct accounts *a, uid_t uid)
{
	struct account *acc;

	if (a->n_connections >= CONNECTIONS_MAX)
		return ACCOUNT_FULL;
	acc = find(a, uid, true);
	if (!acc)
		return -ENOMEM;
	if (acc->connections >= CONNECTIONS_PER_UID)
		return ACCOUNT_FULL;
	acc->connections++;
	a->n_connections++;
	return 0;
}

void account_close(struct accounts *a, uid_t uid)
{
	struct account *acc = find(a, uid, false);
	char key[16];

	if (!acc || acc->connections == 0)
		return;
	acc->connections--;
	a->n_connections--;
	if (acc->connections == 0 && acc->crashes == 0) {
		snprintf(key, sizeof(key), "%u", (unsigned int)uid);
		free(smap_remove(&a->uids, key));
	}
}

int account_hold(struct accounts *a, uid_t uid)
{
	struct account *acc = find(a, uid, false);

	if (!acc || acc->temp_roots >= TEMP_ROOTS_PER_UID)
		return ACCOUNT_FULL;
	acc->temp_roots++;
	return 0;
}

void account_let_go(struct accounts *a, uid_t uid, size_t n)
{
	struct account *acc = find(a, uid, false);

	if (acc)
		acc->temp_roots -= n < acc->temp_roots ? n : acc->temp_roots;
}

static void forgive(struct account *acc, uint64_t now)
{
	if (acc->crashes > 0 && now - acc->last_crash_usec > FORGET_USEC)
		acc->crashes = 0;
}

void account_crash(struct accounts *a, uid_t uid)
{
	struct account *acc = find(a, uid, true);
	uint64_t now = now_usec(), wait = FIRST_USEC;

	if (!acc)
		return;
	forgive(acc, now);
	acc->last_crash_usec = now;
	if (++acc->crashes <= FREE_CRASHES)
		return;
	for (unsigned int i = FREE_CRASHES + 1; i < acc->crashes && wait < MOST_USEC; i++)
		wait *= 2;
	acc->until_usec = now + (wait < MOST_USEC ? wait : MOST_USEC);
}

uint64_t account_penalty(struct accounts *a, uid_t uid)
{
	struct account *acc = find(a, uid, false);
	uint64_t now = now_usec();

	if (!acc)
		return 0;
	forgive(acc, now);
	return acc->crashes > FREE_CRASHES && acc->until_usec > now ? acc->until_usec - now : 0;
}
