/* What the client is told besides answers: log lines, filtered by its verbosity. */
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>

#include "session/session.h"

static void tell_v(struct session *s, enum wire_level level, const char *prefix, const char *fmt,
		   va_list ap)
{
	_cleanup_free_ char *text = NULL, *line = NULL;

	if (level > s->verbosity)
		return;
	if (vasprintf(&text, fmt, ap) < 0 || asprintf(&line, "%s%s", prefix, text) < 0)
		return; /* a lost log line is no reason to fail */
	wire_put_next(&s->out, line);
}

void tell(struct session *s, enum wire_level level, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	tell_v(s, level, "", fmt, ap);
	va_end(ap);
}

void tell_warning(struct session *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	/* The colours are upstream's; clients strip them where there is no terminal. */
	tell_v(s, LVL_WARN, "\033[35;1mwarning:\033[0m ", fmt, ap);
	va_end(ap);
}

uint64_t activity_id(struct session *s)
{
	uint32_t high;

	/* As upstream's pid does, random high bits keep the ids of a client's connections apart. */
	if (s->next_activity == 0) {
		if (getrandom(&high, sizeof(high), 0) != sizeof(high))
			high = s->client.peer_pid;
		s->next_activity = (uint64_t)(high >> 1) << 32;
	}
	return ++s->next_activity;
}
