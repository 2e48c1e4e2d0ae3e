/* See network.h. Looked up for each build: a package that was installed meanwhile counts. */
#include "core/network.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define USUAL_PATH "/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin"

/* The first executable `name` in the directories of `path`; relative ones are passed over. */
static char *find_in(const char *path, const char *name, struct arena *a)
{
	while (path && *path) {
		size_t len = strcspn(path, ":");
		char *full = arena_printf(a, "%.*s/%s", (int)(len < 4096 ? len : 4096), path, name);

		if (!full || (*path == '/' && access(full, X_OK) == 0))
			return full;
		path += len + (path[len] == ':');
	}
	return arena_strdup(a, "");
}

char *network_helper(const struct settings *set, struct arena *a, const char *search_path)
{
	char *found;

	if (*set->pasta_path)
		return arena_strdup(a, set->pasta_path);
	found = find_in(search_path, "pasta", a);
	return found && !*found ? find_in(USUAL_PATH, "pasta", a) : found;
}

char *network_ca_file(const struct settings *set, struct arena *a,
		      const char *(*get_env)(const char *))
{
	const char *override = get_env("NIX_SSL_CERT_FILE");
	const char *candidates[4];
	size_t n = 0;

	if (!override || !*override)
		override = get_env("SSL_CERT_FILE");
	if (*set->ssl_cert_file) {
		candidates[n++] = set->ssl_cert_file;
	} else if (override && *override) {
		candidates[n++] = override;
	} else {
		candidates[n++] = "/etc/ssl/certs/ca-certificates.crt";
		candidates[n++] = "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt";
	}
	for (size_t i = 0; i < n; i++) {
		char *real = realpath(candidates[i], NULL), *copy;

		if (!real)
			continue;
		copy = arena_strdup(a, real);
		free(real);
		return copy;
	}
	return arena_strdup(a, "");
}
