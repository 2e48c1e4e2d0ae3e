/* See lease.h: which source of ids it is, decided once, and the calls under way. The sources are in
 * lease_broker.c and lease_subid.c. A lease is a locked file in each: it ends when its last holder
 * is gone. Linked by the core. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/core.h"
#include "core/lease_int.h"

/* After this long a client is told what his build waits for; and after that long, the log. */
#define LATE_USEC     (2ULL * 1000 * 1000)
#define TOO_LATE_USEC (6ULL * 1000 * 1000)

static const char *socket_path(const struct core *core)
{
	const char *path = core->settings.ids_socket;

	return path && *path ? path : "/run/airplant/ids/socket";
}

/* The mode is broker from now on. That none answers at this moment (`e` says so) changes nothing:
 * it may be starting, and each build asks anew and is refused while nobody answers. */
static int use_broker(struct lease *l, const struct core *core, struct err *e)
{
	const char *path = socket_path(core);
	int r;

	l->socket_path = strdup(path);
	if (!l->socket_path)
		return err_set(e, -ENOMEM, "out of memory");
	l->mode = IDS_BROKER;
	r = broker_connect(path);
	if (r < 0)
		return err_errno(e, r, "no id broker answers at '%s'", path);
	l->broker = r;
	return 0;
}

/* For "auto": is this machine set up for a broker? 0 when its socket is there, whether somebody
 * answers now or not; else what is missing, in `e`. */
static int look_for_broker(const struct core *core, struct err *e)
{
	const char *path = socket_path(core);
	struct stat st;

	if (stat(path, &st) < 0)
		return err_errno(e, -errno, "no id broker has its socket at '%s'", path);
	return S_ISSOCK(st.st_mode) ? 0 : err_set(e, -ENOTSOCK, "'%s' is no socket", path);
}

static int try_subid(struct lease *l, const struct core *core, struct err *e)
{
	int r = subid_setup(l, core->state_dir, e);

	if (r < 0)
		return r;
	l->mode = IDS_SUBID;
	return 0;
}

static int choose_broker(struct lease *l, const struct core *core, char **ret_why, struct err *e)
{
	_cleanup_err_ struct err none = { 0 };
	int r = use_broker(l, core, &none);

	if (r == -ENOMEM)
		return err_set(e, -ENOMEM, "out of memory");
	if (r < 0)
		*ret_why = strdup(err_msg(&none));
	return 0;
}

/* "auto" goes down the list; `ret_why` says why it did not stop earlier (heap, or NULL). */
static int choose(struct lease *l, const struct core *core, char **ret_why, struct err *e)
{
	_cleanup_err_ struct err no_broker = { 0 }, no_subid = { 0 };

	switch (core->settings.ids) {
	case IDS_USE_BROKER:
		return choose_broker(l, core, ret_why, e);
	case IDS_USE_SUBID:
		return try_subid(l, core, e);
	case IDS_USE_SINGLE:
		l->mode = IDS_SINGLE;
		return 0;
	default:
		break;
	}
	if (look_for_broker(core, &no_broker) == 0)
		return choose_broker(l, core, ret_why, e);
	if (try_subid(l, core, &no_subid) == 0)
		return 0;
	if (asprintf(ret_why, "%s; %s", err_msg(&no_broker), err_msg(&no_subid)) < 0)
		*ret_why = NULL;
	l->mode = IDS_SINGLE;
	return 0;
}

static void log_choice(const struct lease *l, const char *why)
{
	switch (l->mode) {
	case IDS_BROKER:
		if (l->broker < 0)
			log_warn("ids: broker, but %s; builds fail until it does",
				 why ? why : "none answers");
		else
			log_info("ids: broker at %s", l->socket_path);
		return;
	case IDS_SUBID:
		subid_log(l->subid);
		return;
	default:
		log_info("ids: single — builds of all users share this uid; separated by "
			 "namespaces only%s%s",
			 why ? "; " : "", why ? why : "");
	}
}

static int setup(struct core *core, struct lease **ret, char **ret_why, struct err *e)
{
	struct lease *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return err_set(e, -ENOMEM, "out of memory");
	l->core = core;
	l->broker = -1;
	l->uid = core->uid;
	l->gid = core->gid;
	l->start_id = core->settings.start_id;
	l->id_count = core->settings.id_count;
	r = choose(l, core, ret_why, e);
	if (r < 0) {
		lease_free(l);
		(void)err_prefix(e,
				 "while choosing where ids for builds come from (setting 'ids'): ");
		return r;
	}
	*ret = l;
	return 0;
}

