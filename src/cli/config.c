/* airplant config: every setting as the daemon would have it now, from the same files, who has set
 * it, and what is ignored and why. NIX_CONFIG is the caller's: the daemon's own may be another. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "conf/table.h"

enum { UNKNOWN = 1, TROUBLE = 2, VALUE_MAX = 4 << 20 };

struct origin {
	char *where, *text; /* NULL: nobody has set it */
};

struct config {
	struct settings s;
	struct origin *of; /* as conf_table */
	bool json;
};

static void on_warning(void *ctx, const char *text)
{
	(void)ctx;
	fprintf(stderr, "warning: %s\n", text);
}

static void on_assigned(void *ctx, const char *name, const char *value, const char *file,
			unsigned int line)
{
	struct config *c = ctx;
	struct origin *o = &c->of[conf_find(name) - conf_table];

	free(o->where);
	free(o->text);
	o->text = strdup(value);
	if (asprintf(&o->where, "%s:%u", file, line) < 0)
		o->where = NULL;
}

/* Why a value has no effect, or NULL. */
static const char *ignored(const struct config *c, const struct conf_row *row)
{
	if (row->feature && !strv_has(&c->s.experimental_features, row->feature))
		return "its experimental feature is not enabled";
	if (row->stored)
		return NULL;
	return row->group == GROUP_OTHER ? "it is the client's: it means nothing to a daemon"
					 : "Airplant does not act on it";
}

/* Heap; "" for what nobody has set and Airplant does not keep. */
static char *value_of(const struct config *c, size_t i)
{
	_cleanup_buf_ struct buf b = BUF_INIT(VALUE_MAX);
	const char *text = c->of[i].text;
	int r;

	if (conf_table[i].stored)
		r = conf_print(&c->s, &conf_table[i], &b);
	else
		r = buf_append_str(&b, text ? text : "");
	return r ? NULL : buf_take_str(&b);
}

static void put_json(const char *text)
{
	putchar('"');
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p == '"' || *p == '\\')
			printf("\\%c", *p);
		else if (*p < 0x20)
			printf("\\u%04x", *p);
		else
			putchar(*p);
	}
	putchar('"');
}

static void show_json(const struct config *c, size_t i, const char *value, bool first)
{
	const char *why = ignored(c, &conf_table[i]), *where = c->of[i].where;

	printf("%s  \"%s\": {\"value\": ", first ? "" : ",\n", conf_table[i].name);
	put_json(value);
	fputs(", \"origin\": ", stdout);
	put_json(where ? where : "default");
	fputs(", \"ignored\": ", stdout);
	if (why)
		put_json(why);
	else
		fputs("null", stdout);
	putchar('}');
}

static void show_line(const struct config *c, size_t i, const char *value)
{
	const char *why = ignored(c, &conf_table[i]), *where = c->of[i].where;

	printf("%s = %s  # %s%s%s\n", conf_table[i].name, value, where ? where : "default",
	       why ? "; ignored: " : "", why ? why : "");
}

/* Without names: what has an effect, and what somebody has set. */
static bool is_wanted(const struct config *c, size_t i, int n, char **names)
{
	const struct conf_row *row = &conf_table[i];

	for (int k = 0; k < n; k++)
		if (conf_find(names[k]) == row)
			return true;
	return n == 0 && (c->of[i].where || !ignored(c, row));
}

static int show(const struct config *c, int n, char **names)
{
	bool first = true;

	if (c->json)
		puts("{");
	for (size_t i = 0; i < conf_table_len; i++) {
		_cleanup_free_ char *value = NULL;

		if (!is_wanted(c, i, n, names))
			continue;
		value = value_of(c, i);
		if (!value) {
			fputs("airplant: out of memory\n", stderr);
			return TROUBLE;
		}
		if (c->json)
			show_json(c, i, value, first);
		else
			show_line(c, i, value);
		first = false;
	}
	if (c->json)
		puts(first ? "}" : "\n}");
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	perror("airplant: writing");
	return TROUBLE;
}

static int check_names(int n, char **names)
{
	int ret = 0;

	for (int i = 0; i < n; i++) {
		const char *near = conf_find(names[i]) ? NULL : settings_nearest(names[i]);

		if (conf_find(names[i]))
			continue;
		fprintf(stderr, "airplant: unknown setting '%s'%s%s%s\n", names[i],
			near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
		ret = UNKNOWN;
	}
	return ret;
}

static void config_done(struct config *c)
{
	for (size_t i = 0; c->of && i < conf_table_len; i++) {
		free(c->of[i].where);
		free(c->of[i].text);
	}
	free(c->of);
	settings_done(&c->s);
}

int cli_config(const struct cli_dirs *dirs, int argc, char **argv)
{
	_cleanup_(config_done) struct config c = { .of = calloc(conf_table_len, sizeof(*c.of)) };
	const struct conf_watch watch = { on_warning, on_assigned, &c };
	_cleanup_err_ struct err e = {};
	int at = 1, r;

	settings_init(&c.s);
	if (argc > 1 && !strcmp(argv[1], "--json")) {
		c.json = true;
		at++;
	}
	if (argc > at && argv[at][0] == '-') {
		fprintf(stderr, "airplant: unknown option '%s'\n", argv[at]);
		return TROUBLE;
	}
	r = c.of ? check_names(argc - at, argv + at) : err_set(&e, -ENOMEM, "out of memory");
	if (r == 0 && settings_load_watched(&c.s, dirs->conf, getenv("NIX_CONFIG"), &watch, &e))
		r = TROUBLE;
	if (e.code)
		fprintf(stderr, "airplant: %s\n", err_msg(&e));
	if (r)
		return r > 0 ? r : TROUBLE;
	return show(&c, argc - at, argv + at);
}
