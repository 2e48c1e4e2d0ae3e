/* What a build that may use the network needs of this machine: the program that gives it one, and
 * the certificates. Linked by the core. */
#pragma once

#include "base/arena.h"
#include "conf/conf.h"

/* The absolute path of pasta: the setting 'pasta-path', else the first executable of that name in
 * the daemon's PATH and the usual directories. "" when there is none; NULL out of memory. */
char *network_helper(const struct settings *set, struct arena *a, const char *search_path);

/* The file of CA certificates that a build with a network sees, symlinks resolved: the setting
 * 'ssl-cert-file', else upstream's defaults. "" when there is none; NULL out of memory. */
char *network_ca_file(const struct settings *set, struct arena *a,
		      const char *(*get_env)(const char *));
