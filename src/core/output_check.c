/* See output_check.h. */
#include "core/output_check.h"

#include <errno.h>
#include <string.h>

#include "base/buf.h"

enum { CHECK_MEMORY = 256 << 20, MESSAGE_MAX = 1 << 20 };

struct check {
	struct db *db;
	const char *store_dir, *drv_base;
	const struct output_made *outputs;
	size_t n;
	struct arena *a;
	struct err *e;
};

static const struct output_made *by_base(const struct check *c, const char *base)
{
	for (size_t i = 0; i < c->n; i++)
		if (!strcmp(c->outputs[i].info.path.base, base))
			return &c->outputs[i];
	return NULL;
}

static const struct output_made *by_name(const struct check *c, const char *name)
{
	for (size_t i = 0; i < c->n; i++)
		if (!strcmp(c->outputs[i].name, name))
			return &c->outputs[i];
	return NULL;
}

static int out_of_memory(const struct check *c)
{
	return err_errno(c->e, -ENOMEM, "checking the outputs of '%s/%s'", c->store_dir,
			 c->drv_base);
}

/* Closure of an output that, like its siblings, is not valid yet. */
static int closure_of(const struct check *c, const struct output_made *top, struct strv *ret,
		      uint64_t *ret_size)
{
	_cleanup_smap_ struct smap seen = {};
	struct strv todo = {}, done = {};
	uint64_t size = 0;

	if (strv_add_arena(&todo, c->a, (char *)top->info.path.base) < 0)
		return out_of_memory(c);
	for (size_t i = 0; i < todo.n; i++) {
		const struct output_made *own = by_base(c, todo.v[i]);
		struct path_info info;

		if (smap_has(&seen, todo.v[i]))
			continue;
		if (smap_put(&seen, todo.v[i], todo.v[i]) < 0 ||
		    strv_add_arena(&done, c->a, todo.v[i]) < 0)
			return out_of_memory(c);
		if (own) {
			info = own->info;
		} else {
			struct store_path p;
			int r = store_path_parse_base(todo.v[i], &p, c->e);

			if (r)
				return r;
			r = db_path_info(c->db, &p, c->a, &info);
			if (r == DB_ABSENT)
				return err_set(c->e, OUTPUT_REJECT, "path '%s/%s' is not valid",
					       c->store_dir, todo.v[i]);
			if (r < 0)
				return err_errno(c->e, r, "reading '%s/%s'", c->store_dir,
						 todo.v[i]);
		}
		size += info.nar_size;
		for (size_t j = 0; j < info.refs.n; j++)
			if (strv_add_arena(&todo, c->a, info.refs.v[j]) < 0)
				return out_of_memory(c);
	}
	strv_sort(&done);
	*ret = done;
	*ret_size = size;
	return 0;
}

/* Store paths and output names of a rule, as sorted base names. */
static int resolve(const struct check *c, const struct output_made *o, const struct strv *refs,
		   struct strv *ret)
{
	for (size_t i = 0; i < refs->n; i++) {
		const struct output_made *other;
		struct store_path p;
		const char *base;

		if (store_path_parse(c->store_dir, refs->v[i], &p, NULL) == 0) {
			base = arena_strdup(c->a, p.base);
		} else if ((other = by_name(c, refs->v[i]))) {
			base = other->info.path.base;
		} else {
			_cleanup_buf_ struct buf names = BUF_INIT(MESSAGE_MAX);

			for (size_t j = 0; j < c->n; j++)
				if (buf_printf(&names, "%s%s", j ? ", " : "", c->outputs[j].name) <
				    0)
					return out_of_memory(c);
			return err_set(
				c->e, OUTPUT_REJECT,
				"derivation '%s/%s' output check for '%s' contains output name "
				"'%s', but this is not a valid output of this derivation. (Valid "
				"outputs are [%.*s].)",
				c->store_dir, c->drv_base, o->name, refs->v[i], (int)names.len,
				(const char *)names.data);
		}
		if (strv_add_arena(ret, c->a, (char *)base) < 0)
			return out_of_memory(c);
	}
	strv_sort_uniq(ret, false);
	return 0;
}

