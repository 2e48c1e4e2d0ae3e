/* Builders that are part of the daemon: which there are, and how they speak.
 *
 * They run in the builder's place: inside its sandbox, under its identity, without a capability,
 * after everything that a foreign builder would have to pass. Linked by airplant-build alone. */
#include "build/builtins.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "build/supervisor.h"

const char *builtin_env(const struct build *b, const char *name)
{
	for (size_t i = 0; i < b->s.env.n; i++)
		if (!strcmp(b->s.env.v[i].name, name))
			return b->s.env.v[i].value;
	return NULL;
}

/* A warning as the client's logger expects it: one line "@nix {…}". */
void builtin_warn(const char *text)
{
	_cleanup_buf_ struct buf b = BUF_INIT(64 * 1024);
	int r = buf_append_str(
		&b, "@nix {\"action\":\"msg\",\"level\":1,\"msg\":\"\\u001b[35;1mwarning:"
		    "\\u001b[0m ");

	for (const char *p = text; r == 0 && *p; p++) {
		if (*p == '"' || *p == '\\')
			r = buf_printf(&b, "\\%c", *p);
		else if ((unsigned char)*p < 0x20)
			r = buf_printf(&b, "\\u%04x", (unsigned char)*p);
		else
			r = buf_append_char(&b, *p);
	}
	if (r == 0)
		r = buf_append_str(&b, "\"}\n");
	if (r == 0)
		(void)write_full(2, b.data, b.len); /* nobody to tell */
}

/* The derivation's environment is not the program's: it could name libraries. */
static char **fetch_env(struct build *b)
{
	char **env = arena_array(&b->arena, b->s.env.n + 1, sizeof(*env));
	size_t n = 0;

	for (size_t i = 0; env && i < b->s.env.n; i++)
		if (build_is_proxy(b->s.env.v[i].name)) {
			env[n] = arena_printf(&b->arena, "%s=%s", b->s.env.v[i].name,
					      b->s.env.v[i].value);
			if (!env[n++])
				return NULL;
		}
	return env;
}

/* Comes back only when it fails. */
static int run_fetch(struct build *b, struct err *e)
{
	char **argv = arena_array(&b->arena, b->s.fetch.n + 1, sizeof(*argv));
	char **envp = fetch_env(b);

	if (!argv || !envp)
		return err_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < b->s.fetch.n; i++)
		argv[i] = b->s.fetch.v[i];
	execve(argv[0], argv, envp);
	return err_errno(e, -errno, "executing '%s'", argv[0]);
}

int builtin_run(struct build *b)
{
	const char *name = b->s.builder + strlen("builtin:");
	struct err e = { 0 };
	int r;

	close(b->status_fd); /* tells the supervisor that the builder runs */
	if (b->s.fetch.n > 0)
		r = run_fetch(b, &e);
	else if (!strcmp(name, "buildenv"))
		r = builtin_buildenv(b, &e);
	else
		r = err_set(&e, 1, "unsupported builtin builder " Q_ARG, name);
	if (r == 0)
		return 0;
	dprintf(2, C_RED "error:" C_NORMAL " %s\n", err_msg(&e));
	return 1;
}
