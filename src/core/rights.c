/* See rights.h. Linked by airplantd. */
#include "core/rights.h"

#include <errno.h>
#include <string.h>

#include "conf/table.h"
#include "core/trust.h"

static const struct {
	const char *name;
	enum session_right right;
} right_names[] = {
	/* everybody's, as long as nobody takes them away */
	{ "add", RIGHT_ADD },
	{ "build", RIGHT_BUILD },
	{ "gc", RIGHT_GC },
	{ "optimise", RIGHT_OPTIMISE },
	/* parts of trust */
	{ "import-unsigned", RIGHT_IMPORT_UNSIGNED },
	{ "build-any", RIGHT_BUILD_ANY },
	{ "register-realisations", RIGHT_REALISE },
	{ "ignore-liveness", RIGHT_IGNORE_LIVENESS },
	{ "see-roots", RIGHT_SEE_ROOTS },
	{ "add-roots", RIGHT_ADD_ROOTS },
	{ "add-logs", RIGHT_ADD_LOGS },
};

enum { WORDS_MAX = 3 };

void rights_done(struct rights *r)
{
	strv_done(&r->set);
	strv_done(&r->substituters);
	*r = (struct rights){};
}

/* Splits at blanks, in place. The number of words, WORDS_MAX + 1 when there are more. */
static size_t split(char *text, char *ret[WORDS_MAX])
{
	size_t n = 0;
	char *save = NULL;

	for (char *w = strtok_r(text, " \t\n", &save); w; w = strtok_r(NULL, " \t\n", &save)) {
		if (n == WORDS_MAX)
			return n + 1;
		ret[n++] = w;
	}
	return n;
}

static bool is_client_setting(const char *name)
{
	bool append;
	const struct conf_row *row = conf_find_extra(name, &append);

	return row && row->group != GROUP_OTHER;
}

static int apply_named(const char *name, bool take, struct rights *ret, struct err *e)
{
	for (size_t i = 0; i < ELEMENTS(right_names); i++) {
		if (strcmp(right_names[i].name, name))
			continue;
		ret->mask = take ? ret->mask & ~(uint64_t)right_names[i].right
				 : ret->mask | right_names[i].right;
		return 0;
	}
	return err_set(e, -EINVAL, "setting 'may' names the right '%s', which does not exist",
		       name);
}

static int apply_right(char *words[], size_t n, struct rights *ret, struct err *e)
{
	if (n == 1)
		return apply_named(words[0], false, ret, e);
	if (n == 2 && !strcmp(words[0], "not"))
		return apply_named(words[1], true, ret, e);
	if (n == 2 && !strcmp(words[0], "add-substituter"))
		return strv_add(&ret->substituters, words[1]);
	if (n == 2 && !strcmp(words[0], "set")) {
		if (is_client_setting(words[1]))
			return strv_add(&ret->set, words[1]);
		return err_set(e, -EINVAL,
			       "setting 'may' names the setting '%s', which no client can change",
			       words[1]);
	}
	return err_set(e, -EINVAL, "setting 'may' has a right without sense, near '%s'",
		       n ? words[0] : ",");
}

static bool is_named(const char *who, const struct peer *p, const struct names *names)
{
	char *one[] = { (char *)who };

	return !p || peer_matches(p, names, &(struct strv){ one, 1 });
}

/* "WHO right, right". `p` NULL: reads it as if it were about this client. */
static int apply_entry(char *entry, const struct peer *p, const struct names *names,
		       struct rights *ret, struct err *e)
{
	char *who = entry + strspn(entry, " \t\n"), *words[WORDS_MAX], *right;
	size_t len = strcspn(who, " \t\n");
	char *rest = who[len] ? who + len + 1 : who + len;
	int r = 0;

	who[len] = 0;
	if (!*who)
		return 0; /* nothing between two marks, or behind the last one */
	if (!is_named(who, p, names))
		return 0;
	while (r == 0 && (right = strsep(&rest, ","))) {
		size_t n = split(right, words);

		r = apply_right(words, n, ret, e);
	}
	return r;
}

static int apply(const char *may, const struct peer *p, const struct names *names,
		 struct rights *ret, struct err *e)
{
	_cleanup_free_ char *copy = strdup(may ? may : "");
	char *rest = copy, *entry;
	int r = copy ? 0 : -ENOMEM;

	while (r == 0 && (entry = strsep(&rest, ";")))
		r = apply_entry(entry, p, names, ret, e);
	return r;
}

int rights_who(const char *may, struct strv *ret)
{
	_cleanup_free_ char *copy = strdup(may ? may : "");
	_cleanup_strv_ struct strv all = {};
	char *rest = copy, *entry;
	int r = copy ? 0 : -ENOMEM;

	while (r == 0 && (entry = strsep(&rest, ";"))) {
		entry += strspn(entry, " \t\n");
		entry[strcspn(entry, " \t\n")] = 0;
		r = *entry ? strv_add(&all, entry) : 0;
	}
	if (r < 0)
		return r;
	*ret = all;
	all = (struct strv){};
	return 0;
}

int rights_check(const char *may, struct err *e)
{
	struct rights unused = {};
	int r = apply(may, NULL, NULL, &unused, e);

	rights_done(&unused);
	return r;
}

int rights_of(const char *may, const struct peer *p, const struct names *names, struct rights *ret)
{
	struct rights rights = { .mask = p->trusted ? RIGHTS_TRUSTED : RIGHTS_ALLOWED };
	int r = p->trusted ? 0 : apply(may, p, names, &rights, NULL);

	/* It was checked when it was read: what can fail is memory. Fail closed all the same. */
	if (r < 0) {
		rights_done(&rights);
		return -ENOMEM;
	}
	*ret = rights;
	return 0;
}
