/* One value of one setting: the types' grammars, with upstream's words for what does not fit.
 *
 *   bool   = "true" / "yes" / "1" / "false" / "no" / "0"
 *   int    = ["+"] 1*DIGIT [ "K" / "M" / "G" / "T" ]     (powers of 1024, either case)
 *   list   = *( word )                                   words are separated by blanks
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "conf/table.h"

enum { CONF_VALUE_MAX = 1024 * 1024 };

_printf_(2, 3) static void tell(const struct conf_notice *notice, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;

	if (!notice || !notice->warn)
		return;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	if (text)
		notice->warn(notice->ctx, text);
}

static int bad(const struct conf_row *row, const char *value, struct err *e)
{
	return err_set(e, CONF_BAD, "setting '%s' has invalid value '%s'", row->name, value);
}

static int parse_bool(const struct conf_row *row, const char *value, bool *ret, struct err *e)
{
	static const char *const yes[] = { "true", "yes", "1" }, *const no[] = { "false", "no",
										 "0" };

	for (size_t i = 0; i < ELEMENTS(yes); i++) {
		if (!strcmp(value, yes[i]) || !strcmp(value, no[i])) {
			*ret = !strcmp(value, yes[i]);
			return 0;
		}
	}
	return err_set(e, CONF_BAD, "Boolean setting '%s' has invalid value '%s'", row->name,
		       value);
}

static bool parse_digits(const char *s, size_t len, uint64_t *ret)
{
	uint64_t n = 0;

	if (!len)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9' || __builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, s[i] - '0', &n))
			return false;
	}
	*ret = n;
	return true;
}

static bool parse_number(const char *value, bool suffix, uint64_t max, uint64_t *ret)
{
	static const char units[] = "kKmMgGtT";
	size_t len = strlen(value);
	const char *unit = suffix && len ? strchr(units, value[len - 1]) : NULL;
	uint64_t n;

	if (*value == '+') {
		value++;
		len--;
	}
	if (!parse_digits(value, len - (unit ? 1 : 0), &n))
		return false;
	if (unit && __builtin_mul_overflow(n, 1ULL << (10 * ((unit - units) / 2 + 1)), &n))
		return false;
	if (n > max)
		return false;
	*ret = n;
	return true;
}

static int parse_int(const struct conf_row *row, const char *value, uint64_t *ret, struct err *e)
{
	return parse_number(value, true, row->max, ret) ? 0 : bad(row, value, e);
}

static int parse_jobs(const struct conf_row *row, const char *value, uint64_t *ret, struct err *e)
{
	if (!strcmp(value, "auto")) {
		*ret = UINT64_MAX;
		return 0;
	}
	if (parse_number(value, false, UINT32_MAX, ret))
		return 0;
	return err_set(e, CONF_BAD, "configuration setting '%s' should be 'auto' or an integer",
		       row->name);
}

/* "90%" of the machine's memory, in bytes. */
static bool parse_percent(const char *value, uint64_t *ret)
{
	size_t len = strlen(value);
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
	uint64_t n;

	if (len < 2 || value[len - 1] != '%' || !parse_digits(value, len - 1, &n) || n > 100 ||
	    pages <= 0 || size <= 0)
		return false;
	*ret = (uint64_t)pages / 100 * n * (uint64_t)size;
	return true;
}

static int parse_count(const struct conf_row *row, const char *value, uint64_t *ret, struct err *e)
{
	if (!strcmp(value, "max")) {
		*ret = UINT64_MAX;
		return 0;
	}
	if ((parse_number(value, true, INT64_MAX, ret) ||
	     (row->type == CONF_MEMORY && parse_percent(value, ret))) &&
	    *ret > 0)
		return 0;
	return bad(row, value, e);
}

static int parse_age(const struct conf_row *row, const char *value, uint64_t *ret, struct err *e)
{
	static const struct {
		char unit;
		uint64_t hours;
	} units[] = { { 'h', 1 }, { 'd', 24 }, { 'w', 7 * 24 } };
	size_t len = strlen(value);
	uint64_t n, hours = 24;
	bool unit = false;

	for (size_t i = 0; len > 0 && !unit && i < ELEMENTS(units); i++)
		if (value[len - 1] == units[i].unit) {
			hours = units[i].hours;
			unit = true;
		}
	if (parse_digits(value, len - unit, &n) && n <= 1000 * 1000) {
		*ret = n * hours;
		return 0;
	}
	return err_set(e, CONF_BAD,
		       "setting '%s' has invalid value '%s': a number of days is wanted, or one "
		       "with a unit: 12h, 14d, 2w",
		       row->name, value);
}

