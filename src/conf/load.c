/* nix.conf, airplant.conf and NIX_CONFIG (feature rows J1, J2).
 *
 *   line    = *blank [ setting / include ] [ "#" anything ]
 *   setting = name 1*blank "=" *( 1*blank word )
 *   include = ( "include" / "!include" ) 1*blank file       relative to the including file
 *
 * All lines are read first, then applied: experimental features before the rest, since other
 * settings may need one. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fd.h"
#include "conf/table.h"

enum { DEPTH_MAX = 16, FILES_MAX = 256, FILE_MAX_BYTES = 1024 * 1024 };

struct line {
	char *name, *value, *file;
	unsigned int number;
};

struct loader {
	struct settings *s;
	struct conf_notice notice;
	const struct conf_watch *watch; /* or NULL */
	struct strv warned; /* unknown names, told once each */
	struct line *lines;
	size_t n, cap;
	unsigned int files;
};

static void drop_lines(struct loader *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->lines[i].name);
		free(l->lines[i].value);
		free(l->lines[i].file);
	}
	l->n = 0;
}

static void loader_done(struct loader *l)
{
	drop_lines(l);
	free(l->lines);
	strv_done(&l->warned);
}

static void warn(struct loader *l, const char *text)
{
	if (l->notice.warn)
		l->notice.warn(l->notice.ctx, text);
}

/* Levenshtein, cut off: names are short. */
static size_t distance(const char *a, const char *b)
{
	enum { NAME_MAX_LEN = 64 };
	size_t row[NAME_MAX_LEN + 1], la = strlen(a), lb = strlen(b);

	if (la > NAME_MAX_LEN || lb > NAME_MAX_LEN)
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		row[j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[lb];
}

static const char *nearest_name(const char *name, bool appendable)
{
	size_t best = strlen(name) / 3 < 3 ? strlen(name) / 3 + 1 : 4;
	const char *ret = NULL;

	for (size_t i = 0; i < conf_table_len; i++) {
		const char *const *alias = conf_table[i].alias;

		if (appendable && !conf_is_appendable(conf_table[i].type))
			continue;
		for (const char *known = conf_table[i].name; known;
		     known = alias ? *alias++ : NULL) {
			size_t d = distance(name, known);

			if (d < best) {
				best = d;
				ret = known;
			}
		}
	}
	return ret;
}

static int warn_unknown(struct loader *l, const char *name)
{
	const char *prefix = strncmp(name, "extra-", 6) ? "" : "extra-";
	const char *near = nearest_name(name + strlen(prefix), *prefix);
	_cleanup_free_ char *text = NULL;
	int r;

	if (strv_has(&l->warned, name))
		return 0;
	if (near)
		r = asprintf(&text, "unknown setting '%s'; did you mean '%s%s'?", name, prefix,
			     near);
	else
		r = asprintf(&text, "unknown setting '%s'", name);
	if (r < 0) {
		text = NULL;
		return -ENOMEM;
	}
	warn(l, text);
	return strv_add(&l->warned, name);
}

static int add_line(struct loader *l, const char *file, unsigned int number, const char *name,
		    const char *value)
{
	struct line line = {
		.name = strdup(name), .value = strdup(value), .file = strdup(file), .number = number
	};

	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 32;
		struct line *v = reallocarray(l->lines, cap, sizeof(*v));

		if (v) {
			l->lines = v;
			l->cap = cap;
		}
	}
	if (!line.name || !line.value || !line.file || l->n == l->cap) {
		free(line.name);
		free(line.value);
		free(line.file);
		return -ENOMEM;
	}
	l->lines[l->n++] = line;
	return 0;
}

static int read_text(struct loader *l, char *text, const char *file, unsigned int depth,
		     struct err *e);

/* A file that is missing or may not be read is told apart by `must_exist`; upstream reads past
 * files it may not read, and so do we, but we say it: secrets are included that way. */
static int read_included(struct loader *l, const char *path, const char *from, bool must_exist,
			 unsigned int depth, struct err *e)
{
	_cleanup_free_ char *text = NULL, *note = NULL;
	int r;

	if (depth >= DEPTH_MAX || l->files >= FILES_MAX)
		return err_set(e, CONF_BAD, "too many nested includes at '%s', included from '%s'",
			       path, from);
	r = read_file_at(AT_FDCWD, path, FILE_MAX_BYTES, &text, NULL);
	if (r == -ENOENT || r == -ENOTDIR)
		return must_exist ? err_set(e, CONF_BAD, "file '%s' included from '%s' not found",
					    path, from)
				  : 0;
	if (r < 0) {
		if (asprintf(&note, "cannot read '%s', included from '%s': %s", path, from,
			     strerror(-r)) < 0) {
			note = NULL;
			return -ENOMEM;
		}
		warn(l, note);
		return 0;
	}
	l->files++;
	return read_text(l, text, path, depth + 1, e);
}

static int include(struct loader *l, const char *name, const char *from, bool must_exist,
		   unsigned int depth, struct err *e)
{
	const char *slash = strrchr(from, '/');
	_cleanup_free_ char *path = NULL;
	int r;

	if (*name == '/' || !slash)
		r = asprintf(&path, "%s", name);
	else
		r = asprintf(&path, "%.*s/%s", (int)(slash - from), from, name);
	if (r < 0) {
		path = NULL;
		return -ENOMEM;
	}
	return read_included(l, path, from, must_exist, depth, e);
}

