/* What this machine can do for builds that ask for it (requiredSystemFeatures). Linked by the core.
 */
#pragma once

#include "core/drv_opts.h"
#include "core/lease.h"

struct core;

#define FEATURE_RANGE "uid-range" /* 65536 ids, and root of them */
#define FEATURE_RANGE4                                                                             \
	"uid-range-262144" /* ours: four times as many, for containers in containers */
#define FEATURE_KVM "kvm"
#define FEATURE_RECURSIVE "recursive-nix" /* a daemon of its own (nest.h) */

/* How many ids a build gets. Needs no experimental feature: asking for it is enough. */
static inline enum lease_kind features_ids(const struct drv_opts *o)
{
	if (strv_has_sorted(&o->required_features, FEATURE_RANGE4))
		return LEASE_RANGE4;
	return strv_has_sorted(&o->required_features, FEATURE_RANGE) ? LEASE_RANGE : LEASE_PLAIN;
}
/* Takes from the setting system-features what cannot be given here, with a warning for what the
 * administrator named himself, and adds what can. `lease` may be NULL. */
void features_settle(struct core *core, const struct lease *lease);
