/* The subcommands of `airplant`, the tool for people. It runs as whoever calls it, without any
 * privilege, and knows what the daemon tells that user. Only `switch` wants to be run by root. */
#pragma once

/* What the environment says, or upstream's defaults. */
struct cli_dirs {
	const char *store, *state, *log, *conf;
	char *socket; /* heap */
};

/* argv[0] is the subcommand. The exit status; 2 for errors, which were told. */
int cli_config(const struct cli_dirs *dirs, int argc, char **argv);
int cli_switch(const struct cli_dirs *dirs, int argc, char **argv);
int cli_roots(const struct cli_dirs *dirs, int argc, char **argv);
