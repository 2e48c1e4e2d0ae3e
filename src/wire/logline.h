/* Lines of a build log that are messages: "@nix " and a JSON object (feature row E13). Pure.
 *
 *   { "action": "setPhase", "phase": P }       { "action": "msg", "level": N, "msg": S }
 *   { "action": "start", "id": N, "level": N, "type": N, "text": S, "fields": [...] }
 *   { "action": "stop", "id": N }
 *   { "action": "result", "id": N, "type": N, "fields": [...] }
 *
 * Later keys win over earlier ones; unknown keys are allowed. */
#pragma once

#include "base/arena.h"
#include "wire/frames.h"

enum log_action { LOG_OTHER, LOG_START, LOG_STOP, LOG_RESULT, LOG_SET_PHASE, LOG_MSG };

struct log_message {
	enum log_action action;
	uint64_t id, level, type;
	char *text, *msg, *phase;
	struct wire_field *fields;
	size_t n_fields;
};

enum { LOG_PLAIN = 1, LOG_MALFORMED = 2, LOG_UNFIT = 3, LOG_FIELDS_MAX = 64 };
/* 0: a message; LOG_PLAIN: an ordinary line; LOG_MALFORMED: begins like one and is no JSON;
 * LOG_UNFIT: JSON, but not a message. */
int log_message_parse(const char *line, size_t len, struct arena *a, struct log_message *ret);
