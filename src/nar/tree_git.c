/* Hashing a tree as git does: see tree.h. Linked by session and supervisor.
 *
 *   blob = "blob " size NUL contents       (a link's contents are its target)
 *   tree = "tree " size NUL *( mode " " name NUL digest )
 *
 * Entries are in byte order, a directory's name counting as if "/" stood behind it. A digest is
 * known when its directory has been left: each open level collects those of its entries. */
#include "nar/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/fd.h"
#include "nar/tree_walk.h"

enum { LISTING_MAX = 1 << 30, READ_SIZE = 64 * 1024 };

struct git_entry {
	char *key; /* the name, with "/" behind a directory's; heap */
	const char *mode;
	struct hash hash;
};
struct git_level {
	struct git_entry *v;
	size_t n, cap;
};
struct git {
	struct tree_walk walk;
	struct git_level levels[NAR_MAX_DEPTH + 1]; /* [0] gets the top */
	enum hash_algo algo;
	uint8_t *buffer;
	struct err *e;
};

static void level_done(struct git_level *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i].key);
	free(l->v);
	*l = (struct git_level){};
}

static int add_entry(struct git *g, size_t depth, const char *name, const char *mode,
		     const struct hash *hash)
{
	struct git_level *l = &g->levels[depth];
	bool dir = *mode == '4';
	char *key;

	if (l->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 16;
		struct git_entry *v = reallocarray(l->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	if (asprintf(&key, "%s%s", name, dir ? "/" : "") < 0)
		return -ENOMEM;
	l->v[l->n++] = (struct git_entry){ .key = key, .mode = mode, .hash = *hash };
	return 0;
}

static void begin(struct hasher *h, const char *kind, uint64_t size)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%s %llu", kind, (unsigned long long)size);

	hasher_feed(h, text, (size_t)n + 1);
}

static int feed_file(struct git *g, struct hasher *h, int fd, uint64_t size)
{
	uint64_t left = size;

	for (;;) {
		ssize_t n = read(fd, g->buffer, READ_SIZE);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if ((uint64_t)n > left || (n == 0 && left))
			return -EIO; /* it changed meanwhile */
		if (n == 0)
			return 0;
		hasher_feed(h, g->buffer, (size_t)n);
		left -= (uint64_t)n;
	}
}

static int hash_file(struct git *g, int dirfd, const char *name, struct hasher *h,
		     const char **ret_mode)
{
	_cleanup_close_ int fd = tree_open(dirfd, name, 0);
	struct stat st;
	int r;

	if (fd < 0)
		return tree_errno(&g->walk, name, g->e, fd, "opening file");
	if (fstat(fd, &st) < 0)
		return tree_errno(&g->walk, name, g->e, -errno, "getting status of");
	if (!S_ISREG(st.st_mode))
		return tree_bad(&g->walk, name, g->e, "file '%s' has an unsupported type");
	*ret_mode = st.st_mode & S_IXUSR ? "100755" : "100644";
	begin(h, "blob", (uint64_t)st.st_size);
	r = feed_file(g, h, fd, (uint64_t)st.st_size);
	return r < 0 ? tree_errno(&g->walk, name, g->e, r, "reading") : 0;
}

static int hash_symlink(struct git *g, int dirfd, const char *name, struct hasher *h)
{
	char target[NAR_TARGET_MAX + 1];
	int r = tree_readlink(dirfd, name, target);

	if (r < 0)
		return tree_errno(&g->walk, name, g->e, r, "reading symbolic link");
	begin(h, "blob", strlen(target));
	hasher_feed(h, target, strlen(target));
	return 0;
}

static int enter(struct git *g, int dirfd, const char *name)
{
	int fd = tree_open(dirfd, name, O_DIRECTORY);

	return fd < 0 ? tree_errno(&g->walk, name, g->e, fd, "opening directory")
		      : tree_walk_push(&g->walk, fd, name, g->e);
}

static int visit(struct git *g, int dirfd, const char *name)
{
	const char *mode = "120000";
	struct hasher *h;
	struct hash hash;
	struct stat st;
	int r;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return tree_errno(&g->walk, name, g->e, -errno, "getting status of");
	if (S_ISDIR(st.st_mode))
		return enter(g, dirfd, name);
	if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return tree_bad(&g->walk, name, g->e, "file '%s' has an unsupported type");
	h = hasher_new(g->algo);
	if (!h)
		return -ENOMEM;
	r = S_ISREG(st.st_mode) ? hash_file(g, dirfd, name, h, &mode)
				: hash_symlink(g, dirfd, name, h);
	hasher_final(h, &hash);
	hasher_free(h);
	return r ? r : add_entry(g, g->walk.depth, name, mode, &hash);
}

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct git_entry *)a)->key, ((const struct git_entry *)b)->key);
}

static int put_entries(const struct git_level *l, struct buf *b)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < l->n; i++) {
		const struct git_entry *en = &l->v[i];
		size_t len = strlen(en->key) - (*en->mode == '4');

		r = buf_printf(b, "%s %.*s", en->mode, (int)len, en->key);
		if (r == 0)
			r = buf_append_char(b, 0);
		if (r == 0)
			r = buf_append(b, en->hash.bytes, hash_size(en->hash.algo));
	}
	return r;
}

/* The innermost directory is complete: it becomes an entry of the one around it. */
static int leave(struct git *g)
{
	_cleanup_buf_ struct buf b = BUF_INIT(LISTING_MAX);
	struct git_level *l = &g->levels[g->walk.depth];
	_cleanup_free_ char *name = strdup(g->walk.v[g->walk.depth - 1].name);
	struct hasher *h;
	struct hash hash;
	int r;

	if (l->n)
		qsort(l->v, l->n, sizeof(*l->v), compare);
	r = name ? put_entries(l, &b) : -ENOMEM;
	level_done(l);
	if (r < 0)
		return r;
	h = hasher_new(g->algo);
	if (!h)
		return -ENOMEM;
	begin(h, "tree", b.len);
	hasher_feed(h, b.data, b.len);
	hasher_final(h, &hash);
	hasher_free(h);
	tree_walk_pop(&g->walk);
	return add_entry(g, g->walk.depth, name, "40000", &hash);
}

int tree_git_hash(int dirfd, const char *name, enum hash_algo algo, struct hash *ret, struct err *e)
{
	struct git *g = calloc(1, sizeof(*g));
	int r = -ENOMEM;

	if (!g)
		return err_errno(e, r, "hashing '%s'", name);
	g->algo = algo;
	g->e = e;
	g->buffer = malloc(READ_SIZE);
	if (g->buffer)
		r = visit(g, dirfd, name);
	while (r == 0 && g->walk.depth) {
		unsigned char type;
		const char *next = tree_walk_next(&g->walk, &type);

		r = next ? visit(g, tree_walk_fd(&g->walk), next) : leave(g);
	}
	if (r == 0)
		*ret = g->levels[0].v[0].hash;
	else if (r < 0 && !e->code)
		err_errno(e, r, "hashing '%s'", name);
	for (size_t i = 0; i < ELEMENTS(g->levels); i++)
		level_done(&g->levels[i]);
	tree_walk_done(&g->walk);
	free(g->buffer);
	free(g);
	return r;
}