/* What lease_probe() found, for lease_setup(): the daemon is sealed for one mode, so that there
 * must not be a second answer. */
static struct lease *probed;
static char *probed_why;

int lease_setup(struct core *core, struct lease **ret, struct err *e)
{
	_cleanup_free_ char *why = TAKE_PTR(probed_why);
	int r = 0;

	*ret = TAKE_PTR(probed);
	if (!*ret)
		r = setup(core, ret, &why, e);
	if (r == 0)
		log_choice(*ret, why);
	return r;
}

int lease_probe(struct core *core, enum build_ids_mode *ret, struct err *e)
{
	int r = probed ? 0 : setup(core, &probed, &probed_why, e);

	if (r == 0)
		*ret = probed->mode;
	return r;
}

static void call_free(struct lease_call *c)
{
	helpers_stop(c);
	close_fdp(&c->fds[0]);
	close_fdp(&c->fds[1]);
	close_fdp(&c->lease_fd);
	free(c);
}

void lease_free(struct lease *l)
{
	struct lease_call *c;

	if (!l)
		return;
	while ((c = l->calls)) {
		l->calls = c->next;
		call_free(c);
	}
	loop_timer_cancel(l->patience);
	loop_timer_cancel(l->retry);
	broker_close(l);
	free(l->socket_path);
	subid_free(l->subid);
	free(l);
}

enum build_ids_mode lease_mode(const struct lease *l)
{
	return l->mode;
}

bool lease_offers(const struct lease *l, enum lease_kind kind)
{
	if (l->mode == IDS_SUBID)
		return subid_offers(l->subid, kind);
	return l->mode == IDS_BROKER || kind == LEASE_PLAIN;
}

/* ---- calls ---- */

static void say_whom(const struct lease *l, char ret[static 160])
{
	if (l->mode == IDS_BROKER)
		snprintf(ret, 160, "the id broker at '%.108s'", l->socket_path);
	else
		snprintf(ret, 160, "newuidmap in '%.100s'", subid_helpers(l->subid));
}

static void watch_patience(struct lease *l);

static void on_late(void *ctx)
{
	struct lease *l = ctx;
	uint64_t now = now_usec();
	char whom[160];

	l->patience = NULL;
	say_whom(l, whom);
	if (l->calls && !l->told_late && now - l->calls->since_usec >= TOO_LATE_USEC) {
		l->told_late = true;
		log_warn("%s has not answered for %llu seconds; builds that need ids wait for it",
			 whom, (unsigned long long)(now - l->calls->since_usec) / 1000000);
	}
	for (struct lease_call *c = l->calls; c; c = c->next) {
		if (c->told || now - c->since_usec < LATE_USEC)
			continue;
		c->told = true;
		if (c->ev->late)
			c->ev->late(c->ctx, whom);
	}
	watch_patience(l);
}

static void watch_patience(struct lease *l)
{
	/* Without a timer nobody is told; the rest goes on. */
	if (l->calls && !l->patience &&
	    loop_timer(l->core->loop, LATE_USEC, on_late, l, &l->patience) < 0)
		l->patience = NULL;
}

static void unlink_call(struct lease_call *c)
{
	struct lease_call **link = &c->lease->calls;

	while (*link != c)
		link = &(*link)->next;
	*link = c->next;
	if (c->owner)
		*c->owner = NULL;
}

static void has_answered(struct lease *l)
{
	char whom[160];

	if (!l->told_late)
		return;
	l->told_late = false;
	say_whom(l, whom);
	log_info("%s answers again", whom);
}

void call_end(struct lease_call *c, int r, const struct build_ids *ids, int fd, const struct err *e)
{
	const struct lease_events *ev = c->ev;
	struct build_ids copy = ids ? *ids : (struct build_ids){};
	void *ctx = c->ctx;

	if (r >= 0)
		has_answered(c->lease);
	unlink_call(c);
	call_free(c);
	ev->done(ctx, r, &copy, fd, e);
}

