/* One answer: hands requests to the looker, passes on what it says, and replaces it when it is
 * stuck. See tracer.h for their talk, ipc/roots.h for the answer. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/strv.h"
#include "ipc/roots.h"
#include "roots/tracer.h"

enum {
	SYSTEM_LIMIT_MSEC = 30000, /* a process of the superuser, the list of processes */
	LINK_LIMIT_MSEC = 4000,	   /* less for each that was not answered */
	LINK_LIMIT_MIN_MSEC = 125,
	LEFT_MAX = 24,
	FLUSH_USEC = 1000 * 1000, /* the client takes silence for the end */
	OUT_MAX = 64 * 1024,
};

struct account {
	uint64_t usec, skipped;
};

struct answer {
	const struct tracer *t;
	int out, r; /* r: the peer's, once negative */
	bool upstream;
	char poison[512]; /* why a stock daemon must not believe this answer */
	struct buf buf;
	uint64_t n, skipped, flushed_usec;
	struct strv todo; /* served from its end */
	struct smap accounts;
	/* the looker */
	pid_t pid;
	int chan;
	bool links;
	/* the request under way */
	uint32_t uid;
	bool has_uid;
	char stuck[MESSAGE_MAX];
	size_t stuck_len;
	unsigned int slow_links;
};

static void flush(struct answer *a)
{
	if (a->r == 0)
		a->r = write_full(a->out, a->buf.data, a->buf.len);
	buf_clear(&a->buf);
	a->flushed_usec = now_usec();
}

/* To a stock daemon the end of the stream is the end of the answer, wherever it comes. So we never
 * stop but in the middle of a path: each path goes with the beginning of the next one, which is not
 * a path; and the last is one that does not exist, or that cannot be. */
static void put_upstream(struct answer *a, const char *rest, bool more)
{
	buf_clear(&a->buf);
	if ((rest && buf_append(&a->buf, rest, strlen(rest) + 1) < 0) ||
	    (more && buf_printf(&a->buf, "%s/", a->t->store) < 0))
		a->r = -ENOMEM;
	flush(a); /* small enough to go whole or not at all */
}

static void put(struct answer *a, const char *record, size_t len)
{
	a->n++;
	if (a->upstream) {
		if (record[0] == ROOTS_ROOT)
			put_upstream(a, record + 1, true);
		else if (record[0] == ROOTS_INCOMPLETE && !a->poison[0])
			snprintf(a->poison, sizeof(a->poison), "%s", record + 1);
		return;
	}
	if (a->buf.len + len > OUT_MAX)
		flush(a);
	if (buf_append(&a->buf, record, len) < 0)
		a->r = -ENOMEM;
}

static void incomplete(struct answer *a, const char *why, const char *what)
{
	char record[512];
	int n = snprintf(record, sizeof(record), "%c%s %s", ROOTS_INCOMPLETE, why, what);

	put(a, record, (size_t)(n < (int)sizeof(record) ? n : (int)sizeof(record) - 1) + 1);
}

static void put_flood(struct answer *a, uint32_t uid, uint64_t n_processes)
{
	char record[64];
	int n = snprintf(record, sizeof(record), "%c%u%c%llu", ROOTS_FLOOD, uid, 0,
			 (unsigned long long)n_processes);

	put(a, record, (size_t)n + 1);
}

static void next(struct answer *a, const char *request)
{
	if (strv_add(&a->todo, request) < 0)
		a->r = -ENOMEM;
}

static struct account *account(struct answer *a)
{
	char key[16];
	struct account *acc;

	snprintf(key, sizeof(key), "%u", a->uid);
	acc = smap_get(&a->accounts, key);
	if (!acc && a->has_uid) {
		acc = calloc(1, sizeof(*acc));
		if (!acc || smap_put(&a->accounts, key, acc) < 0)
			a->r = -ENOMEM;
	}
	return acc;
}

/* Killed lookers that are still there: what waits for a FUSE server cannot be ended. */
static unsigned int n_left;

