/* airplant SUBCOMMAND …: one row per subcommand, one file each. */
#include <stdio.h>
#include <string.h>

#include "base/macro.h"
#include "cli/cli.h"

enum { USAGE = 2 };

static const struct verb {
	const char *name, *args, *help;
	int (*run)(const struct cli_dirs *dirs, int argc, char **argv);
} verbs[] = {
	{ "config", "[--json] [NAME …]", "each setting, who has set it, and what is ignored", cli_config },
	{ "switch", "--to airplant|stock [--user NAME] [--dry-run]",
	  "gives the store to Airplant's user or back to the stock daemon (run by root)", cli_switch },
	{ "roots", "[--all] PATH", "what keeps a store path from being collected", cli_roots },
};

static int usage(FILE *to)
{
	fputs("usage:\n", to);
	for (size_t i = 0; i < ELEMENTS(verbs); i++)
		fprintf(to, "  airplant %s %s\n      %s\n", verbs[i].name, verbs[i].args,
			verbs[i].help);
	return to == stdout ? 0 : USAGE;
}

static const char *setting(const char *variable, const char *otherwise)
{
	const char *value = getenv(variable);

	return value && *value ? value : otherwise;
}

int main(int argc, char **argv)
{
	struct cli_dirs dirs = {
		.store = setting("NIX_STORE_DIR", "/nix/store"),
		.state = setting("NIX_STATE_DIR", "/nix/var/nix"),
		.log = setting("NIX_LOG_DIR", "/nix/var/log/nix"),
		.conf = setting("NIX_CONF_DIR", "/etc/nix"),
	};
	_cleanup_free_ char *below = NULL, *socket = NULL;

	if (asprintf(&below, "%s/daemon-socket/socket", dirs.state) < 0)
		below = NULL;
	socket = below ? strdup(setting("NIX_DAEMON_SOCKET_PATH", below)) : NULL;
	if (!socket) {
		fputs("airplant: out of memory\n", stderr);
		return USAGE;
	}
	dirs.socket = socket;
	if (argc == 2 && !strcmp(argv[1], "--help"))
		return usage(stdout);
	for (size_t i = 0; argc > 1 && i < ELEMENTS(verbs); i++)
		if (!strcmp(argv[1], verbs[i].name))
			return verbs[i].run(&dirs, argc - 1, argv + 1);
	return usage(stderr);
}
