/* Optimising the store for a client (SESSION_OPTIMISE). Linked by airplantd. */
#include <errno.h>
#include <stdio.h>

#include "base/size.h"
#include "core/optimise.h"
#include "core/session_state.h"

static void on_note(void *ctx, uint64_t level, const char *text)
{
	struct session *s = ctx;
	const struct session_note n = { .level = level, .text = (char *)text };

	session_send(s, SESSION_EV_TEXT, s->optimise_id, &session_note_layout, &n, -1, 0);
}

static void on_progress(void *ctx, uint64_t done, uint64_t expected)
{
	struct session *s = ctx;
	const struct session_progress p = { .done = done, .expected = expected };

	session_send(s, SESSION_EV_PROGRESS, s->optimise_id, &session_progress_layout, &p, -1, 1);
}

static void answer(struct session *s, const struct err *e)
{
	const struct session_done d = { .ok = !e, .error = e ? (char *)err_msg(e) : NULL };

	session_send(s, SESSION_DONE, s->optimise_id, &session_done_layout, &d, -1, 0);
}

static void on_done(void *ctx, uint64_t files, uint64_t bytes, const struct err *e)
{
	struct session *s = ctx;
	char size[32], text[128];

	s->optimising = NULL;
	size_print((int64_t)bytes, size);
	snprintf(text, sizeof(text), "%s freed by hard-linking %llu files", size,
		 (unsigned long long)files);
	if (!e)
		on_note(s, 3, text);
	answer(s, e);
}

static const struct optimise_events events = {
	.note = on_note,
	.progress = on_progress,
	.done = on_done,
};

void session_optimise(struct session *s, uint32_t id)
{
	_cleanup_err_ struct err e = {};

	if (s->optimising) {
		session_misbehaves(s, "a second wish to optimise the store");
		return;
	}
	s->optimise_id = id;
	if (!session_may(s, RIGHT_OPTIMISE)) {
		(void)err_set(&e, -EPERM, "you are not allowed to optimise the store");
		answer(s, &e);
		return;
	}
	if (optimise_store(s->all->core, &events, s, &s->optimising, &e) != 0)
		answer(s, &e);
}

void session_optimise_cancel(struct session *s)
{
	optimise_forget(s->optimising);
	s->optimising = NULL;
}
