/* SetOptions: the client's settings go to the core, which applies what the client's trust allows.
 * Here they are read and warned about. */
#include <string.h>

#include "conf/conf.h"
#include "session/ops.h"

static int get_overrides(struct session *s, struct session_options *o, struct err *e)
{
	uint64_t n;

	int r = wire_number(&s->in, WIRE_OVERRIDES_MAX, &n);
	if (r)
		return r;
	o->overrides.v = arena_array(&s->arena, n ? n : 1, sizeof(*o->overrides.v));
	if (!o->overrides.v)
		return too_large(e);
	for (o->overrides.n = 0; o->overrides.n < n; o->overrides.n++) {
		struct session_setting *v = &o->overrides.v[o->overrides.n];
		r = wire_str(&s->in, &s->arena, WIRE_NAME_MAX, &v->name);
		if (!r)
			r = wire_str(&s->in, &s->arena, WIRE_STR_MAX, &v->value);
		if (r)
			return r;
	}
	return 0;
}

static int get_options(struct session *s, struct session_options *o, uint64_t *ret_verbosity,
		       struct err *e)
{
	uint64_t unused;
	struct {
		uint64_t *to, max;
	} fields[] = {
		{ &o->keep_failed, 1 },	      { &o->keep_going, 1 },
		{ &o->try_fallback, 1 },      { ret_verbosity, UINT32_MAX },
		{ &o->max_jobs, UINT32_MAX }, { &o->max_silent_time, UINT32_MAX },
		{ &unused, UINT32_MAX }, /* obsolete: use the build hook */
		{ &unused, UINT32_MAX }, /* the level of builds' output: clients decide themselves
					  */
		{ &unused, UINT32_MAX }, /* obsolete: log type */
		{ &unused, UINT32_MAX }, /* obsolete: print a trace */
		{ &o->cores, UINT32_MAX },    { &o->use_substitutes, 1 },
	};

	for (size_t i = 0; i < ELEMENTS(fields); i++) {
		int r = wire_number(&s->in, UINT32_MAX, fields[i].to);
		if (r)
			return r;
		if (fields[i].max == 1)
			*fields[i].to = *fields[i].to != 0;
	}
	return get_overrides(s, o, e);
}

static bool is_substituters(const char *name)
{
	static const char *const names[] = { "substituters", "binary-caches", "extra-substituters",
					     "extra-binary-caches" };

	for (size_t i = 0; i < ELEMENTS(names); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* Says which override will have no effect. */
static void warn_about(struct session *s, const struct session_setting *v)
{
	if (strcmp(v->name, "plugin-files") == 0) {
		tell_warning(s, "Ignoring the client-specified plugin-files.\n"
				"The client specifying plugins to the daemon never made sense, and "
				"was removed in Nix >=2.14.");
		return;
	}
	bool trusted = s->client.trusted || strv_has(&s->client.may_set, v->name);

	if (settings_client_rule(v->name, v->value, trusted, &s->client.substituters) !=
	    CLIENT_REFUSE)
		return;
	if (is_substituters(v->name))
		tell_warning(s,
			     "ignoring untrusted substituter '%s', you are not a trusted user.\n"
			     "Run `man nix.conf` for more information on the `substituters` "
			     "configuration option.",
			     v->value);
	else
		tell_warning(s,
			     "ignoring the client-specified setting '%s', because it is a "
			     "restricted setting and you are not a trusted user",
			     v->name);
}

int op_set_options(struct session *s, struct err *e)
{
	struct session_options o = {};
	uint64_t verbosity;

	int r = get_options(s, &o, &verbosity, e);
	if (r)
		return r;
	request_read(s);
	s->verbosity = verbosity < LVL_VOMIT ? verbosity : LVL_VOMIT;
	r = core_send(s, SESSION_OPTIONS, &session_options_layout, &o, NULL);
	if (r)
		return r;
	for (size_t i = 0; i < o.overrides.n; i++)
		warn_about(s, &o.overrides.v[i]);
	answer_begin(s);
	return 0;
}
