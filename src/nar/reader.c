/* The NAR parser of nar.h: a state machine over strings, driven by whatever piece of input there
 * is.
 *
 * It must never do I/O, recurse, or allocate after nar_reader_new(): every string of the format has
 * a limit that is known before its first byte is looked at. Contents of files are handed on as
 * slices of the input. Linked by session, supervisor and fetcher through libnar. */
#include "nar/nar.h"

#include <string.h>

enum { TAG_MAX = 32, MAGIC_LEN = 13 };

enum state {
	S_MAGIC,
	S_NODE_OPEN,
	S_NODE_TYPE_TAG,
	S_NODE_TYPE,
	S_FILE_TAG,	 /* "executable" or "contents" */
	S_EXECUTABLE,	 /* "" */
	S_FILE_TAG_EXEC, /* "contents" */
	S_FILE_SIZE,	 /* u64 */
	S_FILE_DATA,
	S_FILE_PADDING,
	S_FILE_CLOSE,
	S_LINK_TARGET_TAG,
	S_LINK_TARGET,
	S_LINK_CLOSE,
	S_DIR_TAG, /* "entry" or ")" */
	S_ENTRY_OPEN,
	S_ENTRY_NAME_TAG,
	S_ENTRY_NAME,
	S_ENTRY_NODE,
	S_ENTRY_CLOSE,
	S_DONE,
	S_BAD,
	N_STATES,
};

struct nar_reader {
	enum state state;
	/* The string or number being collected: its length field, then body and padding. */
	uint8_t head[8];
	size_t head_have, body_have, body_len, body_padded;
	char body[NAR_TARGET_MAX + 1 + 8];
	/* The file being read. */
	uint64_t data_left;
	size_t padding_left;
	bool executable;
	/* Open directories, and in each the name of the entry read last. */
	size_t depth;
	char last[NAR_MAX_DEPTH][NAR_NAME_MAX + 1];
};

/* What a state waits for: a string of at most `max` bytes, and which one if only one will do. */
struct expectation {
	size_t max;
	const char *tag;
};

static const struct expectation expected[N_STATES] = {
	[S_MAGIC] = { MAGIC_LEN, NULL },
	[S_NODE_OPEN] = { TAG_MAX, "(" },
	[S_NODE_TYPE_TAG] = { TAG_MAX, "type" },
	[S_NODE_TYPE] = { TAG_MAX, NULL },
	[S_FILE_TAG] = { TAG_MAX, NULL },
	[S_EXECUTABLE] = { 0, "" },
	[S_FILE_TAG_EXEC] = { TAG_MAX, NULL },
	[S_FILE_CLOSE] = { TAG_MAX, ")" },
	[S_LINK_TARGET_TAG] = { TAG_MAX, "target" },
	[S_LINK_TARGET] = { NAR_TARGET_MAX, NULL },
	[S_LINK_CLOSE] = { TAG_MAX, ")" },
	[S_DIR_TAG] = { TAG_MAX, NULL },
	[S_ENTRY_OPEN] = { TAG_MAX, "(" },
	[S_ENTRY_NAME_TAG] = { TAG_MAX, "name" },
	[S_ENTRY_NAME] = { NAR_NAME_MAX, NULL },
	[S_ENTRY_NODE] = { TAG_MAX, "node" },
	[S_ENTRY_CLOSE] = { TAG_MAX, ")" },
};

struct nar_reader *nar_reader_new(void)
{
	struct nar_reader *r = malloc(sizeof(*r));

	if (!r)
		return NULL;
	r->state = S_MAGIC;
	r->head_have = r->body_have = 0;
	r->executable = false;
	r->depth = 0;
	return r;
}

void nar_reader_free(struct nar_reader *r)
{
	free(r);
}

static uint64_t head_value(const struct nar_reader *r)
{
	uint64_t v = 0;

	for (int i = 7; i >= 0; i--)
		v = v << 8 | r->head[i];
	return v;
}

/* Each of the collectors: 1 complete, 0 needs more input, -1 bad. They advance *in and *len. */
static int collect_head(struct nar_reader *r, const uint8_t **in, size_t *len)
{
	size_t n = 8 - r->head_have;

	if (n > *len)
		n = *len;
	memcpy(r->head + r->head_have, *in, n);
	r->head_have += n;
	*in += n;
	*len -= n;
	return r->head_have == 8;
}

static int bad_string(const struct nar_reader *r, struct err *e, const char *why)
{
	if (r->state == S_MAGIC)
		why = "bad archive: input doesn't look like a Nix archive";
	err_set(e, NAR_BAD, "%s", why);
	return -1;
}

