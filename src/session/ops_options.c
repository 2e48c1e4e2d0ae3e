/* SetOptions: the client's settings go to the core, which applies what the client's trust allows.
 * Here they are read and warned about. */
#include <stdlib.h>
#include <string.h>

#include "conf/table.h"
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

/* Upstream reads them into a map: in the order of their names, and of two the first counts. */
static int by_name(const void *a, const void *b)
{
	const struct session_setting *x = a, *y = b;
	int r = strcmp(x->name, y->name);

	return r ? r : (x > y) - (x < y);
}

static void sort_overrides(struct session_options *o)
{
	size_t n = 0;

	if (o->overrides.n)
		qsort(o->overrides.v, o->overrides.n, sizeof(*o->overrides.v), by_name);
	for (size_t i = 0; i < o->overrides.n; i++)
		if (n == 0 || strcmp(o->overrides.v[n - 1].name, o->overrides.v[i].name) != 0)
			o->overrides.v[n++] = o->overrides.v[i];
	o->overrides.n = n;
}

static bool is_substituters(const char *name)
{
	return !strcmp(name, "substituters") || !strcmp(name, "binary-caches");
}

static void on_notice(void *ctx, const char *text)
{
	tell_warning(ctx, "%s", text);
}

/* The value as the core will read it, for nothing but the warning. */
static bool is_readable(struct session *s, const struct session_setting *v)
{
	/* Settings of features that are off are skipped, whatever they say. */
	struct settings scratch = { .experimental_features = s->client.experimental_features };
	const struct conf_notice notice = { .warn = on_notice, .ctx = s };
	_cleanup_err_ struct err e = {};
	bool append;
	const struct conf_row *row = conf_find_extra(v->name, &append);
	int r;

	if (!row)
		return true;
	r = conf_assign(&scratch, row, v->value, append, &notice, &e);
	scratch.experimental_features = (struct strv){};
	settings_done(&scratch);
	if (r)
		tell_warning(s, "%s", err_msg(&e));
	return r == 0;
}

static void warn_about_stores(struct session *s, const struct session_setting *v)
{
	_cleanup_strv_ struct strv kept = {}, refused = {};

	if (!is_readable(s, v) ||
	    settings_client_substituters(v->value, &s->client.substituters, &kept, &refused) < 0)
		return;
	for (size_t i = 0; i < refused.n; i++)
		tell_warning(s,
			     "ignoring untrusted substituter '%s', you are not a trusted user.\n"
			     "Run `man nix.conf` for more information on the `substituters` "
			     "configuration option.",
			     refused.v[i]);
}

/* Says which override will have no effect, or another one than was meant. */
static void warn_about(struct session *s, const struct session_setting *v)
{
	bool trusted = s->client.trusted || strv_has(&s->client.may_set, v->name);
	enum client_rule rule =
		settings_client_rule(v->name, v->value, trusted, &s->client.substituters);

	if (!strcmp(v->name, "plugin-files"))
		tell_warning(s, "Ignoring the client-specified plugin-files.\n"
				"The client specifying plugins to the daemon never made sense, and "
				"was removed in Nix >=2.14.");
	else if (rule == CLIENT_APPLY)
		(void)is_readable(s, v);
	else if (rule == CLIENT_REFUSE && is_substituters(v->name))
		warn_about_stores(s, v);
	else if (rule == CLIENT_REFUSE)
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
	if (s->client.restricted) { /* as upstream: whoever waits for the build has set what counts */
		answer_begin(s);
		return 0;
	}
	sort_overrides(&o);
	s->verbosity = verbosity < LVL_VOMIT ? verbosity : LVL_VOMIT;
	r = core_send(s, SESSION_OPTIONS, &session_options_layout, &o, NULL);
	if (r)
		return r;
	for (size_t i = 0; i < o.overrides.n; i++)
		warn_about(s, &o.overrides.v[i]);
	answer_begin(s);
	return 0;
}
