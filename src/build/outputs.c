/* What the builder left behind: checked, made canonical, hashed, scanned, and put into
 * <scratch>/out/ for the core to move.
 *
 * The last process of the build is dead before anything here runs. All work goes through directory
 * fds of the scratch; a tree of the builder's is never reached by a path of more than one
 * component. Linked by airplant-build alone. Source: feature rows E1 to E5. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "build/outputs.h"
#include "nar/refscan.h"
#include "nar/tree.h"

static bool is_flat(const struct build_output *o)
{
	enum ca_method method;
	enum hash_algo algo;

	return *o->ca && ca_method_parse(o->ca, &method, &algo, NULL) == 0 &&
	       (method == CA_FLAT || method == CA_TEXT);
}

static int check_present(struct work *w, const struct build_output *o, struct stat *st,
			 struct err *e)
{
	const struct build_start *s = &w->b->s;

	int r = fstatat(w->store, o->path, st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;

	/* A device 0:0 is an overlay's mark for something that is not there (host.c). */
	if (r == 0 && S_ISCHR(st->st_mode) && st->st_rdev == 0)
		r = -ENOENT;
	if (r < 0) {
		if (r != -ENOENT)
			return err_errno(e, r, "getting status of '%s/%s'", s->store_dir, o->path);
		return err_set(e, REJECTED,
			       "builder for '" C_MAGENTA "%s/%s" C_NORMAL
			       "' failed to produce output path for output " Q_ARG " at " C_MAGENTA
			       "\"%s/%s\"" C_NORMAL,
			       s->store_dir, s->drv, o->name, s->store_dir, o->path);
	}
	if ((!S_ISLNK(st->st_mode) && (st->st_mode & (S_IWGRP | S_IWOTH))) ||
	    st->st_uid >= w->b->s.n_ids)
		return err_set(e, REJECTED,
			       "suspicious ownership or permission on " C_MAGENTA
			       "\"%s/%s\"" C_NORMAL " for output " Q_ARG
			       "; rejecting this build output",
			       s->store_dir, o->path, o->name);
	if (is_flat(o) && (!S_ISREG(st->st_mode) || (st->st_mode & S_IXUSR)))
		return err_set(
			e, REJECTED,
			"output path " C_MAGENTA "\"%s/%s\"" C_NORMAL
			" should be a non-executable regular file since recursive hashing is not "
			"enabled (one of outputHashMode={flat,text} is true)",
			s->store_dir, o->path);
	return 0;
}

/* TREE_BAD and its like are what the builder did; negative values are ours. */
int tree_result(int r, const struct work *w, const struct build_output *o, struct err *e)
{
	if (r == 0)
		return 0;
	/* Upstream lets them pass; here each output is moved and measured alone. */
	if (r > 0 && w->b->s.outputs.n > 1 && strstr(err_msg(e), "has hard links outside")) {
		_cleanup_free_ char *text = strdup(err_msg(e));

		if (text)
			(void)err_set(e, r,
				      "%s (hard links between two outputs of one derivation "
				      "are refused as well)",
				      text);
	}
	err_prefix(e, "output '%s' of '%s/%s': ", o->name, w->b->s.store_dir, w->b->s.drv);
	return r > 0 ? REJECTED : r;
}

/* Whoever still holds a file of the builder's open must not hold what is registered. A builder that
 * saw a network or the host may have handed it to anybody; where all builds have one id, its
 * receiver could do even without having it open for writing, since it owns the file. What else a
 * builder can reach by way of the sandbox's paths, shows in the file. */
static bool sees_others(const struct build *b)
{
	return b->s.fixed || b->s.sandbox != SANDBOX_ON || (b->ids.mode == IDS_SINGLE && b->shares);
}

static bool asked_to_stop(void *b)
{
	return watch_cancelled(b);
}

