/* The table of settings: name, type, where its value lives, who may change it. Pure data, so that
 * the client policy can be linked without the parser. Inside of libconf. */
#pragma once

#include <stddef.h>

#include "base/buf.h"
#include "conf/conf.h"

enum conf_type {
	CONF_BOOL,
	CONF_INT,  /* unsigned, with an optional suffix K, M, G or T; limit in max */
	CONF_JOBS, /* "auto" or an integer */
	CONF_COUNT,  /* as CONF_INT, not zero, or "max" (no limit) */
	CONF_AGE,    /* hours, of a number of days, or with a unit h, d or w: "14d" */
	CONF_MEMORY, /* as CONF_COUNT, or a percentage of the machine's memory: "90%" */
	CONF_STRING,
	CONF_PATH,     /* not empty */
	CONF_ABS_PATH, /* absolute, not empty */
	CONF_OPT_PATH, /* absolute or empty */
	CONF_LIST,     /* words, in order */
	CONF_SET,      /* words, sorted, once each */
	CONF_MAP,      /* words name=value */
	CONF_FEATURES, /* experimental features */
	CONF_SANDBOX,  /* true, false, relaxed */
	CONF_CHROOT,   /* sandbox paths: inside[=outside][?] */
	CONF_STORE,    /* one store reference */
	CONF_STORE_LIST,
	CONF_STORE_SET,
	CONF_ENUM, /* one of the words in .words; the value is its index */
	CONF_JSON, /* kept by nobody here, not checked */
};

/* Which of upstream's setting groups a name is in: a trusted client's override reaches the first
 * two only (2.34: ClientSettings::apply). */
enum conf_group {
	GROUP_STORE,
	GROUP_TRANSFER,
	GROUP_OTHER, /* evaluator, command line, the daemon's own user lists, Airplant's own */
};

struct conf_row {
	const char *name;
	enum conf_type type;
	enum conf_group group;
	const char *const *alias; /* NULL-terminated, or NULL */
	const char *feature;	  /* the experimental feature it needs, or NULL */
	uint64_t max;		  /* CONF_INT */
	const char *const *words; /* CONF_ENUM */
	bool own;		  /* Airplant's: upstream has no such name */
	bool stored;		  /* has a member in struct settings */
	size_t offset;		  /* of that member */
};

extern const struct conf_row conf_table[];
extern const size_t conf_table_len;
extern const char *const conf_features[]; /* known experimental features, NULL at the end */

/* By name or alias; no "extra-". NULL when unknown. */
const struct conf_row *conf_find(const char *name);
/* As conf_find, but knows "extra-" in front of what can be appended to. */
const struct conf_row *conf_find_extra(const char *name, bool *ret_append);
bool conf_is_appendable(enum conf_type type);
bool conf_is_store_reference(const char *word);

/* parse.c: one value into its member. CONF_BAD with upstream's sentence, -ENOMEM, or 0. `notice`
 * (may be NULL) is told what upstream warns about. */
struct conf_notice {
	void (*warn)(void *ctx, const char *text);
	void *ctx;
};
int conf_assign(struct settings *s, const struct conf_row *row, const char *value, bool append,
		const struct conf_notice *notice, struct err *e);

/* print.c: the value as a configuration file has it. 0 or -ENOMEM. The row is stored. */
int conf_print(const struct settings *s, const struct conf_row *row, struct buf *ret);

/* default.c */
int conf_default_system(char **ret);
int conf_default_platforms(struct strv *ret);
int conf_default_features(struct strv *ret);

static inline void *conf_member(const struct settings *s, const struct conf_row *row)
{
	return (char *)s + row->offset;
}

/* What kind of member a row has. */
enum conf_store { STORED_BOOL, STORED_NUMBER, STORED_TEXT, STORED_LIST };
enum conf_store conf_stored_as(enum conf_type type);
