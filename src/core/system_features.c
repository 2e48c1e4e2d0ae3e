/* See system_features.h. */
#include "core/system_features.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "core/core.h"
#include "core/realise.h"

static const char kvm_node[] = "/dev/kvm";

/* Does one of the groups that a builder keeps open it? Its primary group is its own. */
static bool in_groups(gid_t gid)
{
	int n = getgroups(0, NULL);
	_cleanup_free_ gid_t *v = n > 0 ? calloc((size_t)n, sizeof(*v)) : NULL;

	n = v ? getgroups(n, v) : 0;
	for (int i = 0; i < n; i++)
		if (v[i] == gid)
			return true;
	return false;
}

/* The sentence why not, or NULL: then a builder, whose uid is another, can open it. */
static const char *why_no_kvm(void)
{
	struct stat st;

	if (stat(kvm_node, &st) < 0 || !S_ISCHR(st.st_mode))
		return "this machine has no device /dev/kvm";
	if ((st.st_mode & 0006) == 0006)
		return NULL;
	if ((st.st_mode & 0060) == 0060 && in_groups(st.st_gid) &&
	    access(kvm_node, R_OK | W_OK) == 0)
		return NULL;
	return "builders could not open /dev/kvm: give the daemon's user the group of the device "
	       "as a "
	       "supplementary one (SupplementaryGroups=kvm), or the device mode 0666";
}

static bool take_out(struct strv *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++) {
		if (strcmp(s->v[i], name) != 0)
			continue;
		free(s->v[i]);
		memmove(s->v + i, s->v + i + 1, (s->n - i - 1) * sizeof(*s->v));
		s->n--;
		return true;
	}
	return false;
}

/* Without ids at all every build is refused with the reason; nothing more needs saying. */
static void settle_ranges(struct core *core, const struct lease *lease)
{
	struct strv *s = &core->settings.system_features;
	bool wanted = strv_has(s, FEATURE_RANGE);

	if (!lease || !lease_offers(lease, LEASE_RANGE)) {
		if (take_out(s, FEATURE_RANGE) && lease)
			log_info("builds with the feature 'uid-range' are not offered: there are "
				 "not "
				 "65536 ids for one with the ids there are ('ids = broker' has "
				 "them, "
				 "and 'ids = subid' with larger grants)");
	} else if (wanted && !core->cgroups) {
		log_warn("builds with the feature 'uid-range' have no cgroup of their own here: "
			 "systemd will not start in their containers");
	}
	if (!lease || !lease_offers(lease, LEASE_RANGE4))
		(void)take_out(s, FEATURE_RANGE4);
	else if (wanted && !strv_has(s, FEATURE_RANGE4) && strv_add(s, FEATURE_RANGE4) < 0)
		log_warn("out of memory: builds with the feature '%s' are refused", FEATURE_RANGE4);
}

/* As upstream, whatever the setting says. */
static void add_experimental(struct core *core, const char *name)
{
	struct strv *s = &core->settings.system_features;

	if (has_feature(core, name) && !strv_has(s, name) && strv_add(s, name) < 0)
		log_warn("out of memory: builds with the feature '%s' are refused", name);
}

void features_settle(struct core *core, const struct lease *lease)
{
	const char *why = why_no_kvm();

	settle_ranges(core, lease);
	add_experimental(core, "ca-derivations");
	add_experimental(core, FEATURE_RECURSIVE);
	if (why && take_out(&core->settings.system_features, FEATURE_KVM))
		log_warn("builds with the feature 'kvm' are not offered: %s", why);
}
