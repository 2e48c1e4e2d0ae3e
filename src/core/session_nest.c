/* What a session of a build may ask for (nest.h), where that differs from a user's. Linked by
 * airplantd.
 *
 * Here as everywhere the session may have been taken over: whatever comes into the store or is
 * built is judged against the build's set by the core. Which of the store's paths it looks at, that
 * process decides itself (session/nest.c). */
#include <errno.h>
#include <string.h>

#include "core/nest.h"
#include "core/session_state.h"

enum { ANSWER_MEMORY = 256 << 20 };

bool session_nest_may(uint32_t type)
{
	switch (type) {
	case SESSION_OPTIONS: /* kept, and without effect */
	case SESSION_ADD:
	case SESSION_TEMP_ROOT:
	case SESSION_TEMP_ROOTS:
	case SESSION_ENSURE:
	case SESSION_BUILD:
	case SESSION_ALLOWED:
		return true;
	default:
		return false;
	}
}

static bool allows(const struct session *s, const char *base)
{
	return s->peer.nest && nest_allows(s->peer.nest, base);
}

void session_nest_allowed(struct session *s, uint32_t id, const struct session_texts *t)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(ANSWER_MEMORY);
	struct session_texts answer = {};
	int r = 0;

	if (!t->texts.n && s->peer.nest)
		r = nest_names(s->peer.nest, &a, &answer.texts);
	for (size_t i = 0; r == 0 && i < t->texts.n; i++)
		if (allows(s, t->texts.v[i]))
			r = strv_add_arena(&answer.texts, &a, t->texts.v[i]);
	if (r < 0)
		session_misbehaves(s, "a question for whose answer there is no memory");
	else
		session_send(s, SESSION_ALLOWED_ARE, id, &session_texts_layout, &answer, -1, 0);
}

static void answer(struct session *s, uint32_t id, const struct err *e)
{
	const struct session_done d = { .ok = !e, .error = e ? (char *)err_msg(e) : NULL };

	session_send(s, SESSION_DONE, id, &session_done_layout, &d, -1, 0);
}

void session_nest_ensure(struct session *s, uint32_t id, const struct store_path *path)
{
	_cleanup_err_ struct err e = {};

	if (!allows(s, path->base))
		(void)err_set(&e, EPERM, "cannot substitute unknown path '%s/%s' in recursive Nix",
			      s->all->core->store_dir, path->base);
	answer(s, id, e.code ? &e : NULL);
}

static bool is_among(const struct session_add *add, const char *base)
{
	for (size_t i = 0; i < add->objects.n; i++)
		if (!strcmp(add->objects.v[i].path, base))
			return true;
	return false;
}

/* Upstream takes references to whatever is valid, and then does not allow it. */
int session_nest_knows(struct session *s, const struct session_add *add, struct err *e)
{
	for (size_t i = 0; i < add->objects.n; i++) {
		const struct strv *refs = &add->objects.v[i].refs;

		for (size_t k = 0; k < refs->n; k++)
			if (!allows(s, refs->v[k]) && !is_among(add, refs->v[k]))
				return err_set(
					e, EPERM,
					"cannot add path '%s/%s' because the path '%s/%s' is "
					"unknown in recursive Nix",
					s->all->core->store_dir, add->objects.v[i].path,
					s->all->core->store_dir, refs->v[k]);
	}
	return 0;
}

struct waiting {
	struct session *s;
	uint32_t id;
	struct buf built; /* of a build: its encoded result */
};

static struct waiting *waiting_new(struct session *s, uint32_t id)
{
	struct waiting *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	*w = (struct waiting){ .s = s, .id = id, .built = BUF_INIT(SESSION_MSG_MAX) };
	session_ref(s);
	return w;
}

static void waiting_free(struct waiting *w)
{
	session_unref(w->s);
	buf_done(&w->built);
	free(w);
}

static void on_added(void *ctx, const struct err *e)
{
	struct waiting *w = ctx;

	answer(w->s, w->id, e);
	waiting_free(w);
}

void session_nest_added(struct session *s, uint32_t id, const struct strv *paths)
{
	static const struct err over = { .code = -ESHUTDOWN, .msg = (char *)"the build is over" };
	static const struct err memory = { .code = -ENOMEM, .msg = (char *)"out of memory" };
	struct waiting *w = s->peer.nest ? waiting_new(s, id) : NULL;

	if (w)
		nest_take(s->peer.nest, paths, on_added, w);
	else
		answer(s, id, s->peer.nest ? &memory : &over);
}

/* "<base>!out" is "/nix/store/<base>!out". */
int session_nest_may_build(struct session *s, const struct session_build *b, struct err *e)
{
	if (b->mode != BUILD_NORMAL)
		return err_set(e, EPERM, "unsupported build mode");
	if (b->drv && *b->drv)
		return err_set(e, EPERM, "operation 'buildDerivation' is not supported");
	for (size_t i = 0; i < b->targets.n; i++) {
		const char *t = b->targets.v[i];
		_cleanup_free_ char *base = strndup(t, strcspn(t, "!"));

		if (!base)
			return err_set(e, -ENOMEM, "out of memory");
		if (!allows(s, base))
			return err_set(e, EPERM,
				       "cannot build '%s/%s' in recursive Nix because path is "
				       "unknown",
				       s->all->core->store_dir, t);
	}
	return 0;
}

static void send_failure(struct session *s, uint32_t id, const char *why)
{
	const struct session_built b = { .ok = 0, .error = (char *)why };

	session_send(s, SESSION_BUILT, id, &session_built_layout, &b, -1, 0);
}

static void on_built(void *ctx, const struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(4 * (size_t)SESSION_MSG_MAX);
	struct waiting *w = ctx;
	struct session_built b;

	if (e)
		send_failure(w->s, w->id, err_msg(e));
	else if (record_decode(&session_built_layout, w->built.data, w->built.len, &a, &b))
		send_failure(w->s, w->id, "out of memory");
	else
		session_send(w->s, SESSION_BUILT, w->id, &session_built_layout, &b, -1, 0);
	waiting_free(w);
}

static int outputs_of(const struct session_built *b, struct arena *a, struct strv *ret)
{
	int r = 0;

	for (size_t i = 0; i < b->results.n; i++)
		for (size_t k = 0; r == 0 && k < b->results.v[i].outputs.n; k++)
			r = strv_add_arena(ret, a, b->results.v[i].outputs.v[k].path);
	return r;
}

void session_nest_built(struct session *s, const struct session_built *b)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(ANSWER_MEMORY);
	struct waiting *w = waiting_new(s, s->build_id);
	struct strv paths = {};

	if (!w || outputs_of(b, &a, &paths) < 0 ||
	    record_encode(&session_built_layout, b, &w->built) < 0 || !s->peer.nest) {
		send_failure(s, s->build_id, s->peer.nest ? "out of memory" : "the build is over");
		if (w)
			waiting_free(w);
		return;
	}
	nest_take(s->peer.nest, &paths, on_built, w);
}
