/* What a client's setting override may do: Nix 2.34's ClientSettings::apply as a table (feature
 * rows I3, I4). Needs the table and libbase alone, for sessions link it too. */
#include <errno.h>
#include <string.h>

#include "conf/table.h"

enum value_rule { ANY_VALUE, ONLY_EMPTY, ONLY_KNOWN };

struct client_row {
	const char *name; /* exact: "extra-" forms and most aliases are restricted */
	enum value_rule rule;
};

/* What a client that is not trusted may override. */
static const struct client_row open_to_all[] = {
	{ "timeout", ANY_VALUE },
	{ "max-silent-time", ANY_VALUE },
	{ "build-poll-interval", ANY_VALUE },
	{ "connect-timeout", ANY_VALUE },
	{ "builders", ONLY_EMPTY },
	{ "substituters", ONLY_KNOWN },
	{ "binary-caches", ONLY_KNOWN },
};

/* What no client may override, trusted or not, and what is not worth a warning. */
static const char *const dropped[] = { "ssh-auth-sock", "experimental-features", "plugin-files" };

/* Equal, or equal once a slash is put behind `word`'s address. */
static bool is_same_store(const char *word, size_t len, const char *known)
{
	const char *query = memchr(word, '?', len);
	size_t base = query ? (size_t)(query - word) : len;
	size_t known_len = strlen(known);

	if (known_len == len && !memcmp(word, known, len))
		return true;
	if (!base || word[base - 1] == '/' || !memmem(word, base, "://", 3))
		return false;
	return known_len == len + 1 && !memcmp(word, known, base) && known[base] == '/' &&
	       !memcmp(word + base, known + base + 1, len - base);
}

static bool is_known_store(const char *word, size_t len, const struct strv *known)
{
	for (size_t i = 0; known && i < known->n; i++)
		if (is_same_store(word, len, known->v[i]))
			return true;
	return false;
}

/* Calls for each word: upstream's separators. */
static const char *next_word(const char **at, size_t *ret_len)
{
	const char *word = *at + strspn(*at, " \t\n\r");

	*ret_len = strcspn(word, " \t\n\r");
	*at = word + *ret_len;
	return *ret_len ? word : NULL;
}

static bool are_known_stores(const char *value, const struct strv *known)
{
	const char *word;
	size_t len;

	while ((word = next_word(&value, &len)))
		if (!is_known_store(word, len, known))
			return false;
	return true;
}

int settings_client_substituters(const char *value, const struct strv *known_substituters,
				 struct strv *ret_kept, struct strv *ret_refused)
{
	const char *word;
	size_t len;

	while ((word = next_word(&value, &len))) {
		bool ok = is_known_store(word, len, known_substituters);
		_cleanup_free_ char *copy = strndup(word, len);

		if (!copy || strv_add(ok ? ret_kept : ret_refused, copy) < 0)
			return -ENOMEM;
	}
	return 0;
}

static enum client_rule rule_untrusted(const char *name, const char *value,
				       const struct strv *known)
{
	for (size_t i = 0; i < ELEMENTS(open_to_all); i++) {
		if (strcmp(open_to_all[i].name, name))
			continue;
		if (open_to_all[i].rule == ONLY_EMPTY && *value)
			return CLIENT_REFUSE;
		if (open_to_all[i].rule == ONLY_KNOWN && !are_known_stores(value, known))
			return CLIENT_REFUSE;
		return CLIENT_APPLY;
	}
	return CLIENT_REFUSE;
}

enum client_rule settings_client_rule(const char *name, const char *value, bool trusted,
				      const struct strv *known_substituters)
{
	const struct conf_row *row;
	bool append;

	for (size_t i = 0; i < ELEMENTS(dropped); i++)
		if (!strcmp(dropped[i], name))
			return CLIENT_IGNORE;
	if (!trusted)
		return rule_untrusted(name, value, known_substituters);
	/* Upstream sets a trusted client's override in two groups and forgets the rest: names of
	 * the evaluator, of the daemon's user lists, and ones nobody knows. */
	row = conf_find_extra(name, &append);
	return row && row->group != GROUP_OTHER ? CLIENT_APPLY : CLIENT_IGNORE;
}
