/* Cycles among paths that are registered together (feature row A10). Only the outputs of one
 * derivation can refer to each other in a circle. Pure; the depth of the graph costs heap, no
 * stack. */
#include "store/internal.h"

#include <errno.h>

struct frame {
	size_t node, next_edge;
};

enum { WHITE, ON_STACK, DONE };

/* Depth first from `start`. 1: ret_path is reached again from ret_parent. */
static int visit(const struct db_edges *v, size_t start, uint8_t *color, struct frame *stack,
		 size_t *ret_path, size_t *ret_parent)
{
	size_t depth = 0;

	stack[depth++] = (struct frame){ .node = start };
	color[start] = ON_STACK;
	while (depth) {
		struct frame *f = &stack[depth - 1];
		size_t to;

		if (f->next_edge == v[f->node].n) {
			color[f->node] = DONE;
			depth--;
			continue;
		}
		to = v[f->node].target[f->next_edge++];
		if (to == f->node) /* a path may refer to itself */
			continue;
		if (color[to] == ON_STACK) {
			*ret_path = to;
			*ret_parent = f->node;
			return 1;
		}
		if (color[to] == WHITE) {
			color[to] = ON_STACK;
			stack[depth++] = (struct frame){ .node = to };
		}
	}
	return 0;
}

int db_find_cycle(const struct db_edges *v, size_t n, size_t *ret_path, size_t *ret_parent)
{
	_cleanup_free_ uint8_t *color = calloc(n ? n : 1, 1);
	/* Each node is on the stack at most once. */
	_cleanup_free_ struct frame *stack = calloc(n ? n : 1, sizeof(*stack));

	if (!color || !stack)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (color[i] == WHITE && visit(v, i, color, stack, ret_path, ret_parent))
			return 1;
	return 0;
}
