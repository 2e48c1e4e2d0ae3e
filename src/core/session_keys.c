/* Signatures under the keys that a trusted client brings: it may add without any check, so naming
 * whom it believes takes nothing away. Whether signatures are asked for is the daemon's, as
 * upstream's store has it from its start. Linked by airplantd. */
#include <string.h>

#include "core/session_state.h"
#include "core/sigcheck.h"

static struct keyring *keys_of(const struct settings *set)
{
	struct keyring *k = keyring_new();

	for (size_t i = 0; k && i < set->trusted_public_keys.n; i++) {
		_cleanup_err_ struct err e = {};

		/* One that is no key vouches for nothing. */
		(void)keyring_add_public(k, set->trusted_public_keys.v[i], &e);
	}
	return k;
}

bool session_vouches(struct session *s, const struct staged *v, size_t n)
{
	const struct core *core = s->all->core;
	struct keyring *keys;
	struct settings set;
	bool ok = true;

	if (!s->peer.trusted || !s->options.data)
		return false;
	/* What is content-addressed needs nobody's word, and comes by the thousand. */
	while (n > 0 && *v[n - 1].info.ca)
		n--;
	if (n == 0)
		return true;
	if (session_settings(s, &set) < 0)
		return false;
	keys = keys_of(&set);
	for (size_t i = 0; ok && i < n; i++)
		ok = *v[i].info.ca || (keys && keyring_verify(keys, core->store_dir, &v[i].info));
	keyring_free(keys);
	settings_done(&set);
	return ok;
}
