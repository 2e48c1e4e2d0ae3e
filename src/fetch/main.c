/* See fetch.h. */
#include "fetch/fetch.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *get(char **argv, const char *name)
{
	size_t len = strlen(name);

	for (; *argv; argv++)
		if (!strncmp(*argv, name, len) && (*argv)[len] == '=')
			return *argv + len + 1;
	return NULL;
}

static uint64_t get_number(char **argv, const char *name)
{
	const char *text = get(argv, name);

	return text ? strtoull(text, NULL, 10) : 0;
}

static int need(char **argv, const char *name, const char **ret, struct err *e)
{
	*ret = get(argv, name);
	return *ret ? 0 : err_set(e, FETCH_FAILED, "attribute '%s' missing", name);
}

static int run_fetchurl(char **argv, struct err *e)
{
	struct fetch f = {
		.mirrors = get(argv, "mirrors"),
		.mirror_hash = get(argv, "mirror-hash"),
		.ca_file = get(argv, "ca-file"),
		.netrc = get(argv, "netrc"),
		.user_agent = get(argv, "user-agent"),
		.unpack = get(argv, "unpack") != NULL,
		.executable = get(argv, "executable") != NULL,
		.connect_timeout = get_number(argv, "connect-timeout"),
		.stalled_timeout = get_number(argv, "stalled-timeout"),
		.attempts = get_number(argv, "attempts"),
	};
	int r = need(argv, "url", &f.url, e);

	r = r ? r : need(argv, "out", &f.out, e);
	return r ? r : fetch_url(&f, e);
}

static int run_unpack(char **argv, struct err *e)
{
	const char *src, *channel, *out;
	int r = need(argv, "channelName", &channel, e);

	r = r ? r : need(argv, "src", &src, e);
	r = r ? r : need(argv, "out", &out, e);
	return r ? r : unpack_channel(src, channel, out, e);
}

int main(int argc, char **argv)
{
	_cleanup_err_ struct err e = {};
	int r;

	if (argc < 2)
		return 2;
	umask(022);
	(void)setlocale(LC_CTYPE, "C.UTF-8"); /* or an archive's names in UTF-8 cannot be had */
	if (!strcmp(argv[1], "fetchurl"))
		r = run_fetchurl(argv + 2, &e);
	else if (!strcmp(argv[1], "unpack-channel"))
		r = run_unpack(argv + 2, &e);
	else
		return 2;
	if (r == 0)
		return 0;
	fprintf(stderr, "\x1b[31;1merror:\x1b[0m %s\n", err_msg(&e));
	return 1;
}
