/* JSON cursor: see json.h. */
#include "wire/json.h"

#include <string.h>

void json_init(struct json *j, const char *text, size_t len, struct arena *a)
{
	*j = (struct json){ .p = text, .end = text + len, .a = a };
}

static void blanks(struct json *j)
{
	while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\n' || *j->p == '\r'))
		j->p++;
}

/* Takes `c`, when it is next. */
static bool take(struct json *j, char c)
{
	blanks(j);
	if (j->p == j->end || *j->p != c)
		return false;
	j->p++;
	return true;
}

/* Where the number at the cursor ends, and whether it is whole and not negative. NULL: none. */
static const char *number_end(const struct json *j, bool *ret_whole)
{
	const char *p = j->p;

	*ret_whole = p < j->end && *p != '-';
	p += p < j->end && *p == '-';
	const char *digits = p;
	while (p < j->end && *p >= '0' && *p <= '9')
		p++;
	if (p == digits || (*digits == '0' && p - digits > 1))
		return NULL;
	if (p < j->end && *p == '.') {
		*ret_whole = false;
		const char *fraction = ++p;
		while (p < j->end && *p >= '0' && *p <= '9')
			p++;
		if (p == fraction)
			return NULL;
	}
	if (p < j->end && (*p == 'e' || *p == 'E')) {
		*ret_whole = false;
		p++;
		p += p < j->end && (*p == '+' || *p == '-');
		const char *exponent = p;
		while (p < j->end && *p >= '0' && *p <= '9')
			p++;
		if (p == exponent)
			return NULL;
	}
	return p;
}

enum json_kind json_peek(struct json *j)
{
	bool whole;

	blanks(j);
	if (j->p == j->end)
		return JSON_NONE;
	switch (*j->p) {
	case '"':
		return JSON_STRING;
	case '{':
		return JSON_OBJECT;
	case '[':
		return JSON_ARRAY;
	case 't':
	case 'f':
	case 'n':
		return JSON_WORD;
	default:
		if (!number_end(j, &whole))
			return JSON_NONE;
		return whole ? JSON_UINT : JSON_NUMBER;
	}
}

static int hex4(struct json *j, unsigned *ret)
{
	unsigned v = 0;

	if (j->end - j->p < 4)
		return JSON_BAD;
	for (int i = 0; i < 4; i++) {
		char c = *j->p++;
		v <<= 4;
		if (c >= '0' && c <= '9')
			v |= (unsigned)(c - '0');
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			v |= (unsigned)((c | 32) - 'a' + 10);
		else
			return JSON_BAD;
	}
	*ret = v;
	return 0;
}

/* The code point behind "\u", joined from two halves where need be. */
static int escaped_point(struct json *j, unsigned *ret)
{
	unsigned hi, lo;

	if (hex4(j, &hi))
		return JSON_BAD;
	if (hi >= 0xd800 && hi < 0xdc00) {
		if (j->end - j->p < 2 || j->p[0] != '\\' || j->p[1] != 'u')
			return JSON_BAD;
		j->p += 2;
		if (hex4(j, &lo) || lo < 0xdc00 || lo > 0xdfff)
			return JSON_BAD;
		hi = 0x10000 + ((hi - 0xd800) << 10) + (lo - 0xdc00);
	} else if (hi >= 0xdc00 && hi < 0xe000) {
		return JSON_BAD;
	}
	*ret = hi;
	return hi ? 0 : JSON_BAD; /* a NUL ends C strings */
}

static char *put_utf8(char *to, unsigned c)
{
	if (c < 0x80) {
		*to++ = (char)c;
	} else if (c < 0x800) {
		*to++ = (char)(0xc0 | c >> 6);
		*to++ = (char)(0x80 | (c & 63));
	} else if (c < 0x10000) {
		*to++ = (char)(0xe0 | c >> 12);
		*to++ = (char)(0x80 | (c >> 6 & 63));
		*to++ = (char)(0x80 | (c & 63));
	} else {
		*to++ = (char)(0xf0 | c >> 18);
		*to++ = (char)(0x80 | (c >> 12 & 63));
		*to++ = (char)(0x80 | (c >> 6 & 63));
		*to++ = (char)(0x80 | (c & 63));
	}
	return to;
}