static int take_output(struct work *w, const struct build_output *o, struct err *e)
{
	const struct build *b = w->b;
	bool chown = b->owner_uid != 0;
	struct tree_owner owner = {
		.uid = 0,
		.new_uid = chown ? b->owner_uid : (uid_t)-1,
		.new_gid = chown ? b->owner_gid : (gid_t)-1,
		.n_uids = (uid_t)b->s.n_ids,
	};
	bool held = sees_others(b);
	struct tree_stop stop = { asked_to_stop, w->b };
	struct stat st;
	int r = check_present(w, o, &st, e);

	if (r != 0)
		return r;
	if (!held)
		owner.ret_held = &held;
	r = tree_result(tree_canonicalise(w->store, o->path, &owner, e), w, o, e);
	if (r != 0)
		return r;
	if (held) {
		owner.ret_held = NULL;
		r = tree_result(tree_copy(w->store, o->path, w->out, o->path, &stop, e), w, o, e);
		if (r == 0) {
			owner.uid = b->owner_uid;
			owner.n_uids = 1;
			owner.new_uid = (uid_t)-1;
			owner.new_gid = (gid_t)-1;
			r = tree_result(tree_canonicalise(w->out, o->path, &owner, e), w, o, e);
		}
		return r;
	}
	if (renameat(w->store, o->path, w->out, o->path) < 0)
		return err_errno(e, -errno, "moving output '%s' of '%s/%s'", o->name,
				 b->s.store_dir, b->s.drv);
	return 0;
}

static int add_candidates(struct refscan *scan, const struct build_start *s)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < s->inputs.n; i++)
		if (strlen(s->inputs.v[i]) >= STORE_DIGEST_LEN)
			r = refscan_add(scan, s->inputs.v[i]);
	for (size_t i = 0; r == 0 && i < s->outputs.n; i++)
		if (strlen(s->outputs.v[i].path) >= STORE_DIGEST_LEN)
			r = refscan_add(scan, s->outputs.v[i].path);
	return r;
}

static int note_ref(struct work *w, struct refscan *scan, struct strv *refs, char *base)
{
	if (strlen(base) < STORE_DIGEST_LEN || !refscan_found(scan, base))
		return 0;
	return strv_add_arena(refs, &w->b->arena, base);
}

static int measure(struct work *w, size_t i, struct err *e)
{
	const struct build_start *s = &w->b->s;
	const struct build_output *o = &s->outputs.v[i];
	struct build_made *m = &w->made[i];
	struct refscan *scan = refscan_new();
	struct tree_stop stop = { asked_to_stop, w->b };
	struct tree_facts facts;
	int r = scan ? add_candidates(scan, s) : -ENOMEM;

	if (r < 0) {
		refscan_free(scan);
		return out_of_memory(e);
	}
	r = tree_result(tree_measure_until(w->out, o->path, scan, &stop, &facts, e), w, o, e);
	if (r == 0) {
		m->name = o->name;
		m->path = o->path;
		memcpy(m->nar_hash, facts.nar_hash, sizeof(m->nar_hash));
		m->nar_size = facts.nar_size;
		for (size_t k = 0; r == 0 && !o->discard_refs && k < s->inputs.n; k++)
			r = note_ref(w, scan, &m->refs, s->inputs.v[k]);
		for (size_t k = 0; r == 0 && !o->discard_refs && k < s->outputs.n; k++)
			r = note_ref(w, scan, &m->refs, s->outputs.v[k].path);
		if (r < 0)
			r = out_of_memory(e);
		else
			strv_sort_uniq(&m->refs, false);
	}
	refscan_free(scan);
	return r;
}

/* --- cycles between outputs ---------------------------------------------- */

static bool refers_to(const struct work *w, size_t from, size_t to)
{
	return from != to && strv_has_sorted(&w->made[from].refs, w->b->s.outputs.v[to].path);
}

/* Depth first with an explicit stack; `state` is 0 unseen, 1 on the stack, 2 done. What an output
 * refers to comes before it in `order`. */
static int find_cycle(struct work *w, size_t start, uint8_t *state, size_t *stack, size_t *next,
		      struct err *e)
{
	const struct build_start *s = &w->b->s;
	size_t depth = 0;

