/* The texts of .attrs.json and .attrs.sh (feature row C10). They are part of the build's input, so
 * they equal upstream's byte for byte: keys sorted, no blanks, control characters as \u00xx,
 * numbers as nlohmann::json prints them. Nothing here recurses. Pure. Linked by the core. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "core/attrs_print.h"

static int put_string(struct buf *b, const char *s)
{
	int r = buf_append_char(b, '"');

	for (; *s && r == 0; s++) {
		unsigned char c = (unsigned char)*s;
		const char *short_form = c == '"'    ? "\\\""
					 : c == '\\' ? "\\\\"
					 : c == '\b' ? "\\b"
					 : c == '\f' ? "\\f"
					 : c == '\n' ? "\\n"
					 : c == '\r' ? "\\r"
					 : c == '\t' ? "\\t"
						     : NULL;

		if (short_form)
			r = buf_append_str(b, short_form);
		else if (c < 0x20)
			r = buf_printf(b, "\\u%04x", c);
		else
			r = buf_append_char(b, (char)c);
	}
	return r ? r : buf_append_char(b, '"');
}

/* The fewest digits that read back as the same number, and where the point stands: behind
 * `*ret_point` of them. */
static size_t shortest_digits(double d, char digits[static 32], int *ret_point)
{
	char text[64];
	size_t n = 0;

	for (int precision = 0; precision <= 16; precision++) {
		snprintf(text, sizeof(text), "%.*e", precision, d);
		if (strtod(text, NULL) == d)
			break;
	}
	*ret_point = atoi(strchr(text, 'e') + 1) + 1;
	for (const char *p = text; *p != 'e'; p++)
		if (*p >= '0' && *p <= '9')
			digits[n++] = *p;
	while (n > 1 && digits[n - 1] == '0')
		n--;
	digits[n] = 0;
	return n;
}

/* As nlohmann::json: plain where the point stands at most 4 places before the digits or 15 behind
 * their beginning, else with an exponent of at least two digits; always with a mark that it is no
 * integer. */
static int put_real(struct buf *b, double d)
{
	char digits[32];
	int point, n, r;

	if (d == 0)
		return buf_append_str(b, signbit(d) ? "-0.0" : "0.0");
	n = (int)shortest_digits(d, digits, &point);
	r = d < 0 ? buf_append_char(b, '-') : 0;
	if (r)
		return r;
	if (n <= point && point <= 15)
		return buf_printf(b, "%s%.*s.0", digits, point - n, "000000000000000");
	if (point > 0 && point <= 15)
		return buf_printf(b, "%.*s.%s", point, digits, digits + point);
	if (point > -4 && point <= 0)
		return buf_printf(b, "0.%.*s%s", -point, "0000", digits);
	return buf_printf(b, "%c%s%se%c%02d", digits[0], n > 1 ? "." : "", digits + 1,
			  point > 0 ? '+' : '-', abs(point - 1));
}

static int put_scalar(struct buf *b, const json_t *v)
{
	switch (json_typeof(v)) {
	case JSON_STRING:
		return put_string(b, json_string_value(v));
	case JSON_INTEGER:
		return buf_printf(b, "%lld", (long long)json_integer_value(v));
	case JSON_REAL:
		return put_real(b, json_real_value(v));
	case JSON_TRUE:
		return buf_append_str(b, "true");
	case JSON_FALSE:
		return buf_append_str(b, "false");
	default:
		return buf_append_str(b, "null");
	}
}

/* An array or object that is being printed. */
struct level {
	const json_t *v;
	const char **keys; /* sorted; NULL for an array */
	size_t at, n;
};

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The keys of an object, sorted; heap. */
static const char **sorted_keys(const json_t *v, size_t *ret_n)
{
	const char **keys = calloc(json_object_size(v) + 1, sizeof(*keys)), *key;
	size_t n = 0;
	json_t *item;

	if (!keys)
		return NULL;
	json_object_foreach((json_t *)v, key, item) keys[n++] = key;
	qsort(keys, n, sizeof(*keys), compare_keys);
	*ret_n = n;
	return keys;
}

static int level_open(struct level *l, const json_t *v)
{
	*l = (struct level){ .v = v, .n = json_array_size(v) };
	if (json_is_object(v)) {
		l->keys = sorted_keys(v, &l->n);
		if (!l->keys)
			return -ENOMEM;
	}
	return 0;
}

