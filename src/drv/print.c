/* Writes a derivation as the text of a .drv file, byte for byte as upstream does: builder,
 * arguments and environment are escaped, everything else is quoted as it is. Pure. */
#include "drv/print.h"

#include <errno.h>

/* The first failure sticks, so that the writers below need no checks of their own. */
struct out {
	struct buf *b;
	int r;
};

static void put(struct out *o, const void *data, size_t len)
{
	if (o->r == 0)
		o->r = buf_append(o->b, data, len);
}

static void put_str(struct out *o, const char *s)
{
	put(o, s, strlen(s));
}

static void put_quoted(struct out *o, const char *s)
{
	put(o, "\"", 1);
	put_str(o, s);
	put(o, "\"", 1);
}

static void put_escaped(struct out *o, const char *s)
{
	put(o, "\"", 1);
	for (;;) {
		size_t run = strcspn(s, "\"\\\n\r\t");

		put(o, s, run);
		s += run;
		if (!*s)
			break;
		put(o, "\\", 1);
		put(o, *s == '\n' ? "n" : *s == '\r' ? "r" : *s == '\t' ? "t" : s, 1);
		s++;
	}
	put(o, "\"", 1);
}

static void put_list(struct out *o, const struct strv *list,
		     void (*one)(struct out *, const char *))
{
	put(o, "[", 1);
	for (size_t i = 0; i < list->n; i++) {
		if (i)
			put(o, ",", 1);
		one(o, list->v[i]);
	}
	put(o, "]", 1);
}

static void put_outputs(struct out *o, const struct drv *d, bool mask)
{
	put(o, "[", 1);
	for (size_t i = 0; i < d->outputs.n; i++) {
		const struct drv_output *out = &d->outputs.v[i];

		put_str(o, i ? ",(" : "(");
		put_quoted(o, out->name);
		put(o, ",", 1);
		put_quoted(o, mask ? "" : out->path);
		put(o, ",", 1);
		put_quoted(o, out->algo);
		put(o, ",", 1);
		put_quoted(o, out->hash);
		put(o, ")", 1);
	}
	put(o, "]", 1);
}

static void put_input(struct out *o, bool first, const char *key, const struct strv *outputs)
{
	put_str(o, first ? "(" : ",(");
	put_quoted(o, key);
	put(o, ",", 1);
	put_list(o, outputs, put_quoted);
	put(o, ")", 1);
}

/* As put_input, with the nodes within. */
static void put_dynamic_input(struct out *o, bool first, const struct drv_input *in)
{
	size_t open = 1;

	put_str(o, first ? "(" : ",(");
	put_quoted(o, in->path);
	put(o, ",(", 2);
	put_list(o, &in->outputs, put_quoted);
	put(o, ",[", 2);
	for (size_t i = 0; i < in->n_nodes; i++) {
		const struct drv_node *n = &in->nodes[i];
		bool deeper = i + 1 < in->n_nodes && n[1].depth > n->depth;

		for (; open > n->depth; open--)
			put_str(o, "]))");
		put_str(o, i && n[-1].depth >= n->depth ? ",(" : "(");
		put_quoted(o, n->name);
		put_str(o, deeper ? ",(" : ",");
		put_list(o, &n->outputs, put_quoted);
		put_str(o, deeper ? ",[" : ")");
		open += deeper;
	}
	for (; open > 1; open--)
		put_str(o, "]))");
	put_str(o, "]))");
}

static void put_head(struct out *o, const struct drv *d)
{
	put_str(o, drv_has_dynamic_input(d) ? "DrvWithVersion(\"xp-dyn-drv\"," : "Derive(");
}

/* Behind the inputs. */
static void put_rest(struct out *o, const struct drv *d, bool mask)
{
	put_list(o, &d->srcs, put_quoted);
	put(o, ",", 1);
	put_quoted(o, d->platform);
	put(o, ",", 1);
	put_escaped(o, d->builder);
	put(o, ",", 1);
	put_list(o, &d->args, put_escaped);
	put(o, ",[", 2);
	for (size_t i = 0; i < d->env.n; i++) {
		const struct drv_env *env = &d->env.v[i];

		put_str(o, i ? ",(" : "(");
		put_escaped(o, env->name);
		put(o, ",", 1);
		put_escaped(o, mask && drv_output_get(d, env->name) ? "" : env->value);
		put(o, ")", 1);
	}
	put(o, "])", 2);
}

int drv_print(const struct drv *d, struct buf *b)
{
	struct out o = { .b = b };

	put_head(&o, d);
	put_outputs(&o, d, false);
	put(&o, ",[", 2);
	for (size_t i = 0; i < d->inputs.n; i++)
		if (d->inputs.v[i].n_nodes)
			put_dynamic_input(&o, i == 0, &d->inputs.v[i]);
		else
			put_input(&o, i == 0, d->inputs.v[i].path, &d->inputs.v[i].outputs);
	put(&o, "],", 2);
	put_rest(&o, d, false);
	return o.r;
}

int drv_print_with(const struct drv *d, bool mask_outputs, const struct print_input *inputs,
		   size_t n_inputs, struct buf *b)
{
	struct out o = { .b = b };

	put_head(&o, d);
	put_outputs(&o, d, mask_outputs);
	put(&o, ",[", 2);
	for (size_t i = 0; i < n_inputs; i++)
		put_input(&o, i == 0, inputs[i].key, &inputs[i].outputs);
	put(&o, "],", 2);
	put_rest(&o, d, mask_outputs);
	return o.r;
}