static int split(char *text, struct strv *ret)
{
	char *state = NULL;

	for (char *w = strtok_r(text, " \t\r", &state); w; w = strtok_r(NULL, " \t\r", &state))
		if (strv_add(ret, w) < 0)
			return -ENOMEM;
	return 0;
}

static int join_from(const struct strv *words, size_t first, char **ret)
{
	_cleanup_buf_ struct buf b = BUF_INIT(FILE_MAX_BYTES);
	int r = 0;

	for (size_t i = first; !r && i < words->n; i++) {
		if (i > first)
			r = buf_append_char(&b, ' ');
		if (!r)
			r = buf_append_str(&b, words->v[i]);
	}
	if (r)
		return r;
	*ret = buf_take_str(&b);
	return *ret ? 0 : -ENOMEM;
}

static int read_line(struct loader *l, char *text, const char *file, unsigned int number,
		     unsigned int depth, struct err *e)
{
	_cleanup_strv_ struct strv words = { 0 };
	_cleanup_free_ char *copy = NULL, *value = NULL;
	bool inc, optional;
	int r;

	text[strcspn(text, "#")] = 0;
	copy = strdup(text);
	if (!copy || split(copy, &words) < 0)
		return -ENOMEM;
	if (!words.n)
		return 0;
	inc = !strcmp(words.v[0], "include");
	optional = !strcmp(words.v[0], "!include");
	if ((inc || optional) && words.n == 2)
		return include(l, words.v[1], file, inc, depth, e);
	if (inc || optional || words.n < 2 || strcmp(words.v[1], "="))
		return err_set(e, CONF_BAD,
			       "syntax error in configuration line '%s' in '%s', line %u", text,
			       file, number);
	r = join_from(&words, 2, &value);
	return r ? r : add_line(l, file, number, words.v[0], value);
}

static int read_text(struct loader *l, char *text, const char *file, unsigned int depth,
		     struct err *e)
{
	unsigned int number = 0;
	int r = 0;

	while (!r && text) {
		char *line = strsep(&text, "\n");

		r = read_line(l, line, file, ++number, depth, e);
	}
	return r;
}

static bool is_features(const char *name)
{
	return !strcmp(name, "experimental-features") ||
	       !strcmp(name, "extra-experimental-features");
}

static int apply_line(struct loader *l, const struct line *line, struct err *e)
{
	bool append;
	const struct conf_row *row = conf_find_extra(line->name, &append);
	int r;

	if (!row)
		return warn_unknown(l, line->name);
	r = conf_assign(l->s, row, line->value, append, &l->notice, e);
	if (r == 0 && l->watch && l->watch->assigned)
		l->watch->assigned(l->watch->ctx, row->name, line->value, line->file, line->number);
	if (r == 0 && !strcmp(row->name, "max-jobs"))
		l->s->max_jobs_set = true;
	if (r)
		(void)err_prefix(e, "%s:%u: ", line->file, line->number); /* r already says it */
	return r;
}

static int apply_lines(struct loader *l, struct err *e)
{
	int r = 0;

	for (size_t i = 0; !r && i < l->n; i++)
		if (is_features(l->lines[i].name))
			r = apply_line(l, &l->lines[i], e);
	for (size_t i = 0; !r && i < l->n; i++)
		if (!is_features(l->lines[i].name))
			r = apply_line(l, &l->lines[i], e);
	drop_lines(l);
	return r;
}

static int load_file(struct loader *l, const char *dir, const char *name, struct err *e)
{
	_cleanup_free_ char *path = NULL, *text = NULL;
	size_t len;
	int r;

	if (asprintf(&path, "%s/%s", dir, name) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	r = read_file_at(AT_FDCWD, path, FILE_MAX_BYTES, &text, &len);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return err_errno(e, r, "reading '%s'", path);
	/* What stands behind it would be skipped in silence. */
	if (strlen(text) != len)
		return err_set(e, CONF_BAD, "'%s' contains a NUL byte", path);
	r = read_text(l, text, path, 0, e);
	return r ? r : apply_lines(l, e);
}

static int load_text(struct loader *l, const char *value, struct err *e)
{
	_cleanup_free_ char *text = strdup(value);
	int r;

	if (!text)
		return -ENOMEM;
	r = read_text(l, text, "NIX_CONFIG", 0, e);
	return r ? r : apply_lines(l, e);
}

const char *settings_nearest(const char *name)
{
	return nearest_name(name, false);
}

int settings_load(struct settings *s, const char *conf_dir, const char *nix_config,
		  void (*warn_cb)(void *ctx, const char *text), void *ctx, struct err *e)
{
	const struct conf_watch watch = { .warn = warn_cb, .ctx = ctx };

	return settings_load_watched(s, conf_dir, nix_config, &watch, e);
}

int settings_load_watched(struct settings *s, const char *conf_dir, const char *nix_config,
			  const struct conf_watch *watch, struct err *e)
{
	_cleanup_(loader_done) struct loader l = {
		.s = s, .watch = watch, .notice = { watch->warn, watch->ctx }
	};
	int r = load_file(&l, conf_dir, "nix.conf", e);

	if (!r)
		r = load_file(&l, conf_dir, "airplant.conf", e);
	if (!r && nix_config)
		r = load_text(&l, nix_config, e);
	if (r < 0 && e && !e->msg)
		return err_errno(e, r, "reading the configuration");
	return r;
}