int attrs_put_json(struct buf *b, const json_t *v)
{
	struct level *stack = NULL;
	size_t depth = 0, cap = 0;
	int r = 0;

	while (r == 0) {
		struct level *l;

		if (v && !json_is_array(v) && !json_is_object(v)) {
			r = put_scalar(b, v);
		} else if (v) {
			if (depth == cap) {
				struct level *p = reallocarray(stack, cap + 32, sizeof(*p));

				if (!p) {
					r = -ENOMEM;
					break;
				}
				stack = p;
				cap += 32;
			}
			r = level_open(&stack[depth], v);
			if (r == 0) {
				depth++;
				r = buf_append_char(b, json_is_object(v) ? '{' : '[');
			}
		}
		if (r || !depth)
			break;
		l = &stack[depth - 1];
		v = NULL;
		if (l->at == l->n) {
			r = buf_append_char(b, l->keys ? '}' : ']');
			free(l->keys);
			depth--;
			if (!depth)
				break;
			continue;
		}
		if (l->at)
			r = buf_append_char(b, ',');
		if (r == 0 && l->keys) {
			r = put_string(b, l->keys[l->at]);
			if (r == 0)
				r = buf_append_char(b, ':');
		}
		v = l->keys ? json_object_get(l->v, l->keys[l->at]) : json_array_get(l->v, l->at);
		l->at++;
	}
	while (depth > 0)
		free(stack[--depth].keys);
	free(stack);
	return r;
}

static int put_quoted(struct buf *b, const char *s)
{
	int r = buf_append_char(b, '\'');

	for (; *s && r == 0; s++)
		r = *s == '\'' ? buf_append_str(b, "'\\''") : buf_append_char(b, *s);
	return r ? r : buf_append_char(b, '\'');
}

/* 1 (NOT_SIMPLE): the shell has no word for it. */
enum { NOT_SIMPLE = 1 };
static int put_shell_word(struct buf *b, const json_t *v)
{
	switch (json_typeof(v)) {
	case JSON_STRING:
		return put_quoted(b, json_string_value(v));
	case JSON_INTEGER:
		/* Upstream prints an int, whatever the value was. */
		return buf_printf(b, "%d", (int)json_integer_value(v));
	case JSON_REAL: {
		double d = json_real_value(v);
		float f = (float)d;

		if (ceilf(f) != f)
			return NOT_SIMPLE;
		/* The processor's answer for what does not fit, which upstream prints. */
		return buf_printf(b, "%d", d >= INT_MIN && d <= INT_MAX ? (int)d : INT_MIN);
	}
	case JSON_NULL:
		return buf_append_str(b, "''");
	case JSON_TRUE:
		return buf_append_char(b, '1');
	case JSON_FALSE:
		return 0;
	default:
		return NOT_SIMPLE;
	}
}

static int put_shell_array(struct buf *b, const json_t *v)
{
	const json_t *item;
	size_t i;

	json_array_foreach(v, i, item)
	{
		int r = put_shell_word(b, item);

		if (r == 0)
			r = buf_append_char(b, ' ');
		if (r)
			return r;
	}
	return 0;
}

static int put_shell_map(struct buf *b, const json_t *v)
{
	size_t n = 0;
	const char **keys = sorted_keys(v, &n);
	int r = keys ? 0 : -ENOMEM;

	for (size_t i = 0; i < n && r == 0; i++) {
		r = buf_append_char(b, '[');
		if (r == 0)
			r = put_quoted(b, keys[i]);
		if (r == 0)
			r = buf_append_str(b, "]=");
		if (r == 0)
			r = put_shell_word(b, json_object_get(v, keys[i]));
		if (r == 0)
			r = buf_append_char(b, ' ');
	}
	free(keys);
	return r;
}

static bool is_shell_name(const char *s)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";

	return *s && !(*s >= '0' && *s <= '9') && s[strspn(s, letters)] == 0;
}

/* One declare line; what the shell cannot hold leaves no trace. */
static int put_declaration(struct buf *b, const char *key, const json_t *v)
{
	size_t before = b->len;
	int r;

	if (json_is_array(v)) {
		r = buf_printf(b, "declare -a %s=(", key);
		if (r == 0)
			r = put_shell_array(b, v);
	} else if (json_is_object(v)) {
		r = buf_printf(b, "declare -A %s=(", key);
		if (r == 0)
			r = put_shell_map(b, v);
	} else {
		r = buf_printf(b, "declare %s=", key);
		if (r == 0)
			r = put_shell_word(b, v);
	}
	if (r == 0)
		r = buf_append_str(b, json_is_array(v) || json_is_object(v) ? ")\n" : "\n");
	if (r == NOT_SIMPLE) {
		b->len = before;
		r = 0;
	}
	return r;
}

int attrs_put_shell(struct buf *b, const json_t *top)
{
	size_t n = 0;
	const char **keys = sorted_keys(top, &n);
	int r = keys ? 0 : -ENOMEM;

	for (size_t i = 0; i < n && r == 0; i++)
		if (is_shell_name(keys[i]))
			r = put_declaration(b, keys[i], json_object_get(top, keys[i]));
	free(keys);
	return r;
}
