/* Values of settings as text: what a configuration file would have to say. Linked by the core and
 * by the command line tool. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "conf/table.h"

enum { PRINT_MAX = 4 << 20 };

static int print_number(const struct conf_row *row, uint64_t v, struct buf *b)
{
	static const char *const modes[] = { "false", "true", "relaxed" };

	if (row->type == CONF_SANDBOX)
		return buf_append_str(b, modes[v <= SANDBOX_RELAXED ? v : 0]);
	if (row->type == CONF_ENUM)
		return buf_append_str(b, row->words[v]);
	if (row->type == CONF_JOBS && v == UINT64_MAX)
		return buf_append_str(b, "auto");
	if ((row->type == CONF_COUNT || row->type == CONF_MEMORY) && v == UINT64_MAX)
		return buf_append_str(b, "max");
	return buf_printf(b, "%" PRIu64, v);
}

int conf_print(const struct settings *s, const struct conf_row *row, struct buf *b)
{
	const void *at = conf_member(s, row);
	const struct strv *list = at;
	const char *text;
	int r = 0;

	switch (conf_stored_as(row->type)) {
	case STORED_BOOL:
		return buf_append_str(b, *(const bool *)at ? "true" : "false");
	case STORED_NUMBER:
		return print_number(row, *(const uint64_t *)at, b);
	case STORED_TEXT:
		text = *(char *const *)at;
		return buf_append_str(b, text ? text : "");
	case STORED_LIST:
		for (size_t i = 0; i < list->n && r == 0; i++)
			r = buf_printf(b, "%s%s", i ? " " : "", list->v[i]);
		return r;
	}
	return 0;
}

static bool is_same(const struct buf *a, const struct buf *b)
{
	return a->len == b->len && (!a->len || !memcmp(a->data, b->data, a->len));
}

static int print_row(const struct settings *s, const struct settings *usual,
		     const struct conf_row *row, struct buf *ret)
{
	_cleanup_buf_ struct buf value = BUF_INIT(PRINT_MAX), other = BUF_INIT(PRINT_MAX);
	int r = conf_print(s, row, &value);

	if (r == 0)
		r = conf_print(usual, row, &other);
	if (r < 0 || is_same(&value, &other) || (value.len && memchr(value.data, '\n', value.len)))
		return r;
	r = buf_printf(ret, "%s = ", row->name);
	if (r == 0)
		r = buf_append(ret, value.data, value.len);
	return r ? r : buf_append_char(ret, '\n');
}

char *settings_print_changed(const struct settings *s)
{
	_cleanup_buf_ struct buf b = BUF_INIT(PRINT_MAX);
	struct settings usual;
	int r = 0;

	settings_init(&usual);
	for (size_t i = 0; r == 0 && i < conf_table_len; i++)
		if (conf_table[i].stored && !conf_table[i].own)
			r = print_row(s, &usual, &conf_table[i], &b);
	settings_done(&usual);
	return r ? NULL : buf_take_str(&b);
}
