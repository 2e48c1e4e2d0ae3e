/* Messages in a build log: see logline.h. */
#include "wire/logline.h"

#include <string.h>

#include "wire/json.h"

enum { HAS_ID = 1, HAS_LEVEL = 2, HAS_TYPE = 4, HAS_TEXT = 8, HAS_MSG = 16, HAS_PHASE = 32 };

static const struct {
	const char *name;
	enum log_action action;
	unsigned needs;
} actions[] = {
	{ "start", LOG_START, HAS_ID | HAS_LEVEL | HAS_TYPE | HAS_TEXT },
	{ "stop", LOG_STOP, HAS_ID },
	{ "result", LOG_RESULT, HAS_ID | HAS_TYPE },
	{ "setPhase", LOG_SET_PHASE, HAS_PHASE },
	{ "msg", LOG_MSG, HAS_MSG | HAS_LEVEL },
};

static int parse_fields(struct json *j, struct log_message *m)
{
	bool first = true, more;

	m->n_fields = 0;
	if (json_enter(j, '['))
		return JSON_BAD;
	for (;;) {
		if (json_more(j, &first, &more))
			return JSON_BAD;
		if (!more)
			return 0;
		if (m->n_fields == LOG_FIELDS_MAX)
			return JSON_BAD;
		struct wire_field *f = &m->fields[m->n_fields++];
		char *s;
		switch (json_peek(j)) {
		case JSON_STRING:
			if (json_string(j, &s))
				return JSON_BAD;
			*f = (struct wire_field){ .is_str = true, .str = s };
			break;
		case JSON_UINT:
			*f = (struct wire_field){};
			if (json_uint(j, &f->num))
				return JSON_BAD;
			break;
		default:
			return JSON_BAD;
		}
	}
}

/* One member of the object. A known key with a value of another kind counts as absent. */
static int parse_member(struct json *j, const char *key, struct log_message *m, char **ret_action,
			unsigned *has)
{
	const struct {
		const char *name;
		unsigned bit;
		uint64_t *num;
		char **str;
	} rows[] = {
		{ "action", 0, NULL, ret_action },	 { "id", HAS_ID, &m->id, NULL },
		{ "level", HAS_LEVEL, &m->level, NULL }, { "type", HAS_TYPE, &m->type, NULL },
		{ "text", HAS_TEXT, NULL, &m->text },	 { "msg", HAS_MSG, NULL, &m->msg },
		{ "phase", HAS_PHASE, NULL, &m->phase },
	};
	enum json_kind k = json_peek(j);

	if (strcmp(key, "fields") == 0 && k == JSON_ARRAY)
		return parse_fields(j, m);
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		if (strcmp(key, rows[i].name) != 0)
			continue;
		*has &= ~rows[i].bit;
		if (k == JSON_STRING && rows[i].str) {
			*has |= rows[i].bit;
			return json_string(j, rows[i].str);
		}
		if (k == JSON_UINT && rows[i].num) {
			*has |= rows[i].bit;
			return json_uint(j, rows[i].num);
		}
	}
	return json_skip(j);
}

static int parse_object(struct json *j, struct log_message *m, char **ret_action, unsigned *has)
{
	bool first = true;
	char *key;

	if (json_enter(j, '{'))
		return JSON_BAD;
	for (;;) {
		if (json_key(j, &first, &key))
			return JSON_BAD;
		if (!key)
			return json_end(j);
		if (parse_member(j, key, m, ret_action, has))
			return JSON_BAD;
	}
}

int log_message_parse(const char *line, size_t len, struct arena *a, struct log_message *ret)
{
	static const char prefix[] = "@nix ";
	struct log_message m = {};
	char *action = NULL;
	unsigned has = 0;
	struct json j;

	if (len < sizeof(prefix) - 1 || memcmp(line, prefix, sizeof(prefix) - 1) != 0)
		return LOG_PLAIN;
	m.fields = arena_array(a, LOG_FIELDS_MAX, sizeof(*m.fields));
	if (!m.fields)
		return LOG_MALFORMED;
	json_init(&j, line + sizeof(prefix) - 1, len - (sizeof(prefix) - 1), a);
	if (json_peek(&j) != JSON_OBJECT && json_skip(&j) == 0 && json_end(&j) == 0)
		return LOG_UNFIT; /* JSON, but no object */
	json_init(&j, line + sizeof(prefix) - 1, len - (sizeof(prefix) - 1), a);
	if (parse_object(&j, &m, &action, &has))
		return LOG_MALFORMED;
	if (!action)
		return LOG_UNFIT;
	for (size_t i = 0; i < ELEMENTS(actions); i++) {
		if (strcmp(action, actions[i].name) != 0)
			continue;
		if ((has & actions[i].needs) != actions[i].needs)
			return LOG_UNFIT;
		m.action = actions[i].action;
	}
	*ret = m;
	return 0;
}
