/* See scan.h. Stricter than upstream in one thing: lists have commas exactly between elements.
 * Pure; linked by whoever links the derivation codec. */
#include "drv/scan.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int scan_fail(struct scan *s, const char *fmt, ...)
{
	char why[1024]; /* what is quoted from the file may be as long as the file */
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(why, sizeof(why), fmt, ap); /* cut is fine */
	va_end(ap);
	return err_set(s->err, DRV_BAD, "error parsing derivation '%s%s%s': %s (at byte %zu)",
		       s->label_dir ? s->label_dir : "", s->label_dir ? "/" : "", s->label, why,
		       (size_t)(s->at - s->begin));
}

int scan_token(struct scan *s, const char *token)
{
	size_t len = strlen(token);

	if ((size_t)(s->end - s->at) < len || memcmp(s->at, token, len))
		return scan_fail(s, "expected string '%s'", token);
	s->at += len;
	return 0;
}

static char unescape(char c)
{
	switch (c) {
	case 'n':
		return '\n';
	case 'r':
		return '\r';
	case 't':
		return '\t';
	default:
		return c; /* as upstream: an unknown escape is the character itself */
	}
}

/* Finds the closing quote of a string whose first byte is at the cursor. `*ret_escapes` counts
 * the backslashes that introduce an escape. NULL when there is none. */
static const char *find_close(const struct scan *s, size_t *ret_escapes)
{
	size_t escapes = 0, len = (size_t)(s->end - s->at);

	for (size_t i = 0; i < len; i++) {
		if (s->at[i] == '"') {
			*ret_escapes = escapes;
			return s->at + i;
		}
		if (s->at[i] == '\\') {
			escapes++;
			i++;
		}
	}
	return NULL;
}

int scan_string(struct scan *s, char **ret)
{
	const char *close, *p;
	size_t escapes, len;
	char *str, *out;
	int r;

	r = scan_token(s, "\"");
	if (r)
		return r;
	close = find_close(s, &escapes);
	if (!close)
		return scan_fail(s, "unterminated string in derivation");
	len = (size_t)(close - s->at);
	/* Neither an argument nor the environment of a process can hold one. */
	if (memchr(s->at, 0, len))
		return scan_fail(s, "string contains a NUL byte");
	str = escapes ? arena_alloc(s->arena, len - escapes + 1)
		      : arena_strndup(s->arena, s->at, len);
	if (!str)
		return err_errno(s->err, -ENOMEM, "parsing derivation '%s'", s->label);
	for (p = s->at, out = str; escapes && p < close;) {
		const char *slash = memchr(p, '\\', (size_t)(close - p));
		size_t run = (size_t)((slash ? slash : close) - p);

		memcpy(out, p, run);
		out += run;
		p += run;
		if (slash) {
			*out++ = unescape(p[1]);
			p += 2;
		}
	}
	s->at = close + 1;
	*ret = str;
	return 0;
}

int scan_next_string(struct scan *s, char **ret)
{
	int r = scan_token(s, ",");

	return r ? r : scan_string(s, ret);
}

int scan_list(struct scan *s, bool first, bool *more)
{
	if (s->at < s->end && *s->at == ']') {
		s->at++;
		*more = false;
		return 0;
	}
	*more = true;
	return first ? 0 : scan_token(s, ",");
}

int scan_strings(struct scan *s, struct strv *ret)
{
	bool more;
	int r;

	r = scan_token(s, "[");
	if (!r)
		r = scan_list(s, true, &more);
	while (!r && more) {
		char *str;

		r = scan_string(s, &str);
		if (r)
			break;
		if (strv_add_arena(ret, s->arena, str) < 0)
			return err_errno(s->err, -ENOMEM, "parsing derivation '%s'", s->label);
		r = scan_list(s, false, &more);
	}
	return r;
}
