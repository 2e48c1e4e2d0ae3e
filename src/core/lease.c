/* See lease.h: which source of ids it is, decided once. The sources are in lease_broker.c and
 * lease_subid.c. A lease is a locked file in each: it ends when its last holder is gone. Linked by
 * the core. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/core.h"
#include "core/lease_int.h"

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

void lease_free(struct lease *l)
{
	if (!l)
		return;
	close_fdp(&l->broker);
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

int lease_map(struct lease *l, enum lease_kind kind, int pidfd, pid_t pid,
	      struct build_ids *ret_ids, int *ret_fd, struct err *e)
{
	if (l->mode == IDS_BROKER)
		return broker_map(l, kind, pidfd, ret_ids, ret_fd, e);
	if (l->mode == IDS_SUBID)
		return subid_map(l, kind, pid, ret_ids, ret_fd, e);
	if (kind != LEASE_PLAIN)
		return err_set(e, -EOPNOTSUPP,
			       "a build that needs many ids (feature 'uid-range') is not possible "
			       "with 'ids = single', where there is one: set up the id broker "
			       "('ids = broker'), or grants in /etc/subuid and /etc/subgid "
			       "('ids = subid')");
	*ret_ids = (struct build_ids){ IDS_SINGLE, 1, l->uid };
	*ret_fd = -1;
	return 0;
}

int lease_clean(struct lease *l, int lease_fd, int pidfd, pid_t pid, struct build_ids *ret_ids,
		int *ret_fd, struct err *e)
{
	if (l->mode == IDS_BROKER)
		return broker_clean(l, lease_fd, pidfd, ret_ids, ret_fd, e);
	if (l->mode == IDS_SUBID)
		return subid_clean(l, lease_fd, pid, ret_ids, ret_fd, e);
	return LEASE_NONE;
}

int lease_return(struct lease *l, int lease_fd, struct err *e)
{
	if (lease_fd < 0)
		return 0; /* nothing was leased */
	if (l->mode == IDS_BROKER)
		return broker_return(l, lease_fd, e);
	return l->mode == IDS_SUBID ? subid_return(l, lease_fd, e) : 0;
}