static int check_refs(const struct check *c, const struct output_checks *rules,
		      const struct output_made *o, const struct ref_set *set, bool allowed,
		      bool recursive)
{
	_cleanup_buf_ struct buf bad = BUF_INIT(MESSAGE_MAX);
	struct strv spec = {}, used = o->info.refs;
	uint64_t size;
	int r = resolve(c, o, &set->refs, &spec);

	if (r)
		return r;
	if (recursive) {
		r = closure_of(c, o, &used, &size);
		if (r)
			return r;
	}
	for (size_t i = 0; i < used.n; i++) {
		if (recursive && rules->ignore_self_refs && !strcmp(used.v[i], o->info.path.base))
			continue;
		if (strv_has_sorted(&spec, used.v[i]) == allowed)
			continue;
		if (buf_printf(&bad, "\n  %s/%s", c->store_dir, used.v[i]) < 0)
			break; /* the sentence is long enough as it is */
	}
	if (!bad.len)
		return 0;
	return err_set(c->e, OUTPUT_REJECT,
		       "output '%s/%s' is not allowed to refer to the following paths:%.*s",
		       c->store_dir, o->info.path.base, (int)bad.len, (const char *)bad.data);
}

static int check_sizes(const struct check *c, const struct output_checks *rules,
		       const struct output_made *o)
{
	struct strv closure;
	uint64_t size;
	int r;

	if (rules->has_max_size && o->info.nar_size > rules->max_size)
		return err_set(c->e, OUTPUT_REJECT,
			       "path '%s/%s' is too large at %llu bytes; limit is %llu bytes",
			       c->store_dir, o->info.path.base,
			       (unsigned long long)o->info.nar_size,
			       (unsigned long long)rules->max_size);
	if (!rules->has_max_closure_size)
		return 0;
	r = closure_of(c, o, &closure, &size);
	if (r)
		return r;
	if (size > rules->max_closure_size)
		return err_set(
			c->e, OUTPUT_REJECT,
			"closure of path '%s/%s' is too large at %llu bytes; limit is %llu bytes",
			c->store_dir, o->info.path.base, (unsigned long long)size,
			(unsigned long long)rules->max_closure_size);
	return 0;
}

static int apply(const struct check *c, const struct output_checks *rules,
		 const struct output_made *o)
{
	int r = check_sizes(c, rules, o);

	if (r == 0 && rules->allowed_references.present)
		r = check_refs(c, rules, o, &rules->allowed_references, true, false);
	if (r == 0 && rules->allowed_requisites.present)
		r = check_refs(c, rules, o, &rules->allowed_requisites, true, true);
	if (r == 0 && rules->disallowed_references.refs.n)
		r = check_refs(c, rules, o, &rules->disallowed_references, false, false);
	if (r == 0 && rules->disallowed_requisites.refs.n)
		r = check_refs(c, rules, o, &rules->disallowed_requisites, false, true);
	return r;
}

int output_check(struct db *db, const char *store_dir, const char *drv_base,
		 const struct drv_opts *opts, const struct output_made *outputs, size_t n,
		 struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		for (size_t j = 0; j < opts->checks.n; j++) {
			_cleanup_arena_ struct arena a = ARENA_INIT(CHECK_MEMORY);
			const struct output_checks *rules = &opts->checks.v[j];
			struct check c = { .db = db,
					   .store_dir = store_dir,
					   .drv_base = drv_base,
					   .outputs = outputs,
					   .n = n,
					   .a = &a,
					   .e = e };
			int r = 0;

			if (!rules->output || !strcmp(rules->output, outputs[i].name))
				r = apply(&c, rules, &outputs[i]);
			if (r)
				return r;
		}
	}
	return 0;
}