static void dismiss(struct answer *a, bool idle)
{
	if (a->pid > 0) {
		(void)kill(a->pid, SIGKILL); /* ours, and not reaped yet */
		if (waitpid(a->pid, NULL, idle ? 0 : WNOHANG) != a->pid)
			n_left++;
	}
	a->pid = 0;
	close_fdp(&a->chan);
}

static int engage(struct answer *a, bool links)
{
	static struct looker l;
	int pair[2];

	if (a->pid > 0 && a->links == links)
		return 0;
	dismiss(a, true);
	while (n_left > 0 && waitpid(-1, NULL, WNOHANG) > 0)
		n_left--;
	a->links = links;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	a->pid = fork();
	if (a->pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		close(pair[0]);
		close(a->out);
		l = (struct looker){ .t = a->t, .chan = pair[1] };
		looker_run(&l, links);
	}
	a->chan = pair[0];
	close(pair[1]);
	return a->pid < 0 ? -errno : 0;
}

/* No word in time. What it was about to look at last is said for it. */
static void gave_up(struct answer *a, const char *request)
{
	const char *record = memchr(a->stuck, 0, a->stuck_len), *dir = strchr(request, ' ');
	struct account *acc = account(a);
	char text[MESSAGE_MAX];
	int n;

	dismiss(a, false);
	if (a->links && record) {
		a->slow_links++;
		next(a, a->stuck);
		put(a, record + 1, a->stuck_len - (size_t)(record + 1 - a->stuck));
	} else if (a->links && strchr(dir, '/')) {
		n = snprintf(text, sizeof(text), "%c%s%cu%c-%c%c", ROOTS_LINK, dir + 1, 0, 0, 0, 0);
		put(a, text, (size_t)n + 1);
	} else if (acc && a->uid != 0) {
		put_flood(a, a->uid, 1); /* at once: the client waits as well */
	} else {
		incomplete(a, "no answer in time when looking at", request + 1);
	}
}

/* Whether there is time to look at all of a process. */
static bool within_budget(struct answer *a)
{
	struct account *acc = account(a);

	if (!acc || a->uid == 0 || (acc->usec < a->t->account_usec && n_left < LEFT_MAX))
		return true;
	acc->skipped++;
	return false;
}

static void on_message(struct answer *a, const char *msg, size_t len)
{
	switch (msg[0]) {
	case SAY_NEXT:
		next(a, msg + 1);
		break;
	case SAY_STUCK:
		memcpy(a->stuck, msg + 1, len - 1);
		a->stuck_len = len - 1;
		break;
	case SAY_ACCOUNT:
		a->uid = (uint32_t)strtoul(msg + 1, NULL, 10);
		a->has_uid = true;
		(void)send(a->chan, within_budget(a) ? "y" : "n", 1, MSG_NOSIGNAL);
		break;
	case SAY_HINDERED:
		if (a->has_uid && a->uid != 0 && account(a))
			account(a)->skipped++;
		else
			incomplete(a, "hindered:", msg + 1);
		break;
	case SAY_SKIPPED:
		a->skipped++;
		break;
	default:
		if (msg[0] == ROOTS_LINK)
			a->stuck_len = 0;
		put(a, msg, len);
	}
}

static int limit_msec(const struct answer *a, char kind)
{
	int msec = LINK_LIMIT_MSEC >> (a->slow_links < 8 ? a->slow_links : 8);

	if (kind != 'd' && kind != 'b')
		return a->has_uid && a->uid != 0 ? a->t->process_msec : SYSTEM_LIMIT_MSEC;
	return msec < LINK_LIMIT_MIN_MSEC ? LINK_LIMIT_MIN_MSEC : msec;
}

