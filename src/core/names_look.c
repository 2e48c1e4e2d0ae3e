/* The helper that asks the user database. See names.h. Linked by airplantd; runs as a process of
 * its own, since what stands behind the C library's calls may wait for the network, or fail.
 *
 * It decides nothing: it says what is written there, and the core compares (trust.c). */
#include "core/names.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/log.h"
#include "confine/confine.h"

enum { NSS_BUF = 16 * 1024, NSS_BUF_MAX = 4 * 1024 * 1024, ANSWER_MAX = 1 << 20 };

static const struct field question_fields[] = {
	{ FIELD_U64, offsetof(struct names_question, uid), NULL },
	{ FIELD_U64, offsetof(struct names_question, gid), NULL },
	{ FIELD_STRV, offsetof(struct names_question, groups), NULL },
};
const struct layout names_question_layout = { "names_question", sizeof(struct names_question),
					      question_fields, ELEMENTS(question_fields) };

LOCAL_LAYOUT(group_layout, struct names_group,
	     { FIELD_U64, offsetof(struct names_group, exists), NULL },
	     { FIELD_U64, offsetof(struct names_group, gid), NULL },
	     { FIELD_U64, offsetof(struct names_group, lists_user), NULL });
LAYOUT(names_layout, struct names, { FIELD_U64, offsetof(struct names, error), NULL },
       { FIELD_STR, offsetof(struct names, user), NULL },
       { FIELD_STR, offsetof(struct names, primary), NULL },
       { FIELD_U64, offsetof(struct names, owns_name), NULL },
       { FIELD_LIST, offsetof(struct names, groups), &group_layout });

/* One entry of the user database, and the memory it lies in. */
struct entry {
	char *buf;
	struct passwd pw;
	struct group gr;
	bool found;
};

static void entry_done(struct entry *x)
{
	free(x->buf);
}

/* "There is none" has many numbers (getpwnam(3)). What is left may be different a moment later, and
 * who a client is must not depend on that. */
static bool is_absence(int error)
{
	return error != EIO && error != EAGAIN && error != ENOMEM && error != EMFILE &&
	       error != ENFILE && error != ETIMEDOUT && error != EINTR && error != ECONNREFUSED;
}

enum what { USER_BY_ID, USER_BY_NAME, GROUP_BY_ID, GROUP_BY_NAME };

static int ask(enum what what, id_t id, const char *name, struct entry *x, size_t size,
	       bool *ret_found)
{
	struct passwd *pw = NULL;
	struct group *gr = NULL;
	int r = 0;

	switch (what) {
	case USER_BY_ID:
		r = getpwuid_r((uid_t)id, &x->pw, x->buf, size, &pw);
		break;
	case USER_BY_NAME:
		r = getpwnam_r(name, &x->pw, x->buf, size, &pw);
		break;
	case GROUP_BY_ID:
		r = getgrgid_r((gid_t)id, &x->gr, x->buf, size, &gr);
		break;
	case GROUP_BY_NAME:
		r = getgrnam_r(name, &x->gr, x->buf, size, &gr);
		break;
	}
	*ret_found = pw || gr;
	return r;
}

/* 0, also when there is no such entry; or -errno. */
static int look(enum what what, id_t id, const char *name, struct entry *ret)
{
	struct entry x = {};

	for (size_t size = NSS_BUF; size <= NSS_BUF_MAX; size *= 4) {
		int r;

		free(x.buf);
		x.buf = malloc(size);
		if (!x.buf)
			return -ENOMEM;
		r = ask(what, id, name, &x, size, &x.found);
		if (r == ERANGE)
			continue;
		if (!x.found && r != 0 && !is_absence(r)) {
			free(x.buf);
			return -r;
		}
		*ret = x;
		return 0;
	}
	free(x.buf);
	return -ERANGE; /* somebody's entry of more than 4 MiB */
}

static char *number(struct arena *a, uint64_t n)
{
	return arena_printf(a, "%u", (unsigned int)n);
}

static int look_user(const struct names_question *q, struct arena *a, struct names *n)
{
	_cleanup_(entry_done) struct entry x = {}, back = {};
	int r = look(USER_BY_ID, (id_t)q->uid, NULL, &x);

	if (r < 0)
		return r;
	n->user = x.found ? arena_strdup(a, x.pw.pw_name) : number(a, q->uid);
	if (!n->user)
		return -ENOMEM;
	/* A number could be somebody else's name. */
	r = look(USER_BY_NAME, 0, n->user, &back);
	n->owns_name = r == 0 && back.found && back.pw.pw_uid == (uid_t)q->uid;
	return r;
}

static int look_primary(const struct names_question *q, struct arena *a, struct names *n)
{
	_cleanup_(entry_done) struct entry x = {};
	int r = look(GROUP_BY_ID, (id_t)q->gid, NULL, &x);

	if (r < 0)
		return r;
	n->primary = x.found ? arena_strdup(a, x.gr.gr_name) : number(a, q->gid);
	return n->primary ? 0 : -ENOMEM;
}

static int look_group(const char *name, const char *user, struct names_group *ret)
{
	_cleanup_(entry_done) struct entry x = {};
	int r = look(GROUP_BY_NAME, 0, name, &x);

	if (r < 0 || !x.found)
		return r;
	*ret = (struct names_group){ .exists = true, .gid = x.gr.gr_gid };
	for (char **m = x.gr.gr_mem; m && *m; m++)
		if (!strcmp(*m, user))
			ret->lists_user = true;
	return 0;
}

int names_look(const struct names_question *q, struct arena *a, struct names *ret)
{
	struct names n = {};
	int r;

	n.groups.v = arena_array(a, q->groups.n + 1, sizeof(*n.groups.v));
	if (!n.groups.v)
		return -ENOMEM;
	r = look_user(q, a, &n);
	r = r ? r : look_primary(q, a, &n);
	for (; r == 0 && n.groups.n < q->groups.n; n.groups.n++)
		r = look_group(q->groups.v[n.groups.n], n.user, &n.groups.v[n.groups.n]);
	if (r == -ENOMEM)
		return r;
	*ret = r < 0 ? (struct names){ .error = (uint64_t)-r } : n;
	return 0;
}

static int answer(const struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(ANSWER_MAX);
	struct names_question q;
	struct names n;
	int r = m->type == NAMES_ASK ? msg_decode(m, &names_question_layout, &a, &q) : -EBADMSG;

	r = r ? r : names_look(&q, &a, &n);
	if (r == -ENOMEM)
		n = (struct names){ .error = ENOMEM };
	else if (r)
		return r;
	return chan_send_record(NAMES_FD, NAMES_ANSWER, m->id, &names_layout, &n, NULL, 0);
}

int names_serve(void)
{
	_cleanup_err_ struct err e = {};

	/* Who waits for a file system or a server does not see that the core has gone. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NAME, "airplant-names") < 0)
		return 1;
	if (confine_seal(CONFINE_NAMES, &e) < 0) {
		log_error("%s", err_msg(&e));
		return 1;
	}
	for (;;) {
		_cleanup_msg_ struct msg m = MSG_INIT;
		int r = chan_recv(NAMES_FD, NAMES_MSG_MAX, &m);

		if (r == CHAN_EOF)
			return 0;
		if (r != 0 || answer(&m) != 0)
			return 1;
	}
}