static int collect_string(struct nar_reader *r, const uint8_t **in, size_t *len, struct err *e)
{
	size_t n;

	if (r->head_have < 8) {
		uint64_t value;

		if (!collect_head(r, in, len))
			return 0;
		value = head_value(r);
		if (value > expected[r->state].max)
			return bad_string(r, e, "string is too long");
		r->body_len = (size_t)value;
		r->body_padded = (r->body_len + 7) & ~(size_t)7;
		r->body_have = 0;
	}
	n = r->body_padded - r->body_have;
	if (n > *len)
		n = *len;
	if (n)
		memcpy(r->body + r->body_have, *in, n);
	r->body_have += n;
	*in += n;
	*len -= n;
	if (r->body_have < r->body_padded)
		return 0;
	for (size_t i = r->body_len; i < r->body_padded; i++)
		if (r->body[i])
			return bad_string(r, e, "non-zero padding");
	r->body[r->body_len] = 0;
	r->head_have = 0;
	return 1;
}

static bool body_is(const struct nar_reader *r, const char *s)
{
	size_t len = strlen(s);

	return r->body_len == len && memcmp(r->body, s, len) == 0;
}

static int expected_tag(const struct nar_reader *r, const char *what, struct err *e)
{
	err_set(e, NAR_BAD, "bad archive: expected tag %s, got '%s'", what, r->body);
	return -1;
}

static const char *current_name(const struct nar_reader *r)
{
	return r->depth ? r->last[r->depth - 1] : "";
}

/* Where parsing goes on when a node is complete. */
static enum state after_node(const struct nar_reader *r)
{
	return r->depth ? S_ENTRY_CLOSE : S_DONE;
}

static int file_begin(struct nar_reader *r, uint64_t size, struct nar_item *ret)
{
	ret->name = current_name(r);
	ret->executable = r->executable;
	ret->size = size;
	r->state = S_FILE_DATA;
	return NAR_FILE_BEGIN;
}

static int on_node_type(struct nar_reader *r, struct nar_item *ret, struct err *e)
{
	if (body_is(r, "regular")) {
		r->executable = false;
		r->state = S_FILE_TAG;
		return NAR_MORE;
	}
	if (body_is(r, "symlink")) {
		r->state = S_LINK_TARGET_TAG;
		return NAR_MORE;
	}
	if (body_is(r, "directory")) {
		ret->name = current_name(r);
		r->last[r->depth++][0] = 0; /* below the limit: checked before the node began */
		r->state = S_DIR_TAG;
		return NAR_DIR_BEGIN;
	}
	err_set(e, NAR_BAD, "bad archive: unknown file type '%s'", r->body);
	return -1;
}

static int on_file_tag(struct nar_reader *r, struct err *e)
{
	if (r->state == S_FILE_TAG && body_is(r, "executable")) {
		r->state = S_EXECUTABLE;
		return NAR_MORE;
	}
	if (body_is(r, "contents")) {
		r->state = S_FILE_SIZE;
		return NAR_MORE;
	}
	return expected_tag(r, "'contents'", e);
}

static int on_link_target(struct nar_reader *r, struct nar_item *ret, struct err *e)
{
	if (r->body_len == 0 || memchr(r->body, 0, r->body_len)) {
		err_set(e, NAR_BAD, "bad archive: NAR contains invalid symlink target");
		return -1;
	}
	ret->name = current_name(r);
	ret->target = r->body;
	r->state = S_LINK_CLOSE;
	return NAR_SYMLINK;
}

static int on_dir_tag(struct nar_reader *r, struct err *e)
{
	if (body_is(r, "entry")) {
		r->state = S_ENTRY_OPEN;
		return NAR_MORE;
	}
	if (!body_is(r, ")"))
		return expected_tag(r, "'entry' or ')'", e);
	r->depth--;
	r->state = after_node(r);
	return NAR_DIR_END;
}

static int on_entry_name(struct nar_reader *r, struct err *e)
{
	char *last = r->last[r->depth - 1];

	if (r->body_len == 0 || body_is(r, ".") || body_is(r, "..") ||
	    memchr(r->body, '/', r->body_len) || memchr(r->body, 0, r->body_len)) {
		err_set(e, NAR_BAD, "bad archive: NAR contains invalid file name '%s'", r->body);
		return -1;
	}
	if (strcmp(r->body, last) <= 0) {
		err_set(e, NAR_BAD, "bad archive: NAR directory is not sorted");
		return -1;
	}
	memcpy(last, r->body, r->body_len + 1);
	r->state = S_ENTRY_NODE;
	return NAR_MORE;
}

static int on_entry_node(struct nar_reader *r, struct err *e)
{
	if (r->depth >= NAR_MAX_DEPTH) {
		err_set(e, NAR_BAD,
			"bad archive: NAR directory nesting exceeds maximum depth of %d",
			NAR_MAX_DEPTH);
		return -1;
	}
	r->state = S_NODE_OPEN;
	return NAR_MORE;
}

