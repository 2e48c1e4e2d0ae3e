/* Builders that are part of the daemon: which there are, and how they speak.
 *
 * They run in the builder's place: inside its sandbox, under its identity, without a capability,
 * after everything that a foreign builder would have to pass. Linked by airplant-build alone. */
#include "build/builtins.h"

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

static int unsupported(struct err *e, const char *name)
{
	if (!strcmp(name, "fetchurl"))
		return err_set(
			e, 1,
			"builtin:fetchurl is not available in this version of Airplant; use a "
			"fixed-output derivation with a fetcher of its own");
	return err_set(e, 1, "unsupported builtin builder " Q_ARG, name);
}

int builtin_run(struct build *b)
{
	const char *name = b->s.builder + strlen("builtin:");
	struct err e = { 0 };
	int r;

	close(b->status_fd); /* tells the supervisor that the builder runs */
	if (!strcmp(name, "buildenv"))
		r = builtin_buildenv(b, &e);
	else
		r = unsupported(&e, name);
	if (r == 0)
		return 0;
	dprintf(2, C_RED "error:" C_NORMAL " %s\n", err_msg(&e));
	return 1;
}