static int unescape(struct json *j, char **to)
{
	static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
	unsigned point;

	if (j->p == j->end)
		return JSON_BAD;
	char c = *j->p++;
	if (c == 'u') {
		if (escaped_point(j, &point))
			return JSON_BAD;
		*to = put_utf8(*to, point);
		return 0;
	}
	const char *at = c ? strchr(from, c) : NULL;
	if (!at)
		return JSON_BAD;
	*(*to)++ = into[at - from];
	return 0;
}

int json_string(struct json *j, char **ret)
{
	if (!take(j, '"'))
		return JSON_BAD;
	const char *close = j->p;
	while (close < j->end && *close != '"')
		close += *close == '\\' && close + 1 < j->end ? 2 : 1;
	if (close >= j->end)
		return JSON_BAD;
	/* What is escaped never gets longer. */
	char *s = arena_alloc(j->a, (size_t)(close - j->p) + 1), *to = s;
	if (!s)
		return JSON_BAD;
	while (j->p < close) {
		char c = *j->p++;
		if ((unsigned char)c < 0x20)
			return JSON_BAD;
		if (c != '\\')
			*to++ = c;
		else if (unescape(j, &to))
			return JSON_BAD;
	}
	if (j->p != close)
		return JSON_BAD;
	j->p++;
	*ret = s;
	return 0;
}

int json_uint(struct json *j, uint64_t *ret)
{
	uint64_t v = 0;
	bool whole;

	blanks(j);
	const char *end = number_end(j, &whole);
	if (!end || !whole)
		return JSON_BAD;
	for (; j->p < end; j->p++)
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*j->p - '0'), &v))
			return JSON_BAD;
	*ret = v;
	return 0;
}

static int skip_word(struct json *j)
{
	static const char *const words[] = { "true", "false", "null" };

	for (size_t i = 0; i < ELEMENTS(words); i++) {
		size_t n = strlen(words[i]);
		if ((size_t)(j->end - j->p) >= n && memcmp(j->p, words[i], n) == 0) {
			j->p += n;
			return 0;
		}
	}
	return JSON_BAD;
}

/* Skips a value that is neither object nor array. */
static int skip_scalar(struct json *j)
{
	bool whole;
	char *s;

	switch (json_peek(j)) {
	case JSON_STRING:
		return json_string(j, &s);
	case JSON_UINT:
	case JSON_NUMBER:
		j->p = number_end(j, &whole);
		return 0;
	case JSON_WORD:
		return skip_word(j);
	default:
		return JSON_BAD;
	}
}

/* One step into, through or out of the containers on the stack. */
static int skip_step(struct json *j, char *stack, bool *first, unsigned *depth)
{
	char *key;

	if (*depth > 0) {
		char close = stack[*depth - 1];
		if (take(j, close)) {
			(*depth)--;
			first[*depth] = false;
			return 0;
		}
		if (!first[*depth] && !take(j, ','))
			return JSON_BAD;
		first[*depth] = false;
		if (close == '}' && (json_string(j, &key) || !take(j, ':')))
			return JSON_BAD;
	}
	enum json_kind k = json_peek(j);
	if (k != JSON_OBJECT && k != JSON_ARRAY)
		return skip_scalar(j);
	if (*depth == JSON_MAX_DEPTH)
		return JSON_BAD;
	j->p++;
	stack[(*depth)++] = k == JSON_OBJECT ? '}' : ']';
	first[*depth] = true;
	return 0;
}

int json_skip(struct json *j)
{
	char stack[JSON_MAX_DEPTH];
	bool first[JSON_MAX_DEPTH + 1] = {};
	unsigned depth = 0;

	do {
		if (skip_step(j, stack, first, &depth))
			return JSON_BAD;
	} while (depth > 0);
	return 0;
}

int json_enter(struct json *j, char open)
{
	return take(j, open) ? 0 : JSON_BAD;
}

int json_key(struct json *j, bool *first, char **ret)
{
	if (take(j, '}')) {
		*ret = NULL;
		return 0;
	}
	if (!*first && !take(j, ','))
		return JSON_BAD;
	*first = false;
	if (json_string(j, ret) || !take(j, ':'))
		return JSON_BAD;
	return 0;
}

int json_more(struct json *j, bool *first, bool *ret_more)
{
	*ret_more = !take(j, ']');
	if (*ret_more && !*first && !take(j, ','))
		return JSON_BAD;
	*first = false;
	return 0;
}

int json_end(struct json *j)
{
	blanks(j);
	return j->p == j->end ? 0 : JSON_BAD;
}
