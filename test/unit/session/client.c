/* See client.h. */
#include "client.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "nar/nar.h"
#include "wire/limits.h"

static int more(struct wire_in *in)
{
	struct client *c = in->ctx;
	ssize_t n = read(c->fd, c->buf, sizeof(c->buf));

	if (n <= 0)
		return WIRE_EOF;
	in->p = c->buf;
	in->end = c->buf + n;
	return 0;
}

static void greet(struct client *c, unsigned minor)
{
	c->version = 1u << 8 | minor;
	wire_put_u64(&c->out, WIRE_MAGIC_CLIENT);
	wire_put_u64(&c->out, c->version);
	if (wire_gate(c->version, GATE_FEATURES))
		wire_put_u64(&c->out, 0);
	wire_put_u64(&c->out, 0);
	wire_put_u64(&c->out, 0);
	client_send(c);
	assert_int_equal(client_u64(c), WIRE_MAGIC_SERVER);
	assert_int_equal(client_u64(c), WIRE_VERSION);
	if (wire_gate(c->version, GATE_FEATURES))
		for (uint64_t n = client_u64(c); n > 0; n--)
			(void)client_str(c);
	if (wire_gate(c->version, GATE_VERSION_STRING))
		assert_string_equal(client_str(c), "2.34.8");
	if (wire_gate(c->version, GATE_TRUST))
		(void)client_u64(c);
	assert_true(client_answer(c));
}

void client_start(struct client *c, const struct fake_core *f, unsigned minor)
{
	*c = (struct client){ .a = ARENA_INIT(64 << 20) };
	(void)signal(SIGPIPE, SIG_IGN);
	c->fd = fake_core_connect(f, c->pids);
	c->in = (struct wire_in){ .more = more, .ctx = c };
	c->out = (struct wire_out){ .b = BUF_INIT(64 << 20), .store_dir = f->store_dir };
	if (minor)
		greet(c, minor);
}

bool client_end(struct client *c)
{
	int core, session;

	close(c->fd);
	assert_true(waitpid(c->pids[1], &session, 0) > 0);
	assert_true(waitpid(c->pids[0], &core, 0) > 0);
	buf_done(&c->out.b);
	arena_done(&c->a);
	assert_int_equal(core, 0);
	return session == 0;
}

void client_send(struct client *c)
{
	assert_int_equal(c->out.rc, 0);
	assert_int_equal(write_full(c->fd, c->out.b.data, c->out.b.len), 0);
	buf_clear(&c->out.b);
}

uint64_t client_u64(struct client *c)
{
	uint64_t v;

	assert_int_equal(wire_u64(&c->in, &v), 0);
	return v;
}

char *client_str(struct client *c)
{
	char *s;

	assert_int_equal(wire_str(&c->in, &c->a, WIRE_STR_MAX, &s), 0);
	return s;
}

static void note(struct client *c, const char *prefix, const char *text)
{
	size_t at = strlen(c->log);

	(void)snprintf(c->log + at, sizeof(c->log) - at, "%s%s", prefix, text);
}

/* Gives the first string. */
static char *fields(struct client *c)
{
	char *first = (char *)"";
	uint64_t n = client_u64(c);

	for (uint64_t i = 0; i < n; i++) {
		if (client_u64(c) == 0) {
			(void)client_u64(c);
			continue;
		}
		char *s = client_str(c);
		first = *first ? first : s;
	}
	return first;
}

static void start(struct client *c)
{
	(void)client_u64(c);
	(void)client_u64(c);
	uint64_t type = client_u64(c);
	char *text = client_str(c);
	(void)fields(c);
	(void)client_u64(c);
	if (type == ACT_BUILD) {
		note(c, "start:", text);
		note(c, "\n", "");
	}
}

