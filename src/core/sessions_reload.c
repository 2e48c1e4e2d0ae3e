/* What new settings mean for those who are connected. See sessions.h. Linked by airplantd.
 *
 * A connection keeps the settings that it began with, as with upstream, where each has a process of
 * its own. Not so what is anybody's right: what the new settings take away is gone at once, and
 * who may not connect any more is sent away. Nobody gains a right before he connects again. */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "core/names.h"
#include "core/session_state.h"

struct kept_settings {
	size_t refs;
	struct settings v;
};

const struct settings *session_daemon_settings(const struct session *s)
{
	return s->kept ? &s->kept->v : &s->all->core->settings;
}

void session_let_settings_go(struct session *s)
{
	struct kept_settings *k = s->kept;

	s->kept = NULL;
	if (k && --k->refs == 0) {
		settings_done(&k->v);
		free(k);
	}
}

static void keep_common(struct strv *list, const struct strv *now)
{
	size_t n = 0;

	for (size_t i = 0; i < list->n; i++) {
		if (strv_has(now, list->v[i]))
			list->v[n++] = list->v[i];
		else
			free(list->v[i]);
	}
	list->n = n;
}

static void send_away(struct session *s, const char *why)
{
	log_info("session %d of user %s is ended: %s", (int)s->pid, s->peer.name, why);
	session_doom(s);
}

static void on_names(void *ctx, const struct names *names, const char *why)
{
	struct session *s = ctx;
	/* The groups are the kernel's word, which has not changed. */
	struct peer now = { .uid = s->peer.uid,
			    .gid = s->peer.gid,
			    .groups = s->peer.groups,
			    .n_groups = s->peer.n_groups };
	int r = names ? peer_judge(&now, names, &s->all->core->settings) : 0;

	if (!names) {
		send_away(s, why);
	} else if (r < 0) {
		send_away(s, strerror(-r));
	} else if (!now.allowed) {
		send_away(s, "the settings do not allow him to connect any more");
	} else {
		s->peer.trusted = s->peer.trusted && now.trusted;
		s->peer.rights.mask &= now.rights.mask;
		keep_common(&s->peer.rights.set, &now.rights.set);
		keep_common(&s->peer.rights.substituters, &now.rights.substituters);
	}
	now.groups = NULL;
	peer_done(&now);
	session_unref(s);
}

static void judge_again(struct session *s, struct names_desk *desk, const struct strv *groups)
{
	session_ref(s);
	int r = names_ask(desk, s->peer.uid, s->peer.gid, groups, on_names, s);
	if (r < 0) {
		send_away(s, r == -EBUSY ? "too many wait for the user database" : strerror(-r));
		session_unref(s);
	}
}

static void give_old_settings(struct sessions *ss, struct settings *old)
{
	struct kept_settings *k = malloc(sizeof(*k));

	if (!k) /* then they get the new ones */
		return;
	*k = (struct kept_settings){ .refs = 1, .v = *old };
	*old = (struct settings){};
	for (struct session *s = ss->list; s; s = s->next)
		if (s->assigned && !s->kept) {
			s->kept = k;
			k->refs++;
		}
	if (--k->refs == 0) {
		settings_done(&k->v);
		free(k);
	}
}

void sessions_settings_changed(struct sessions *ss, struct names_desk *desk, struct settings *old)
{
	_cleanup_strv_ struct strv groups = {};
	struct session *next;

	give_old_settings(ss, old);
	if (peer_groups(&ss->core->settings, &groups) < 0) {
		log_error("out of memory: connected users keep their rights");
		return;
	}
	for (struct session *s = ss->list; s; s = next) {
		next = s->next;
		/* A build's has no rights to lose, and its user's groups nobody knows. */
		if (s->assigned && !s->stopped && !s->peer.nested)
			judge_again(s, desk, &groups);
	}
}
