/* The looker: a child that does all looking, and speaks to serve.c alone. See tracer.h. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ipc/roots.h"
#include "roots/tracer.h"

static void send_message(const struct looker *l, const char *msg, size_t len)
{
	if (send(l->chan, msg, len, MSG_NOSIGNAL) != (ssize_t)len)
		_exit(1); /* nobody listens any more, or we said something impossible */
}

void say(const struct looker *l, char kind, const char *fmt, ...)
{
	char msg[MESSAGE_MAX];
	va_list ap;
	int n;

	msg[0] = kind;
	va_start(ap, fmt);
	n = vsnprintf(msg + 1, sizeof(msg) - 1, fmt, ap);
	va_end(ap);
	if (n < 0 || n >= (int)sizeof(msg) - 1)
		_exit(1);
	send_message(l, msg, (size_t)n + 2);
}

void say_fields(const struct looker *l, char kind, int n, ...)
{
	char msg[MESSAGE_MAX];
	size_t len = 1;
	va_list ap;

	msg[0] = kind;
	va_start(ap, n);
	for (int i = 0; i < n; i++) {
		const char *field = va_arg(ap, const char *);
		size_t size = strlen(field) + 1;

		if (size > ROOTS_FIELD_MAX || size > sizeof(msg) - len)
			_exit(1);
		memcpy(msg + len, field, size);
		len += size;
	}
	va_end(ap);
	send_message(l, msg, len);
}

void say_failed(const struct looker *l, const char *what, int r)
{
	say(l, ROOTS_INCOMPLETE, "cannot look at %s: %s", what, strerror(-r));
}

void forget_seen(struct looker *l)
{
	memset(l->seen, 0, sizeof(l->seen));
}

static bool is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("+-._?=", c));
}

size_t base_length(const char *s, size_t len)
{
	size_t n;

	for (n = 0; n < 32; n++)
		if (n >= len || !s[n] || !strchr("0123456789abcdfghijklmnpqrsvwxyz", s[n]))
			return 0;
	if (n >= len || s[n] != '-')
		return 0;
	for (n++; n < len && is_name_char(s[n]); n++)
		;
	return n == 33 || n > BASE_MAX ? 0 : n;
}

static void say_root(struct looker *l, const char *s, size_t len, const char *what)
{
	char *seen = l->seen[((uint8_t)s[0] * 31 + (uint8_t)s[1]) % ELEMENTS(l->seen)];
	char path[PATH_MAX];
	struct stat st;

	if (!strncmp(seen, s, len) && !seen[len])
		return;
	memcpy(seen, s, len);
	seen[len] = 0;
	/* What is not there is no root, and none of our business to tell. */
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", l->t->store, seen) < sizeof(path) &&
	    fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return;
	say_fields(l, ROOTS_ROOT, 2, seen, what);
}

/* Any directory may stand in front: another mount namespace has the store somewhere else. */
size_t say_roots(struct looker *l, const char *text, size_t len, bool whole, const char *what)
{
	const char *end = text + len, *p = text;

	while ((p = memchr(p, '/', (size_t)(end - p)))) {
		size_t n;

		if (!whole && end - p < BASE_MAX + 2)
			return (size_t)(p - text);
		n = base_length(p + 1, (size_t)(end - p - 1));
		if (n)
			say_root(l, p + 1, n, what);
		p += 1 + n;
	}
	return len;
}

static void look(struct looker *l, char *request)
{
	char *end;
	long off;

	switch (request[0]) {
	case 'b':
	case 'd':
		off = strtol(request + 1, &end, 10);
		l->blind = request[0] == 'b';
		look_at_links(l, end + 1, off);
		break;
	case 's':
		list_processes(l);
		break;
	case 'k':
		look_at_kernel(l);
		break;
	case 't':
		look_at_temp_roots(l);
		break;
	default:
		look_at_process(l, request + 1);
	}
	say(l, SAY_DONE, "%s", "");
}

void looker_run(struct looker *l, bool links)
{
	char request[MESSAGE_MAX];
	struct stat st;
	ssize_t n;

	if (fstatat(AT_FDCWD, "/proc/self/ns/user", &st, 0) == 0)
		l->own_ns = st.st_ino;
	if (links && l->t->rules >= 0 && syscall(SYS_landlock_restrict_self, l->t->rules, 0) < 0)
		_exit(1);
	while ((n = recv(l->chan, request, sizeof(request) - 1, 0)) > 0) {
		request[n] = 0;
		look(l, request);
	}
	_exit(0);
}
