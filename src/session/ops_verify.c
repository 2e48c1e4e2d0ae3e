/* VerifyStore: is what the database says still what lies in the store?
 *
 * The session looks and hashes, all of it read-only. What is changed, the core changes: the row of a
 * path that has gone, after a look of its own; and, to repair, contents, by a build. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "nar/tree.h"
#include "session/build.h"
#include "session/ops.h"

struct verify {
	struct session *s;
	struct strv paths;   /* valid ones, by the database; the request's arena */
	struct smap missing; /* of these, what is not in the store any more */
	bool errors, repair;
};

static int db_trouble(struct err *e, int r)
{
	return store_fail(e, r, "cannot read the store's database");
}

/* A client that has gone away does not want the rest. */
static int still_wanted(struct session *s)
{
	struct pollfd p = { .fd = s->fd_in, .events = POLLRDHUP };
	int r = conn_flush(s);

	if (r)
		return r;
	return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR) ? WIRE_EOF : 0;
}

static int find_missing(struct verify *v, struct err *e)
{
	struct session *s = v->s;
	struct stat st;
	int r;

	tell(s, LVL_INFO, "reading the Nix store...");
	r = store_db(s, e);
	if (r)
		return r;
	r = db_all_paths(s->db, &s->arena, &v->paths);
	store_release(s);
	if (r)
		return db_trouble(e, r);
	for (size_t i = 0; i < v->paths.n; i++) {
		if (fstatat(s->store, v->paths.v[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
			continue;
		if (errno != ENOENT)
			return err_errno(e, -errno, "looking at '%s/%s'", s->client.store_dir,
					 v->paths.v[i]);
		r = smap_put(&v->missing, v->paths.v[i], NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

/* A referrer that is still there? Those gone and removed before are no rows any more. */
static int is_needed(struct verify *v, const struct store_path *p, bool *ret, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(WIRE_REQUEST_MAX);
	struct strv referrers = {};
	int r = store_db(v->s, e);

	if (r)
		return r;
	r = db_referrers(v->s->db, p, &a, &referrers);
	store_release(v->s);
	if (r)
		return db_trouble(e, r);
	*ret = false;
	for (size_t i = 0; i < referrers.n; i++)
		if (strcmp(referrers.v[i], p->base))
			*ret = true;
	return 0;
}

/* What is wrong with `p` was told. */
static int mend(struct verify *v, const struct store_path *p, struct err *e)
{
	_cleanup_err_ struct err why = {};
	int r = v->repair ? build_repair(v->s, p, &why) : OP_FAILED;

	if (r && r != OP_FAILED)
		return r < 0 ? err_set(e, r, "%s", err_msg(&why)) : r;
	if (!r)
		return 0;
	if (v->repair)
		tell(v->s, LVL_ERROR, "error: %s", err_msg(&why));
	v->errors = true;
	return 0;
}

/* One round over what is missing: drops the rows that nothing refers to any more. */
static int drop_round(struct verify *v, bool *ret_progress, struct err *e)
{
	*ret_progress = false;
	for (size_t i = 0; i < v->paths.n; i++) {
		struct store_path p;
		bool needed;
		int r;

		if (!smap_has(&v->missing, v->paths.v[i]) ||
		    store_path_parse_base(v->paths.v[i], &p, NULL))
			continue;
		r = is_needed(v, &p, &needed, e);
		if (r)
			return r;
		if (needed)
			continue;
		tell(v->s, LVL_INFO, "path '%s' disappeared, removing from database...",
		     store_print(v->s, p.base));
		r = core_text(v->s, SESSION_INVALIDATE, p.base, e);
		if (r)
			return r;
		(void)smap_remove(&v->missing, p.base);
		*ret_progress = true;
	}
	return 0;
}

static int drop_missing(struct verify *v, struct err *e)
{
	bool progress = v->missing.n > 0;
	struct store_path p;
	int r = 0;

	while (!r && progress)
		r = drop_round(v, &progress, e);
	for (size_t i = 0; !r && v->missing.n && i < v->paths.n; i++) {
		if (!smap_has(&v->missing, v->paths.v[i]))
			continue;
		tell(v->s, LVL_ERROR, "path '%s' disappeared, but it still has valid referrers!",
		     store_print(v->s, v->paths.v[i]));
		if (store_path_parse_base(v->paths.v[i], &p, NULL) == 0)
			r = mend(v, &p, e);
	}
	return r;
}

static void print_hash(const uint8_t bytes[32], char ret[static 64])
{
	base32_encode(bytes, hash_size(HASH_SHA256), ret);
}

/* The files that optimising links to are named after their contents. */
/* Whoever needs a link makes it anew. */
static int drop_link(struct verify *v, const char *name, struct err *e)
{
	int r = v->repair ? core_text(v->s, SESSION_DROP_LINK, name, e) : 0;

	if (v->repair && r == 0)
		tell(v->s, LVL_INFO, "removed link \"%s/.links/%s\"", v->s->client.store_dir, name);
	else
		v->errors = true;
	return r;
}

static int check_links(struct verify *v, struct err *e)
{
	int fd = openat(v->s->store, ".links", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct tree_facts facts;
	struct dirent *de;
	int r = 0;

	tell(v->s, LVL_INFO, "checking link hashes...");
	if (!d) {
		close_fdp(&fd);
		return 0; /* never optimised */
	}
	while (!r && (de = readdir(d))) {
		char hash[64];

		if (de->d_name[0] == '.')
			continue;
		r = tree_measure(dirfd(d), de->d_name, NULL, &facts, e);
		if (r == -ENOENT) {
			r = 0;
			continue;
		}
		if (r)
			break;
		print_hash(facts.nar_hash, hash);
		if (strcmp(hash, de->d_name)) {
			tell(v->s, LVL_ERROR,
			     "link \"%s/.links/%s\" was modified! expected hash %s, got '%s'",
			     v->s->client.store_dir, de->d_name, de->d_name, hash);
			r = drop_link(v, de->d_name, e);
		}
		r = r ?: still_wanted(v->s);
	}
	closedir(d);
	return r;
}

/* What cannot be read is told and counted; the others are looked at all the same. */
static int check_one(struct verify *v, const char *base, struct err *e)
{
	_cleanup_err_ struct err why = {};
	struct session *s = v->s;
	struct tree_facts facts;
	struct wire_info info;
	struct store_path p;
	char expected[64], got[64];
	int r;

	if (smap_has(&v->missing, base) || store_path_parse_base(base, &p, NULL))
		return 0;
	r = store_info(s, &p, &info, e);
	store_release(s);
	if (r)
		return r == DB_ABSENT ? 0 : r; /* collected meanwhile */
	tell(s, LVL_TALKATIVE, "checking contents of '%s'", store_print(s, base));
	r = tree_measure(s->store, base, NULL, &facts, &why);
	if (r) {
		if (store_valid(s, &p, e) == 0) {
			tell(s, LVL_ERROR, "%s", err_msg(&why));
			v->errors = true;
		}
		store_release(s);
		return 0;
	}
	if (memcmp(facts.nar_hash, info.nar_hash, sizeof(facts.nar_hash)) == 0)
		return 0;
	print_hash(info.nar_hash, expected);
	print_hash(facts.nar_hash, got);
	tell(s, LVL_ERROR, "path '%s' was modified! expected hash 'sha256:%s', got 'sha256:%s'",
	     store_print(s, base), expected, got);
	return mend(v, &p, e);
}

static int check_contents(struct verify *v, struct err *e)
{
	int r = check_links(v, e);

	if (!r)
		tell(v->s, LVL_INFO, "checking store hashes...");
	for (size_t i = 0; !r && i < v->paths.n; i++) {
		r = check_one(v, v->paths.v[i], e);
		if (!r)
			r = still_wanted(v->s);
	}
	return r;
}

int op_verify_store(struct session *s, struct err *e)
{
	struct verify v = { .s = s };
	bool contents, repair;

	int r = wire_bool(&s->in, &contents);
	if (!r)
		r = wire_bool(&s->in, &repair);
	if (r)
		return r;
	request_read(s);
	if (repair && !s->client.trusted)
		return err_set(e, OP_FAILED, "you are not privileged to repair paths");
	v.repair = repair;
	r = find_missing(&v, e);
	if (!r)
		r = drop_missing(&v, e);
	if (!r && contents)
		r = check_contents(&v, e);
	smap_done(&v.missing);
	if (r)
		return r;
	answer_begin(s);
	wire_put_u64(&s->out, v.errors);
	return 0;
}