static int parse_sandbox(const struct conf_row *row, const char *value, uint64_t *ret,
			 struct err *e)
{
	static const char *const words[] = {
		[SANDBOX_FALSE] = "false", [SANDBOX_TRUE] = "true", [SANDBOX_RELAXED] = "relaxed"
	};

	for (size_t i = 0; i < ELEMENTS(words); i++) {
		if (!strcmp(value, words[i])) {
			*ret = i;
			return 0;
		}
	}
	return err_set(e, CONF_BAD, "option '%s' has invalid value '%s'", row->name, value);
}

static int parse_enum(const struct conf_row *row, const char *value, uint64_t *ret, struct err *e)
{
	_cleanup_buf_ struct buf known = BUF_INIT(4096);

	for (size_t i = 0; row->words[i]; i++) {
		if (!strcmp(value, row->words[i])) {
			*ret = i;
			return 0;
		}
		if (buf_printf(&known, "%s'%s'", i ? ", " : "", row->words[i]) < 0)
			return -ENOMEM;
	}
	return err_set(e, CONF_BAD, "option '%s' has invalid value '%s' (expected one of %.*s)",
		       row->name, value, (int)known.len, (char *)known.data);
}

static int parse_as_number(const struct conf_row *row, const char *value, uint64_t *ret,
			   struct err *e)
{
	switch (row->type) {
	case CONF_INT:
		return parse_int(row, value, ret, e);
	case CONF_JOBS:
		return parse_jobs(row, value, ret, e);
	case CONF_COUNT:
	case CONF_MEMORY:
		return parse_count(row, value, ret, e);
	case CONF_AGE:
		return parse_age(row, value, ret, e);
	case CONF_SANDBOX:
		return parse_sandbox(row, value, ret, e);
	default:
		return parse_enum(row, value, ret, e);
	}
}

/* Absolute, without "//", "." and ".." (by text alone, as upstream does it). */
static int canon_path(const char *path, char **ret)
{
	_cleanup_buf_ struct buf b = BUF_INIT(CONF_VALUE_MAX);
	int r = 0;

	while (!r && *path) {
		size_t len;

		path += strspn(path, "/");
		len = strcspn(path, "/");
		if (len == 2 && !memcmp(path, "..", 2)) {
			while (b.len && b.data[--b.len] != '/')
				;
		} else if (len && !(len == 1 && *path == '.')) {
			r = buf_append_char(&b, '/');
			if (!r)
				r = buf_append(&b, path, len);
		}
		path += len;
	}
	if (!r && !b.len)
		r = buf_append_char(&b, '/');
	if (r)
		return r;
	*ret = buf_take_str(&b);
	return *ret ? 0 : -ENOMEM;
}

static int parse_text(const struct conf_row *row, const char *value, char **ret, struct err *e)
{
	bool must_be_absolute =
		row->type == CONF_ABS_PATH || (row->type == CONF_OPT_PATH && *value);

	if (!*value && (row->type == CONF_PATH || row->type == CONF_ABS_PATH))
		return err_set(e, CONF_BAD, "setting '%s' is a path and paths cannot be empty",
			       row->name);
	if (row->type == CONF_STORE && !conf_is_store_reference(value))
		return err_set(e, CONF_BAD, "Cannot parse Nix store '%s'", value);
	if (must_be_absolute && *value != '/')
		return err_set(e, CONF_BAD, "setting '%s': not an absolute path: '%s'", row->name,
			       value);
	if (must_be_absolute)
		return canon_path(value, ret);
	*ret = strdup(value);
	return *ret ? 0 : -ENOMEM;
}

static int split_words(const char *value, struct strv *ret)
{
	static const char blanks[] = " \t\n\r";

	for (;;) {
		_cleanup_free_ char *word = NULL;
		size_t len;

		value += strspn(value, blanks);
		len = strcspn(value, blanks);
		if (!len)
			return 0;
		word = strndup(value, len);
		if (!word || strv_add(ret, word) < 0)
			return -ENOMEM;
		value += len;
	}
}

/* Takes element i out. */
static void drop(struct strv *list, size_t i)
{
	free(list->v[i]);
	memmove(&list->v[i], &list->v[i + 1], (list->n - i - 1) * sizeof(*list->v));
	list->n--;
}

static bool is_feature(const char *word)
{
	for (const char *const *f = conf_features; *f; f++)
		if (!strcmp(*f, word))
			return true;
	return false;
}

