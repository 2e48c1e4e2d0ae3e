/* struct settings as a whole: defaults, copies, and single assignments. Walks the table, so that a
 * new member is a new row and nothing else. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "conf/table.h"

/* Defaults of Nix 2.34 that are not zero, false or empty; the machine's own come from default.c. */
static const struct {
	const char *name, *value;
} defaults[] = {
	{ "allowed-users", "*" },
	{ "trusted-users", "root" },
	{ "max-jobs", "1" },
	{ "cores", "0" },
	{ "sandbox", "true" },
	{ "sandbox-build-dir", "/build" },
	{ "sandbox-dev-shm-size", "50%" },
	{ "filter-syscalls", "true" },
	{ "log-lines", "25" },
	{ "substitute", "true" },
	{ "keep-build-log", "true" },
	{ "compress-build-log", "true" },
	{ "keep-derivations", "true" },
	{ "max-free", "9223372036854775807" },
	{ "min-free-check-interval", "5" },
	{ "gc-reserved-space", "8388608" },
	{ "require-sigs", "true" },
	{ "trusted-public-keys", "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" },
	{ "substituters", "https://cache.nixos.org/" },
	{ "fsync-metadata", "true" },
	{ "connect-timeout", "15" },
	{ "stalled-download-timeout", "300" },
	{ "download-attempts", "5" },
	{ "ignored-acls", "security.csm security.selinux system.nfs4_acl" },
	{ "ids", "auto" },
	{ "ids-socket", "/run/airplant/ids/socket" },
	{ "roots", "auto" },
	{ "roots-socket", "/run/airplant/roots/socket" },
	{ "durable", "background" },
	{ "build-pids-max", "16384" },
	{ "build-memory-max", "90%" },
	{ "build-memory-high", "max" },
	{ "build-cpu-weight", "100" },
	{ "hook-timeout", "86400" },
};

static void die_without_memory(void)
{
	static const char text[] = "out of memory while making the default settings\n";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		abort();
	abort();
}

static int init_texts(struct settings *s)
{
	for (size_t i = 0; i < conf_table_len; i++) {
		const struct conf_row *row = &conf_table[i];
		char **text = conf_member(s, row);

		if (!row->stored || conf_stored_as(row->type) != STORED_TEXT)
			continue;
		*text = strdup("");
		if (!*text)
			return -ENOMEM;
	}
	return 0;
}

static int init_machine(struct settings *s)
{
	char *system;
	int r = conf_default_system(&system);

	if (!r) {
		free(s->system);
		s->system = system;
		r = conf_default_platforms(&s->extra_platforms);
	}
	if (!r)
		r = conf_default_features(&s->system_features);
	if (!r && !geteuid())
		r = settings_set(s, "build-users-group", "nixbld", NULL);
	return r;
}

void settings_init(struct settings *s)
{
	int r;

	*s = (struct settings){ 0 };
	r = init_texts(s);
	for (size_t i = 0; !r && i < ELEMENTS(defaults); i++)
		r = settings_set(s, defaults[i].name, defaults[i].value, NULL);
	if (!r)
		r = init_machine(s);
	/* At start, before anything depends on us: there is no better answer. */
	if (r)
		die_without_memory();
}

void settings_done(struct settings *s)
{
	for (size_t i = 0; i < conf_table_len; i++) {
		const struct conf_row *row = &conf_table[i];

		if (!row->stored)
			continue;
		if (conf_stored_as(row->type) == STORED_TEXT)
			free(*(char **)conf_member(s, row));
		else if (conf_stored_as(row->type) == STORED_LIST)
			strv_done(conf_member(s, row));
	}
	*s = (struct settings){ 0 };
}

static int copy_row(const struct settings *from, struct settings *to, const struct conf_row *row)
{
	if (conf_stored_as(row->type) == STORED_TEXT) {
		const char *text = *(char **)conf_member(from, row);
		char **copy = conf_member(to, row);

		*copy = strdup(text ? text : "");
		return *copy ? 0 : -ENOMEM;
	}
	if (conf_stored_as(row->type) == STORED_LIST) {
		const struct strv *list = conf_member(from, row);

		for (size_t i = 0; i < list->n; i++)
			if (strv_add(conf_member(to, row), list->v[i]) < 0)
				return -ENOMEM;
	}
	return 0;
}

int settings_copy(const struct settings *from, struct settings *to)
{
	struct settings copy = *from; /* numbers and flags */
	int r = 0;

	for (size_t i = 0; i < conf_table_len; i++) {
		const struct conf_row *row = &conf_table[i];

		if (!row->stored)
			continue;
		if (conf_stored_as(row->type) == STORED_TEXT)
			*(char **)conf_member(&copy, row) = NULL;
		else if (conf_stored_as(row->type) == STORED_LIST)
			*(struct strv *)conf_member(&copy, row) = (struct strv){ 0 };
	}
	for (size_t i = 0; !r && i < conf_table_len; i++)
		if (conf_table[i].stored)
			r = copy_row(from, &copy, &conf_table[i]);
	if (r) {
		settings_done(&copy);
		return r;
	}
	*to = copy;
	return 0;
}

uint64_t settings_max_jobs(const struct settings *s)
{
	cpu_set_t set;
	long n;

	if (s->max_jobs != UINT64_MAX)
		return s->max_jobs;
	if (!sched_getaffinity(0, sizeof(set), &set))
		return CPU_COUNT(&set);
	n = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than the set has room for */
	return n > 0 ? n : 1;
}

int settings_set(struct settings *s, const char *name, const char *value, struct err *e)
{
	bool append;
	const struct conf_row *row = conf_find_extra(name, &append);

	if (!row)
		return err_set(e, CONF_UNKNOWN, "unknown setting '%s'", name);
	return conf_assign(s, row, value, append, NULL, e);
}
