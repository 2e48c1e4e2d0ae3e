/* A session whose client is a build (the feature recursive-nix): it sees the paths that the build
 * may use, and no other; what it may not ask is answered as upstream's restricted store does, with
 * nothing or with a refusal.
 *
 * The core decides what comes in and what is built (core/session_nest.c); which of the store's
 * paths are there for this client, it is asked and believed. Linked by airplant-session. */
#include <errno.h>

#include "session/nest.h"
#include "session/ops.h"

/* What a request consists of: 's' a string, 'S' a list of strings, 'n' a number. */
struct quiet {
	enum wire_op number;
	const char *payload;
	const char *refusal; /* or NULL: the answer is */
	uint64_t answer;     /* this number, which also is the length of an empty list */
};

static const struct quiet quiet[] = {
	{ OP_QUERY_REFERRERS, "s", NULL, 0 },
	{ OP_QUERY_VALID_DERIVERS, "s", NULL, 0 },
	{ OP_QUERY_PATH_FROM_HASH_PART, "s", "queryPathFromHashPart", 0 },
	{ OP_ADD_INDIRECT_ROOT, "s", NULL, 1 },
	{ OP_FIND_ROOTS, "", NULL, 0 },
	{ OP_OPTIMISE_STORE, "", NULL, 1 },
	{ OP_VERIFY_STORE, "nn", NULL, 0 },
	{ OP_ADD_SIGNATURES, "sS", "operation 'addSignatures' is not supported in recursive Nix",
	  0 },
};

/* Those that do what they do for everybody, with what this client may see. */
static const enum wire_op usual[] = {
	OP_IS_VALID_PATH,
	OP_HAS_SUBSTITUTES,
	OP_QUERY_PATH_HASH,
	OP_QUERY_REFERENCES,
	OP_ADD_TO_STORE,
	OP_ADD_TEXT_TO_STORE,
	OP_BUILD_PATHS,
	OP_ENSURE_PATH,
	OP_ADD_TEMP_ROOT,
	OP_SYNC_WITH_GC,
	OP_QUERY_DERIVER,
	OP_SET_OPTIONS,
	OP_COLLECT_GARBAGE,
	OP_QUERY_SUBSTITUTABLE_PATH_INFO,
	OP_QUERY_DERIVATION_OUTPUTS,
	OP_QUERY_ALL_VALID_PATHS,
	OP_QUERY_PATH_INFO,
	OP_QUERY_DERIVATION_OUTPUT_NAMES,
	OP_QUERY_SUBSTITUTABLE_PATH_INFOS,
	OP_QUERY_VALID_PATHS,
	OP_QUERY_SUBSTITUTABLE_PATHS,
	OP_BUILD_DERIVATION,
	OP_NAR_FROM_PATH,
	OP_ADD_TO_STORE_NAR,
	OP_QUERY_MISSING,
	OP_QUERY_DERIVATION_OUTPUT_MAP,
	OP_REGISTER_DRV_OUTPUT,
	OP_QUERY_REALISATION,
	OP_ADD_MULTIPLE_TO_STORE,
	OP_ADD_BUILD_LOG,
	OP_BUILD_PATHS_WITH_RESULTS,
	OP_ADD_PERM_ROOT,
	OP_ADD_TEMP_ROOTS,
};

static int read_payload(struct session *s, const char *payload)
{
	struct strv list = {};
	uint64_t number;
	char *text;
	int r = 0;

	for (; !r && *payload; payload++) {
		if (*payload == 's')
			r = wire_str(&s->in, &s->arena, WIRE_STR_MAX, &text);
		else if (*payload == 'S')
			r = wire_strv(&s->in, &s->arena, WIRE_LIST_MAX, WIRE_STR_MAX, &list);
		else
			r = wire_u64(&s->in, &number);
	}
	if (!r)
		request_read(s);
	return r;
}

static int run_quiet(struct session *s, const struct quiet *q, struct err *e)
{
	int r = read_payload(s, q->payload);

	if (r)
		return r;
	if (q->refusal)
		return err_set(e, OP_FAILED, "%s", q->refusal);
	answer_begin(s);
	wire_put_u64(&s->out, q->answer);
	return 0;
}

int nest_run(struct session *s, const struct op *op, struct err *e)
{
	for (size_t i = 0; i < ELEMENTS(quiet); i++)
		if (quiet[i].number == op->number)
			return run_quiet(s, &quiet[i], e);
	for (size_t i = 0; i < ELEMENTS(usual); i++)
		if (usual[i] == op->number)
			return op->run(s, e);
	return err_set(e, WIRE_BAD, "operation %s is not supported in recursive Nix", op->name);
}

static int ask(struct session *s, const struct session_texts *question, struct arena *a,
	       struct session_texts *ret)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	uint32_t id;
	int r = core_send(s, SESSION_ALLOWED, &session_texts_layout, question, &id);

	if (!r)
		r = core_wait(s, id, SESSION_ALLOWED_ARE, &m);
	if (!r && msg_decode(&m, &session_texts_layout, a, ret))
		r = -EBADMSG;
	/* The answer may be younger than the snapshot. */
	store_release(s);
	return r;
}

int nest_allows(struct session *s, const struct store_path *p)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	char *base = (char *)p->base;
	struct session_texts question = { { &base, 1 } }, answer;
	int r;

	if (!s->client.restricted || smap_has(&s->allowed, p->base))
		return 0;
	r = ask(s, &question, &a, &answer);
	if (r)
		return r;
	if (!answer.texts.n)
		return DB_ABSENT;
	return smap_put(&s->allowed, p->base, s); /* the set never shrinks */
}

int nest_all_paths(struct session *s, struct strv *ret)
{
	struct session_texts question = {}, answer;
	int r = ask(s, &question, &s->arena, &answer);

	if (!r)
		*ret = answer.texts;
	return r;
}

void nest_censor(struct wire_info *info)
{
	info->deriver = (char *)"";
	info->registration_time = 0;
	info->ultimate = false;
	info->sigs = (struct strv){};
}