/* Appended to the calls; NULL: `done` was told. */
static struct lease_call *call_new(struct lease *l, int fd, int fd2, pid_t pid,
				   const struct lease_events *ev, void *ctx,
				   struct lease_call **owner)
{
	struct lease_call *c = calloc(1, sizeof(*c)), **end = &l->calls;
	_cleanup_err_ struct err e = {};
	int r = 0;

	if (c) {
		*c = (struct lease_call){ .lease = l,
					  .owner = owner,
					  .ev = ev,
					  .ctx = ctx,
					  .pid = pid,
					  .since_usec = now_usec(),
					  .fds = { fd, fd2 },
					  .lease_fd = -1,
					  .helper = -1 };
		for (int i = 0; i < 2; i++)
			if (c->fds[i] >= 0) {
				c->fds[i] = fcntl(c->fds[i], F_DUPFD_CLOEXEC, 3);
				r = c->fds[i] < 0 ? -errno : r;
			}
	}
	if (!c || r < 0) {
		if (c)
			call_free(c);
		r = err_errno(&e, c ? r : -ENOMEM, "asking for ids for a build");
		ev->done(ctx, r, &(struct build_ids){}, -1, &e);
		return NULL;
	}
	while (*end)
		end = &(*end)->next;
	*end = c;
	if (owner)
		*owner = c;
	watch_patience(l);
	return c;
}

bool lease_cancel(struct lease_call *c)
{
	if (c->begun)
		return false;
	unlink_call(c);
	call_free(c);
	return true;
}

void lease_map(struct lease *l, enum lease_kind kind, int pidfd, pid_t pid,
	       const struct lease_events *ev, void *ctx, struct lease_call **ret)
{
	static const enum ids_kind kinds[] = {
		[LEASE_PLAIN] = IDS_PLAIN, [LEASE_RANGE] = IDS_RANGE, [LEASE_RANGE4] = IDS_RANGE4
	};
	_cleanup_err_ struct err e = {};
	struct lease_call *c;

	if (l->mode == IDS_SINGLE) {
		if (kind != LEASE_PLAIN)
			(void)err_set(
				&e, -EOPNOTSUPP,
				"a build that needs many ids (feature 'uid-range') is not "
				"possible with 'ids = single', where there is one: set up the "
				"id broker ('ids = broker'), or grants in /etc/subuid and "
				"/etc/subgid ('ids = subid')");
		ev->done(ctx, e.code, &(struct build_ids){ IDS_SINGLE, 1, l->uid }, -1, &e);
		return;
	}
	c = call_new(l, l->mode == IDS_BROKER ? pidfd : -1, -1, pid, ev, ctx, ret);
	if (!c)
		return;
	c->kind = kinds[kind];
	if (l->mode == IDS_BROKER)
		broker_go(l);
	else
		subid_map(c, kind);
}

void lease_clean(struct lease *l, int lease_fd, int pidfd, pid_t pid, const struct lease_events *ev,
		 void *ctx, struct lease_call **ret)
{
	_cleanup_err_ struct err none = {};
	bool broker = l->mode == IDS_BROKER;
	struct lease_call *c;

	if (l->mode == IDS_SINGLE) {
		ev->done(ctx, LEASE_NONE, &(struct build_ids){}, -1, &none);
		return;
	}
	c = call_new(l, broker ? pidfd : -1, broker ? lease_fd : -1, pid, ev, ctx, ret);
	if (!c)
		return;
	c->kind = IDS_CLEAN;
	if (broker)
		broker_go(l);
	else
		subid_clean(c, lease_fd);
}

void lease_return(struct lease *l, int lease_fd, const struct lease_events *ev, void *ctx)
{
	_cleanup_err_ struct err e = {};
	_cleanup_close_ int fd = lease_fd;
	struct lease_call *c;
	int r = 0;

	if (fd < 0 || l->mode != IDS_BROKER) {
		if (fd >= 0 && l->mode == IDS_SUBID)
			r = subid_return(l, fd, &e);
		close_fdp(&fd);
		ev->done(ctx, r, &(struct build_ids){}, -1, &e);
		return;
	}
	c = call_new(l, fd, -1, 0, ev, ctx, NULL);
	if (!c)
		return;
	close_fdp(&fd); /* the copy goes with the call: the slot is free when `done` is told */
	c->kind = IDS_RETURN;
	broker_go(l);
}
