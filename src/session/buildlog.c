/* Build logs: see buildlog.h. */
#include "session/buildlog.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "wire/logline.h"

static struct running *find(struct build_logs *l, uint64_t build)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->v[i].build == build)
			return &l->v[i];
	return NULL;
}

/* Level and text as clients of upstream's daemon see them. */
static int start_activity(struct session *s, struct running *b, const char *drv, const char *verb)
{
	_cleanup_free_ char *text = NULL, *path = NULL;

	if (asprintf(&path, "%s/%s", s->client.store_dir, drv) < 0 ||
	    asprintf(&text, "%s '%s'", verb, path) < 0)
		return -ENOMEM;
	struct wire_field fields[] = {
		{ .is_str = true, .str = path },
		{ .is_str = true, .str = "" }, /* machine: this one */
		{ .num = 1 },		       /* round, of rounds */
		{ .num = 1 },
	};
	b->activity = activity_id(s);
	struct wire_start start = { .id = b->activity,
				    .level = LVL_INFO,
				    .type = ACT_BUILD,
				    .text = text,
				    .fields = fields,
				    .n_fields = ELEMENTS(fields) };
	if (wire_gate(s->version, GATE_ACTIVITIES) || s->verbosity >= LVL_INFO)
		wire_put_start(&s->out, s->version, &start);
	return 0;
}

static int hook_activity(struct session *s, struct running *b, const struct session_ev_hook *ev)
{
	_cleanup_free_ char *text = NULL, *path = NULL;

	if (asprintf(&path, "%s/%s", s->client.store_dir, ev->drv) < 0 ||
	    asprintf(&text, "running post-build-hook '%s'", ev->program) < 0)
		return -ENOMEM;
	struct wire_field fields[] = { { .is_str = true, .str = path } };
	b->activity = activity_id(s);
	struct wire_start start = { .id = b->activity,
				    .level = LVL_TALKATIVE,
				    .type = ACT_POST_BUILD_HOOK,
				    .text = text,
				    .fields = fields,
				    .n_fields = ELEMENTS(fields) };
	if (wire_gate(s->version, GATE_ACTIVITIES) || s->verbosity >= LVL_TALKATIVE)
		wire_put_start(&s->out, s->version, &start);
	return 0;
}

/* The one to be filled, or NULL: there is no memory, or it is one that the core never sends. Takes
 * the log. */
static struct running *add(struct build_logs *l, uint64_t build, int log)
{
	_cleanup_close_ int fd = log;
	struct running *v;

	if (l->n == LOG_BUILDS_MAX || find(l, build))
		return NULL;
	v = reallocarray(l->v, l->n + 1, sizeof(*v));
	if (!v)
		return NULL;
	l->v = v;
	v[l->n] = (struct running){ .build = build,
				    .log = TAKE_FD(fd),
				    .line = BUF_INIT(LOG_LINE_MAX) };
	return &v[l->n++];
}

int logs_started(struct session *s, struct build_logs *l, const struct session_ev_build *ev,
		 const char *verb, int log)
{
	struct running *b = add(l, ev->build, log);
	int r = b ? start_activity(s, b, ev->drv, verb) : -ENOMEM;

	return r ?: logs_grown(s, l, ev);
}

int logs_hook(struct session *s, struct build_logs *l, const struct session_ev_hook *ev, int log)
{
	struct running *b = add(l, ev->build, log);

	if (!b)
		return -ENOMEM;
	b->hook = true;
	return hook_activity(s, b, ev);
}

static void nested_start(struct session *s, struct running *b, const struct log_message *m)
{
	/* A builder is not trusted: it may only show downloads. */
	if (m->type != ACT_FILE_TRANSFER || b->n_nested == LOG_NESTED_MAX)
		return;
	for (size_t i = 0; i < b->n_nested; i++)
		if (b->nested[i].theirs == m->id)
			return;
	struct nested *v = reallocarray(b->nested, b->n_nested + 1, sizeof(*v));
	if (!v)
		return;
	b->nested = v;
	v[b->n_nested] = (struct nested){ .theirs = m->id, .ours = activity_id(s) };
	struct wire_start start = { .id = v[b->n_nested++].ours,
				    .level = m->level,
				    .type = m->type,
				    .text = m->text,
				    .fields = m->fields,
				    .n_fields = m->n_fields,
				    .parent = b->activity };
	wire_put_start(&s->out, s->version, &start);
}

static void nested_other(struct session *s, struct running *b, const struct log_message *m)
{
	for (size_t i = 0; i < b->n_nested; i++) {
		if (b->nested[i].theirs != m->id)
			continue;
		if (m->action == LOG_STOP) {
			wire_put_stop(&s->out, s->version, b->nested[i].ours);
			b->nested[i] = b->nested[--b->n_nested];
		} else {
			wire_put_result(&s->out, s->version, b->nested[i].ours, m->type, m->fields,
					m->n_fields);
		}
		return;
	}
}