static int check_features(struct strv *words, const struct conf_notice *notice)
{
	for (size_t i = words->n; i-- > 0;) {
		if (is_feature(words->v[i]))
			continue;
		tell(notice, "unknown experimental feature '%s'", words->v[i]);
		drop(words, i);
	}
	/* Upstream's flakes include fetchTree. */
	if (strv_has(words, "flakes") && !strv_has(words, "fetch-tree"))
		return strv_add(words, "fetch-tree");
	return 0;
}

static int check_stores(const struct strv *words, struct err *e)
{
	for (size_t i = 0; i < words->n; i++)
		if (!conf_is_store_reference(words->v[i]))
			return err_set(e, CONF_BAD, "Cannot parse Nix store '%s'", words->v[i]);
	return 0;
}

/* The part of a sandbox path that the builder sees: before "=", without the "?". */
static size_t inside_len(const char *entry)
{
	size_t len = strlen(entry);
	const char *eq = strchr(entry, '=');

	if (eq)
		return eq - entry;
	return len && entry[len - 1] == '?' ? len - 1 : len;
}

static bool same_inside(const char *a, const char *b)
{
	size_t n = inside_len(a);

	return n == inside_len(b) && !memcmp(a, b, n);
}

/* A map by inside path: within one value the last entry counts, and what an appended value would
 * replace stays. */
static void merge_chroot(struct strv *words, const struct strv *old)
{
	strv_sort_uniq(words, true);
	for (size_t i = words->n; i-- > 0;) {
		bool taken = i + 1 < words->n && same_inside(words->v[i], words->v[i + 1]);

		for (size_t k = 0; old && !taken && k < old->n; k++)
			taken = same_inside(words->v[i], old->v[k]);
		if (taken)
			drop(words, i);
	}
}

static int parse_list(const struct conf_row *row, const char *value, const struct strv *old,
		      const struct conf_notice *notice, struct strv *ret, struct err *e)
{
	int r = split_words(value, ret);

	if (!r && row->type == CONF_FEATURES)
		r = check_features(ret, notice);
	if (!r && (row->type == CONF_STORE_LIST || row->type == CONF_STORE_SET))
		r = check_stores(ret, e);
	if (!r && row->type == CONF_CHROOT)
		merge_chroot(ret, old);
	return r;
}

static int assign_list(struct settings *s, const struct conf_row *row, const char *value,
		       bool append, const struct conf_notice *notice, struct err *e)
{
	_cleanup_strv_ struct strv list = { 0 }, words = { 0 };
	struct strv none = { 0 }, *old = row->stored ? conf_member(s, row) : &none;
	int r = parse_list(row, value, append ? old : NULL, notice, &words, e);

	for (size_t i = 0; !r && append && i < old->n; i++)
		r = strv_add(&list, old->v[i]);
	for (size_t i = 0; !r && i < words.n; i++)
		r = strv_add(&list, words.v[i]);
	if (r)
		return r;
	if (row->type != CONF_LIST && row->type != CONF_STORE_LIST)
		strv_sort_uniq(&list, true);
	if (row->stored) {
		struct strv swap = *old;

		*old = list;
		list = swap;
	}
	return 0;
}

static int assign_text(struct settings *s, const struct conf_row *row, const char *value,
		       struct err *e)
{
	_cleanup_free_ char *text = NULL;
	int r = parse_text(row, value, &text, e);

	if (!r && row->stored) {
		char **member = conf_member(s, row);

		free(*member);
		*member = TAKE_PTR(text);
	}
	return r;
}

static int assign_scalar(struct settings *s, const struct conf_row *row, const char *value,
			 struct err *e)
{
	uint64_t number = 0;
	bool flag = false;
	int r;

	if (row->type == CONF_BOOL)
		r = parse_bool(row, value, &flag, e);
	else
		r = parse_as_number(row, value, &number, e);
	if (r || !row->stored)
		return r;
	if (row->type == CONF_BOOL)
		*(bool *)conf_member(s, row) = flag;
	else
		*(uint64_t *)conf_member(s, row) = number;
	return 0;
}

int conf_assign(struct settings *s, const struct conf_row *row, const char *value, bool append,
		const struct conf_notice *notice, struct err *e)
{
	int r;

	if (row->feature && !strv_has(&s->experimental_features, row->feature)) {
		tell(notice,
		     "Ignoring setting '%s' because experimental feature '%s' is not enabled",
		     row->name, row->feature);
		return 0;
	}
	switch (conf_stored_as(row->type)) {
	case STORED_LIST:
		r = assign_list(s, row, value, append, notice, e);
		break;
	case STORED_TEXT:
		r = assign_text(s, row, value, e);
		break;
	default:
		r = assign_scalar(s, row, value, e);
	}
	return r < 0 ? err_errno(e, r, "setting '%s'", row->name) : r;
}
