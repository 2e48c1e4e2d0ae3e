/* See err.h. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void err_done(struct err *e)
{
	free(e->msg);
	e->msg = NULL;
	e->code = 0;
}

/* strerror, but for the code of a damaged database (store/), which people must do something about.
 */
static const char *text_of(int code)
{
	if (abs(code) == EUCLEAN)
		return "the store's database is damaged ('db/db.sqlite' in the daemon's state "
		       "directory): stop the daemon, keep a copy of 'db', and put a backup back "
		       "or mend it with 'sqlite3 db.sqlite .recover'";
	return strerror(abs(code));
}

static void replace(struct err *e, char *msg)
{
	free(e->msg);
	e->msg = msg;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;
	char *msg;

	if (!e)
		return code;
	va_start(ap, fmt);
	if (vasprintf(&msg, fmt, ap) < 0)
		msg = NULL;
	va_end(ap);
	e->code = code;
	replace(e, msg);
	return code;
}

int err_errno(struct err *e, int code, const char *fmt, ...)
{
	_cleanup_free_ char *head = NULL;
	va_list ap;
	char *msg;

	if (!e)
		return code;
	va_start(ap, fmt);
	if (vasprintf(&head, fmt, ap) < 0)
		head = NULL;
	va_end(ap);
	if (asprintf(&msg, "%s: %s", head ? head : "?", text_of(code)) < 0)
		msg = NULL;
	e->code = code;
	replace(e, msg);
	return code;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
	_cleanup_free_ char *head = NULL;
	va_list ap;
	char *msg;

	if (!e)
		return -1;
	va_start(ap, fmt);
	if (vasprintf(&head, fmt, ap) < 0)
		head = NULL;
	va_end(ap);
	if (head && asprintf(&msg, "%s%s", head, err_msg(e)) >= 0)
		replace(e, msg);
	return e->code;
}

const char *err_msg(const struct err *e)
{
	if (e->msg)
		return e->msg;
	return e->code < 0 ? text_of(e->code) : "unknown error";
}