	if (state[start])
		return 0;
	stack[0] = start;
	next[0] = 0;
	state[start] = 1;
	for (;;) {
		size_t at = stack[depth], to = next[depth]++;

		if (to == s->outputs.n) {
			state[at] = 2;
			w->order[w->n_ordered++] = at;
			if (depth-- == 0)
				return 0;
			continue;
		}
		if (!refers_to(w, at, to) || state[to] == 2)
			continue;
		if (state[to] == 1)
			return err_set(e, REJECTED,
				       "cycle detected in build of '" C_MAGENTA "%s/%s" C_NORMAL
				       "' in the references of output " Q_ARG " from output " Q_ARG,
				       s->store_dir, s->drv, s->outputs.v[to].name,
				       s->outputs.v[at].name);
		state[to] = 1;
		stack[++depth] = to;
		next[depth] = 0;
	}
}

static int check_cycles(struct work *w, struct err *e)
{
	size_t n = w->b->s.outputs.n;
	uint8_t *state = arena_array(&w->b->arena, n, 1);
	size_t *stack = arena_array(&w->b->arena, n, sizeof(*stack));
	size_t *next = arena_array(&w->b->arena, n, sizeof(*next));
	int r = 0;

	w->order = arena_array(&w->b->arena, n, sizeof(*w->order));
	if (!state || !stack || !next || !w->order)
		return out_of_memory(e);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = find_cycle(w, i, state, stack, next, e);
	return r;
}

/* Each step may read many gigabytes; whoever cancels waits for its end, not for all of them. */
static int still_wanted(struct work *w, struct err *e)
{
	return watch_cancelled(w->b) ? err_set(e, -ECANCELED, "the build was cancelled") : 0;
}

static int collect(struct work *w, char **ret_real, struct err *e)
{
	const struct build_start *s = &w->b->s;
	int r;

	if (mkdirat(w->b->top, "out", 0700) < 0)
		return err_errno(e, -errno, "creating '%s/out'", s->scratch);
	w->out = open_beneath(w->b->top, "out", O_RDONLY | O_DIRECTORY, 0);
	w->store = open_beneath(w->b->top, "store", O_RDONLY | O_DIRECTORY, 0);
	if (w->out < 0 || w->store < 0)
		return err_errno(e, w->out < 0 ? w->out : w->store, "opening the build's outputs");
	if (s->fixed_hash.n && s->outputs.n != 1)
		return err_set(e, -EINVAL, "a fixed-output derivation has one output, not %zu",
			       s->outputs.n);
	for (size_t i = 0; i < s->outputs.n; i++) {
		r = still_wanted(w, e);
		if (r == 0)
			r = take_output(w, &s->outputs.v[i], e);
		if (r == 0)
			r = still_wanted(w, e);
		if (r == 0)
			r = measure(w, i, e);
		if (r != 0)
			return r;
	}
	r = still_wanted(w, e);
	if (r == 0)
		r = check_cycles(w, e);
	if (r == 0 && s->fixed_hash.n)
		return outputs_check_fixed(w, ret_real, e);
	for (size_t i = 0; r == 0 && i < w->n_ordered; i++) {
		r = still_wanted(w, e);
		if (r == 0 && *s->outputs.v[w->order[i]].ca)
			r = outputs_address(w, w->order[i], e);
	}
	return r;
}

int outputs_collect(struct build *b, struct build_end *end)
{
	struct work w = { .b = b, .store = -1, .out = -1 };
	_cleanup_err_ struct err e = { 0 };
	char *real = NULL;
	int r;

	w.made = arena_array(&b->arena, b->s.outputs.n, sizeof(*w.made));
	r = w.made || !b->s.outputs.n ? show_added(b, &e) : out_of_memory(&e);
	if (r == 0)
		r = collect(&w, &real, &e);
	close_fdp(&w.store);
	close_fdp(&w.out);
	if (r == 0 || real) {
		end->outputs.v = w.made;
		end->outputs.n = b->s.outputs.n;
		end->real_path = real;
	}
	if (r != 0) {
		end->status = r == REJECTED ? OUTPUT_REJECTED : MISC_FAILURE;
		end->error = arena_strdup(&b->arena, err_msg(&e));
	}
	return r;
}
