/* See log.h. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *prefix = "airplant";
static enum log_level max_level = LOG_LEVEL_INFO;

void log_setup(const char *name, enum log_level max)
{
	prefix = name;
	max_level = max;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	static const char *const words[] = { "error: ", "warning: ", "", "debug: " };
	char line[4096];
	int n, m;
	va_list ap;

	if (level > max_level)
		return;
	n = snprintf(line, sizeof(line) - 1, "%s: %s", prefix, words[level]);
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - 1 - (size_t)n, fmt, ap);
	va_end(ap);
	if (m < 0)
		return;
	n += m;
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	/* One line is one line: a foreign newline or escape must not forge another. */
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[n++] = '\n';
	(void)!write(STDERR_FILENO, line, (size_t)n); /* nowhere to report a failure to */
}