/* Until the looker is done. */
static void listen_to(struct answer *a, const char *request)
{
	static char msg[MESSAGE_MAX];
	uint64_t start = now_usec();

	while (a->r == 0) {
		int64_t left = limit_msec(a, request[0]) - (int64_t)(now_usec() - start) / 1000;
		struct pollfd p = { .fd = a->chan, .events = POLLIN };
		ssize_t n;

		if (left <= 0 || poll(&p, 1, (int)left) == 0) {
			gave_up(a, request);
			return;
		}
		n = recv(a->chan, msg, sizeof(msg), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 1 || msg[n - 1] != 0) {
			dismiss(a, true);
			incomplete(a, "the reader died when looking at", request + 1);
			return;
		}
		if (msg[0] == SAY_DONE)
			return;
		on_message(a, msg, (size_t)n);
		/* A directory of links has a limit for each of them. */
		if (a->links)
			start = now_usec();
	}
}

static void run(struct answer *a, char *request)
{
	uint64_t start = now_usec();
	struct account *acc;
	int r = engage(a, request[0] == 'd');

	a->has_uid = false;
	a->uid = UINT32_MAX;
	a->stuck_len = 0;
	if (request[0] == 's')
		a->skipped = 0; /* the second time they are the same ones */
	/* Where too many got stuck, links are no longer followed: each counts as alive. */
	if (request[0] == 'd' && n_left >= LEFT_MAX)
		request[0] = 'b';
	if (r < 0 || send(a->chan, request, strlen(request), MSG_NOSIGNAL) < 0) {
		dismiss(a, true);
		incomplete(a, "cannot start a reader for", request + 1);
		return;
	}
	listen_to(a, request);
	if (!a->upstream && now_usec() - a->flushed_usec > FLUSH_USEC)
		flush(a);
	acc = a->has_uid ? account(a) : NULL;
	if (acc)
		acc->usec += now_usec() - start;
}

static void put_end(struct answer *a)
{
	char end[64];
	int n = snprintf(end, sizeof(end), "%c%llu", ROOTS_END, (unsigned long long)a->n);

	if (a->upstream && a->poison[0])
		put_upstream(a, a->poison, false);
	else if (a->upstream)
		put_upstream(a, "00000000000000000000000000000000-end-of-roots", false);
	else
		put(a, end, (size_t)n + 1);
	flush(a);
}

/* Frees the accounts as well. */
static void put_accounts(struct answer *a)
{
	struct smap_entry *e;
	char record[64];
	int n;

	for (size_t i = 0; (e = smap_next(&a->accounts, &i));) {
		struct account *acc = e->value;

		if (acc->skipped)
			put_flood(a, (uint32_t)strtoul(e->key, NULL, 10), acc->skipped);
		free(acc);
	}
	smap_done(&a->accounts);
	n = snprintf(record, sizeof(record), "%c%llu", ROOTS_SKIPPED,
		     (unsigned long long)a->skipped);
	if (a->t->own_user || a->t->skip_hidden)
		put(a, record, (size_t)n + 1);
}

int serve(const struct tracer *t, int out, bool upstream)
{
	struct answer a = {
		.t = t, .out = out, .upstream = upstream, .buf = BUF_INIT(OUT_MAX), .chan = -1
	};

	if (upstream) {
		/* Before anything can go wrong: an end of the stream is not yet an end. */
		put_upstream(&a, NULL, true);
	} else {
		put(&a, "A1", 3);
	}
	/* From the last to the first. Processes twice: what one hands to another that has been
	 * looked at is found there the second time. */
	if (!upstream) /* a stock daemon looks there itself */
		next(&a, "t");
	next(&a, "k");
	next(&a, "s");
	next(&a, "s");
	if (!upstream) {
		next(&a, "d0 profiles");
		next(&a, "d0 gcroots");
	}
	while (a.r == 0 && a.todo.n > 0) {
		_cleanup_free_ char *request = a.todo.v[--a.todo.n];

		run(&a, request);
	}
	dismiss(&a, a.r == 0);
	strv_done(&a.todo);
	put_accounts(&a);
	put_end(&a);
	buf_done(&a.buf);
	return a.r;
}
