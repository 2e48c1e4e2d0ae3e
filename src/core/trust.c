/* Who may connect, and who is trusted. See trust.h.
 *
 * Nothing the peer sends is looked at: the kernel's credentials and the configuration decide.
 * Linked by airplantd. */
#include "core/trust.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

enum { NSS_BUF = 16 * 1024, NSS_BUF_MAX = 4 * 1024 * 1024, GROUPS_MAX = 65536 };

void peer_done(struct peer *p)
{
	free(p->groups);
	free(p->name);
	rights_done(&p->rights);
	p->groups = NULL;
	p->name = NULL;
	p->n_groups = 0;
}

static int read_groups(int fd, struct peer *p)
{
	socklen_t len = 64 * sizeof(gid_t);

	for (;;) {
		gid_t *v = malloc(len ? len : 1);

		if (!v)
			return -ENOMEM;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, v, &len) == 0) {
			p->groups = v;
			p->n_groups = len / sizeof(gid_t);
			return 0;
		}
		free(v);
		/* ERANGE tells the length that is needed. */
		if (errno != ERANGE || len > GROUPS_MAX * sizeof(gid_t))
			return errno == ENODATA ? 0 : -errno;
	}
}

int peer_read(int fd, struct peer *ret)
{
	_cleanup_peer_ struct peer p = {};
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int r;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	p.uid = cred.uid;
	p.gid = cred.gid;
	p.pid = cred.pid;
	r = read_groups(fd, &p);
	if (r < 0)
		return r;
	*ret = p;
	p = (struct peer){};
	return 0;
}

/* The name of a user or a group, or its number. */
static char *user_name(uid_t uid)
{
	struct passwd pw, *res = NULL;
	char *name;

	for (size_t size = NSS_BUF; size <= NSS_BUF_MAX; size *= 4) {
		_cleanup_free_ char *buf = malloc(size);

		if (!buf)
			return NULL;
		if (getpwuid_r(uid, &pw, buf, size, &res) == ERANGE)
			continue;
		if (res)
			return strdup(res->pw_name);
		break;
	}
	return asprintf(&name, "%u", (unsigned int)uid) < 0 ? NULL : name;
}

bool peer_owns_name(const struct peer *p)
{
	struct passwd pw, *res = NULL;

	for (size_t size = NSS_BUF; size <= NSS_BUF_MAX; size *= 4) {
		_cleanup_free_ char *buf = malloc(size);

		if (!buf)
			return false;
		if (getpwnam_r(p->name, &pw, buf, size, &res) == ERANGE)
			continue;
		return res && res->pw_uid == p->uid;
	}
	return false;
}

static char *group_name(gid_t gid)
{
	struct group gr, *res = NULL;
	char *name;

	for (size_t size = NSS_BUF; size <= NSS_BUF_MAX; size *= 4) {
		_cleanup_free_ char *buf = malloc(size);

		if (!buf)
			return NULL;
		if (getgrgid_r(gid, &gr, buf, size, &res) == ERANGE)
			continue;
		if (res)
			return strdup(res->gr_name);
		break;
	}
	return asprintf(&name, "%u", (unsigned int)gid) < 0 ? NULL : name;
}

static bool has_group(const struct peer *p, gid_t gid)
{
	if (p->gid == gid)
		return true;
	for (size_t i = 0; i < p->n_groups; i++)
		if (p->groups[i] == gid)
			return true;
	return false;
}

/* Is the peer in the group of this name: by what its process carries, or by the member list? */
static bool in_group(const struct peer *p, const char *name)
{
	struct group gr, *res = NULL;

	for (size_t size = NSS_BUF; size <= NSS_BUF_MAX; size *= 4) {
		_cleanup_free_ char *buf = malloc(size);

		if (!buf)
			return false;
		if (getgrnam_r(name, &gr, buf, size, &res) == ERANGE)
			continue;
		if (!res)
			return false;
		if (has_group(p, res->gr_gid))
			return true;
		for (char **m = res->gr_mem; p->name && *m; m++)
			if (!strcmp(*m, p->name))
				return true;
		return false;
	}
	return false;
}

bool peer_matches(const struct peer *p, const char *primary, const struct strv *list)
{
	for (size_t i = 0; i < list->n; i++) {
		const char *entry = list->v[i];

		if (!strcmp(entry, "*"))
			return true;
		if (entry[0] == '@') {
			if ((primary && !strcmp(entry + 1, primary)) || in_group(p, entry + 1))
				return true;
		} else if (p->name && !strcmp(entry, p->name)) {
			return true;
		}
	}
	return false;
}

int peer_judge(struct peer *p, const struct settings *s)
{
	_cleanup_free_ char *primary = group_name(p->gid);

	if (!p->name)
		p->name = user_name(p->uid);
	if (!p->name || !primary)
		return -ENOMEM;
	p->trusted = peer_matches(p, primary, &s->trusted_users);
	p->allowed = p->trusted || peer_matches(p, primary, &s->allowed_users);
	/* An account that exists to run builds is nobody's client. */
	if (s->build_users_group && *s->build_users_group && !strcmp(primary, s->build_users_group))
		p->allowed = p->trusted = false;
	return rights_of(s->may, p, primary, &p->rights);
}
