/* Who may connect, and who is trusted. See trust.h.
 *
 * Nothing the peer sends is looked at: the kernel's credentials and the configuration decide.
 * Linked by airplantd. */
#include "core/trust.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "core/names.h"

enum { GROUPS_MAX = 65536 };

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
static bool in_group(const struct peer *p, const struct names *n, const char *name)
{
	if (!strcmp(name, n->primary))
		return true;
	for (size_t i = 0; i < n->group_names.n; i++)
		if (!strcmp(n->group_names.v[i], name))
			return n->groups.v[i].exists && (n->groups.v[i].lists_user ||
							 has_group(p, (gid_t)n->groups.v[i].gid));
	return false;
}

bool peer_matches(const struct peer *p, const struct names *n, const struct strv *list)
{
	for (size_t i = 0; i < list->n; i++) {
		const char *entry = list->v[i];

		if (!strcmp(entry, "*") || !strcmp(entry, n->user))
			return true;
		if (entry[0] == '@' && in_group(p, n, entry + 1))
			return true;
	}
	return false;
}

static int add_groups(const struct strv *list, struct strv *ret)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < list->n; i++)
		if (list->v[i][0] == '@' && !strv_has(ret, list->v[i] + 1))
			r = strv_add(ret, list->v[i] + 1);
	return r;
}

int peer_groups(const struct settings *s, struct strv *ret)
{
	_cleanup_strv_ struct strv all = {}, may = {};
	int r = add_groups(&s->trusted_users, &all);

	r = r ? r : add_groups(&s->allowed_users, &all);
	r = r ? r : rights_who(s->may, &may);
	r = r ? r : add_groups(&may, &all);
	if (r < 0)
		return r;
	*ret = all;
	all = (struct strv){};
	return 0;
}

int peer_judge(struct peer *p, const struct names *n, const struct settings *s)
{
	free(p->name);
	p->name = strdup(n->user);
	if (!p->name)
		return -ENOMEM;
	p->owns_name = n->owns_name;
	p->trusted = peer_matches(p, n, &s->trusted_users);
	p->allowed = p->trusted || peer_matches(p, n, &s->allowed_users);
	/* An account that exists to run builds is nobody's client. */
	if (s->build_users_group && *s->build_users_group &&
	    !strcmp(n->primary, s->build_users_group))
		p->allowed = p->trusted = false;
	return rights_of(s->may, p, n, &p->rights);
}