static void handle_message(struct session *s, struct running *b, const struct log_message *m)
{
	struct wire_field phase = { .is_str = true, .str = m->phase };

	switch (m->action) {
	case LOG_START:
		nested_start(s, b, m);
		break;
	case LOG_STOP:
	case LOG_RESULT:
		nested_other(s, b, m);
		break;
	case LOG_SET_PHASE:
		wire_put_result(&s->out, s->version, b->activity, RES_SET_PHASE, &phase, 1);
		break;
	case LOG_MSG:
		if (m->level <= s->verbosity)
			wire_put_next(&s->out, m->msg);
		break;
	case LOG_OTHER:
		break;
	}
}

static void put_line(struct session *s, struct running *b, const char *line)
{
	struct wire_field f = { .is_str = true, .str = line };

	if (wire_gate(s->version, GATE_ACTIVITIES))
		wire_put_result(&s->out, s->version, b->activity,
				b->hook ? RES_POST_BUILD_LOG_LINE : RES_BUILD_LOG_LINE, &f, 1);
	else if (s->verbosity >= LVL_INFO)
		wire_put_next(&s->out, line);
}

static int end_line(struct session *s, struct running *b)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(8 << 20);
	struct log_message m;

	b->line.len = b->column; /* what a carriage return left standing behind is gone */
	b->column = 0;
	int r = buf_append_char(&b->line, 0);
	if (r < 0)
		return r;
	char *line = (char *)b->line.data;
	size_t len = b->line.len - 1;
	switch (b->hook ? LOG_PLAIN : log_message_parse(line, len, &a, &m)) {
	case 0:
		handle_message(s, b, &m);
		break;
	case LOG_MALFORMED:
		tell(s, LVL_ERROR, "bad JSON log message from the derivation builder: %s", line);
		put_line(s, b, line);
		break;
	case LOG_UNFIT:
		tell(s, LVL_WARN,
		     "warning: Unable to handle a JSON message from the derivation builder: %s",
		     line);
		put_line(s, b, line);
		break;
	default:
		put_line(s, b, line);
	}
	buf_clear(&b->line);
	return s->out.rc;
}

static int put_char(struct running *b, char c)
{
	if (b->column < b->line.len) {
		b->line.data[b->column++] = (uint8_t)c;
		return 0;
	}
	b->column++;
	return buf_append_char(&b->line, c);
}

/* Splits into lines. A NUL would end the line's text early and is dropped. */
static int split(struct session *s, struct running *b, const char *data, size_t len)
{
	int r = 0;

	for (size_t i = 0; !r && i < len; i++) {
		if (data[i] == '\r')
			b->column = 0;
		else if (data[i] == '\n' || b->column == LOG_LINE_MAX - 1)
			r = end_line(s, b);
		if (data[i] != '\r' && data[i] != '\n' && data[i] != 0)
			r = r ?: put_char(b, data[i]);
	}
	return r;
}

/* Reads up to what is announced; a log that is shorter counts as read. */
static int read_log(struct session *s, struct running *b, uint64_t size)
{
	char chunk[16 * 1024];

	while (b->offset < size) {
		uint64_t left = size - b->offset;
		size_t want = left < sizeof(chunk) ? (size_t)left : sizeof(chunk);
		ssize_t n = pread(b->log, chunk, want, (off_t)b->offset);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return 0;
		if (n < 0)
			continue;
		b->offset += (uint64_t)n;
		int r = split(s, b, chunk, (size_t)n);
		if (r < 0)
			return r;
	}
	return 0;
}

int logs_grown(struct session *s, struct build_logs *l, const struct session_ev_build *ev)
{
	struct running *b = find(l, ev->build);

	return b && b->log >= 0 ? read_log(s, b, ev->size) : 0;
}

static void close_one(struct session *s, struct running *b)
{
	for (size_t i = 0; i < b->n_nested; i++)
		wire_put_stop(&s->out, s->version, b->nested[i].ours);
	wire_put_stop(&s->out, s->version, b->activity);
	close_fdp(&b->log);
	buf_done(&b->line);
	free(b->nested);
}

int logs_ended(struct session *s, struct build_logs *l, const struct session_ev_build *ev)
{
	struct running *b = find(l, ev->build);

	if (!b)
		return 0;
	int r = logs_grown(s, l, ev);
	if (!r && b->line.len > 0)
		r = end_line(s, b); /* a last line without its newline */
	close_one(s, b);
	*b = l->v[--l->n];
	return r;
}

void logs_done(struct session *s, struct build_logs *l)
{
	for (size_t i = 0; i < l->n; i++)
		close_one(s, &l->v[i]);
	free(l->v);
	*l = (struct build_logs){};
}