static void result(struct client *c)
{
	(void)client_u64(c);
	uint64_t type = client_u64(c);
	char *text = fields(c);
	if (type == RES_BUILD_LOG_LINE)
		note(c, "line:", text);
	else if (type == RES_SET_PHASE)
		note(c, "phase:", text);
	else
		return;
	note(c, "\n", "");
}

static void error(struct client *c)
{
	if (wire_gate(c->version, GATE_ERROR_STRUCT)) {
		(void)client_str(c);
		assert_int_equal(client_u64(c), 0);
		(void)client_str(c);
	}
	(void)snprintf(c->error, sizeof(c->error), "%s", client_str(c));
	(void)client_u64(c);
	if (wire_gate(c->version, GATE_ERROR_STRUCT))
		assert_int_equal(client_u64(c), 0);
}

static void pulled(struct client *c)
{
	uint64_t want = client_u64(c);
	size_t n = want < 50 ? want : 50; /* short answers are allowed */

	n = n < c->pull_len ? n : c->pull_len;
	wire_put_blob(&c->out, c->pull, n);
	c->pull += n;
	c->pull_len -= n;
	c->n_reads++;
	client_send(c);
}

static void written(struct client *c)
{
	uint8_t *data;
	size_t len;

	assert_int_equal(wire_blob(&c->in, &c->a, WIRE_STR_MAX, &data, &len), 0);
	assert_true(c->n_written + len <= sizeof(c->written));
	memcpy(c->written + c->n_written, data, len);
	c->n_written += len;
}

bool client_answer(struct client *c)
{
	c->log[0] = c->error[0] = 0;
	for (;;) {
		switch (client_u64(c)) {
		case FRAME_LAST:
			return true;
		case FRAME_ERROR:
			error(c);
			return false;
		case FRAME_NEXT:
			note(c, "", client_str(c));
			break;
		case FRAME_START_ACTIVITY:
			start(c);
			break;
		case FRAME_STOP_ACTIVITY:
			(void)client_u64(c);
			break;
		case FRAME_RESULT:
			result(c);
			break;
		case FRAME_READ:
			pulled(c);
			break;
		case FRAME_WRITE:
			written(c);
			break;
		default:
			fail_msg("not a frame");
		}
	}
}

bool client_at_end(struct client *c)
{
	return c->in.p == c->in.end && more(&c->in) == WIRE_EOF;
}

void client_options(struct client *c, const char *name, const char *value)
{
	wire_put_u64(&c->out, OP_SET_OPTIONS);
	for (int i = 0; i < 12; i++)
		wire_put_u64(&c->out, i == 3 ? 3 : 0);
	wire_put_u64(&c->out, name ? 1 : 0);
	if (name) {
		wire_put_str(&c->out, name);
		wire_put_str(&c->out, value);
	}
	client_send(c);
	assert_true(client_answer(c));
}

void client_add(struct client *c, const char *name, const char *method, const void *data,
		size_t len)
{
	wire_put_u64(&c->out, OP_ADD_TO_STORE);
	wire_put_str(&c->out, name);
	wire_put_str(&c->out, method);
	wire_put_u64(&c->out, 0);
	wire_put_u64(&c->out, 0);
	if (len) {
		wire_put_u64(&c->out, len);
		wire_put_raw(&c->out, data, len);
	}
	wire_put_u64(&c->out, 0);
}

struct wire_info client_keyed_info(struct client *c)
{
	struct wire_info info = {};

	assert_int_equal(wire_path(&c->in, c->out.store_dir, &c->a, &info.path), 0);
	assert_int_equal(wire_get_info(&c->in, c->out.store_dir, &c->a, &info), 0);
	return info;
}

void file_nar(struct buf *b, const char *text)
{
	assert_int_equal(nar_put_begin(b), 0);
	assert_int_equal(nar_put_file_begin(b, false, strlen(text)), 0);
	assert_int_equal(buf_append_str(b, text), 0);
	assert_int_equal(nar_put_file_end(b, strlen(text)), 0);
}