/* A whole string is there: checks it and moves on. An event, NAR_MORE for none, or -1. */
static int on_string(struct nar_reader *r, struct nar_item *ret, struct err *e)
{
	const char *tag = expected[r->state].tag;

	if (tag && !body_is(r, tag)) {
		err_set(e, NAR_BAD, "bad archive: expected tag '%s', got '%s'", tag, r->body);
		return -1;
	}
	switch (r->state) {
	case S_MAGIC:
		if (!body_is(r, "nix-archive-1"))
			return bad_string(r, e, "");
		r->state = S_NODE_OPEN;
		return NAR_MORE;
	case S_NODE_TYPE:
		return on_node_type(r, ret, e);
	case S_FILE_TAG:
	case S_FILE_TAG_EXEC:
		return on_file_tag(r, e);
	case S_EXECUTABLE:
		r->executable = true;
		r->state = S_FILE_TAG_EXEC;
		return NAR_MORE;
	case S_FILE_CLOSE:
		r->state = after_node(r);
		return NAR_FILE_END;
	case S_LINK_TARGET:
		return on_link_target(r, ret, e);
	case S_LINK_CLOSE:
		r->state = after_node(r);
		return NAR_MORE;
	case S_DIR_TAG:
		return on_dir_tag(r, e);
	case S_ENTRY_NAME:
		return on_entry_name(r, e);
	case S_ENTRY_NODE:
		return on_entry_node(r, e);
	case S_ENTRY_CLOSE:
		r->state = S_DIR_TAG;
		return NAR_MORE;
	default:
		/* A fixed tag that is followed by the next state of the grammar. */
		r->state++;
		return NAR_MORE;
	}
}

static int on_file_size(struct nar_reader *r, struct nar_item *ret, struct err *e)
{
	uint64_t size = head_value(r);

	r->head_have = 0;
	if (size > INT64_MAX) {
		err_set(e, NAR_BAD, "bad archive: NAR contains a file of an impossible size");
		return -1;
	}
	r->data_left = size;
	r->padding_left = (size_t)(-size & 7);
	return file_begin(r, size, ret);
}

static int on_file_data(struct nar_reader *r, const uint8_t **in, size_t *len, struct nar_item *ret)
{
	size_t n = *len;

	if (r->data_left == 0) {
		r->state = S_FILE_PADDING;
		return NAR_MORE;
	}
	if (n > r->data_left)
		n = (size_t)r->data_left;
	ret->data = *in;
	ret->data_len = n;
	r->data_left -= n;
	*in += n;
	*len -= n;
	return NAR_FILE_DATA;
}

static int on_padding(struct nar_reader *r, const uint8_t **in, size_t *len, struct err *e)
{
	for (; r->padding_left && *len; r->padding_left--, (*in)++, (*len)--)
		if (**in) {
			err_set(e, NAR_BAD, "non-zero padding");
			return -1;
		}
	if (!r->padding_left)
		r->state = S_FILE_CLOSE;
	return NAR_MORE;
}

/* Advances by one step of the grammar. An event, NAR_MORE for none, or -1. */
static int step(struct nar_reader *r, const uint8_t **in, size_t *len, struct nar_item *ret,
		struct err *e)
{
	int got;

	switch (r->state) {
	case S_FILE_SIZE:
		return collect_head(r, in, len) ? on_file_size(r, ret, e) : NAR_MORE;
	case S_FILE_DATA:
		return on_file_data(r, in, len, ret);
	case S_FILE_PADDING:
		return on_padding(r, in, len, e);
	default:
		got = collect_string(r, in, len, e);
		return got > 0 ? on_string(r, ret, e) : got;
	}
}

/* States that can go on without another byte of input. */
static bool needs_no_input(const struct nar_reader *r)
{
	return (r->state == S_FILE_DATA && r->data_left == 0) ||
	       (r->state == S_FILE_PADDING && r->padding_left == 0);
}

int nar_reader_next(struct nar_reader *r, const uint8_t *input, size_t len, size_t *ret_used,
		    struct nar_item *ret, struct err *e)
{
	const uint8_t *in = input;
	int event = NAR_MORE;

	*ret_used = 0;
	memset(ret, 0, sizeof(*ret));
	ret->name = "";
	if (r->state == S_DONE)
		return NAR_END;
	if (r->state == S_BAD) {
		err_set(e, NAR_BAD, "bad archive: input behind an error");
		return -1;
	}
	while (event == NAR_MORE && (len > 0 || needs_no_input(r)) && r->state != S_DONE)
		event = step(r, &in, &len, ret, e);
	*ret_used = (size_t)(in - input);
	if (event < 0)
		r->state = S_BAD;
	if (event == NAR_MORE && r->state == S_DONE)
		return NAR_END;
	return event;
}
