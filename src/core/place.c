/* The one way into the store. See place.h. Linked by airplantd.
 *
 * Order: check, move, register. A crash in between leaves files without a row, which the next add
 * of that path clears away; never a row without files. */
#include "core/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "core/beside.h"
#include "core/core.h"
#include "core/durable.h"
#include "core/gc.h"
#include "core/optimise.h"
#include "core/place_batch.h"
#include "core/store_open.h"
#include "core/trash.h"
#include "nar/tree.h"

struct place *place_new(struct core *core)
{
	struct place *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->core = core;
	p->tail = &p->head;
	return p;
}

static void batch_free(struct batch *b)
{
	if (!b)
		return;
	err_done(&b->err);
	arena_done(&b->arena);
	free(b);
}

void place_free(struct place *p)
{
	struct batch *b;

	if (!p)
		return;
	while ((b = p->head)) {
		p->head = b->next;
		batch_free(b);
	}
	smap_done(&p->pending);
	place_forget_hashes(p);
	free(p);
}

static struct batch *batch_new(size_t n, place_done done, void *ctx)
{
	struct batch *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->arena = ARENA_INIT(BATCH_MAX);
	b->done = done;
	b->ctx = ctx;
	b->regs = arena_array(&b->arena, n ? n : 1, sizeof(*b->regs));
	b->modes = arena_array(&b->arena, n ? n : 1, sizeof(*b->modes));
	b->sigs = arena_array(&b->arena, n ? n : 1, sizeof(*b->sigs));
	b->replaced = arena_array(&b->arena, n ? n : 1, sizeof(*b->replaced));
	if (!b->replaced || !b->regs || !b->modes || !b->sigs) {
		batch_free(b);
		return NULL;
	}
	return b;
}

/* What was moved into the store leaves it again; but not what took the place of something: that was
 * broken, and the row would be left without files. */
static void take_back(struct place *p, struct batch *b)
{
	for (size_t i = 0; i < b->n_moved; i++) {
		const char *base = b->regs[i].info.path.base;
		int r = b->replaced[i] ? 0
				       : trash_put_uncounted(p->core, p->core->store_fd, base);

		if (r < 0)
			log_error("removing the unregistered '%s/%s': %s", p->core->store_dir, base,
				  strerror(-r));
	}
	b->n_moved = 0;
}

static int cannot_move(const struct core *core, const char *base, int r, struct err *e)
{
	if (r == -EACCES && store_check_owner(core, e) < 0)
		return r;
	return err_errno(e, r, "moving '%s/%s' into the store", core->store_dir, base);
}

/* Swaps the two, so that at no time there is nothing; what was there goes to the trash. -ENOENT:
 * nothing was. */
static int swap_in(struct core *core, const struct staged *s)
{
	const char *base = s->info.path.base;
	struct stat st;
	int r;

	if (fstatat(core->store_fd, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	/* A directory that changes its parent has to be writable itself. */
	if (S_ISDIR(st.st_mode) && !(st.st_mode & S_IWUSR) &&
	    fchmodat(core->store_fd, base, 0755, 0) < 0)
		return -errno;
	if (renameat2(s->dirfd, s->name, core->store_fd, base, RENAME_EXCHANGE) < 0)
		return -errno;
	r = trash_put_uncounted(core, s->dirfd, s->name);
	if (r < 0)
		log_warn("the former contents of '%s/%s' are not deleted: %s", core->store_dir,
			 base, strerror(-r));
	return 0;
}

/* Moves one object in. What is there without being valid is a leftover of a crash. */
static int move_in(struct place *p, const struct staged *s, mode_t mode, struct err *e)
{
	struct core *core = p->core;
	const char *base = s->info.path.base;
	int r;

	gc_clear_way(core, base);
	r = s->replace ? swap_in(core, s) : -ENOENT;
	if (r < 0 && r != -ENOENT)
		return err_errno(e, r, "replacing '%s/%s'", core->store_dir, base);
	if (r < 0 && renameat2(s->dirfd, s->name, core->store_fd, base, RENAME_NOREPLACE) < 0) {
		if (errno != EEXIST)
			return cannot_move(core, base, -errno, e);
		r = trash_put_uncounted(core, core->store_fd, base);
		if (r < 0)
			return err_errno(e, r, "clearing the way for '%s/%s'", core->store_dir,
					 base);
		if (renameat2(s->dirfd, s->name, core->store_fd, base, RENAME_NOREPLACE) < 0)
			return cannot_move(core, base, -errno, e);
	}
	if (!S_ISDIR(mode))
		return 0;
	r = tree_seal(core->store_fd, base);
	if (r < 0) {
		if (!s->replace)
			(void)trash_put_uncounted(core, core->store_fd,
						  base); /* the first error counts */
		return err_errno(e, r, "sealing '%s/%s'", core->store_dir, base);
	}
	return 0;
}

static int copy_sigs(struct batch *b, const struct path_info *info)
{
	struct path_info *to = &b->sigs[b->n_sigs];

	if (info->sigs.n == 0)
		return 0;
	to->path = info->path;
	for (size_t i = 0; i < info->sigs.n; i++)
		if (strv_add_arena(&to->sigs, &b->arena, arena_strdup(&b->arena, info->sigs.v[i])) <
		    0)
			return -ENOMEM;
	b->n_sigs++;
	return 0;
}

/* Sorts out what is valid already and checks the rest. `ret_todo` gets indices into v, one per
 * registration. */
static int check_all(struct place *p, struct batch *b, const struct staged *v, size_t n,
		     unsigned int flags, size_t *ret_todo)
{
	int r;

	for (size_t i = 0; i < n; i++) {
		r = db_path_valid(p->core->db, &v[i].info.path);
		if (r < 0)
			return err_errno(&b->err, r, "querying the database");
		b->replaced[b->n_regs] = r == 0 && v[i].replace;
		if (r == 0 && !v[i].replace) {
			r = flags & PLACE_CHECK_VALID ? place_check_claim(p, &v[i], &b->arena, &b->err)
						      : 0;
			if (r != 0)
				return r;
			r = flags & PLACE_CHECK_VALID ? 0 : copy_sigs(b, &v[i].info);
			if (r < 0)
				return err_set(&b->err, r, "out of memory");
			continue;
		}
		if (smap_has(&p->pending, v[i].info.path.base))
			continue; /* twice in one call: once is enough */
		r = place_check(p, &v[i], flags, &b->arena, &b->regs[b->n_regs],
				&b->modes[b->n_regs], &b->err);
		if (r == 0 && smap_put(&p->pending, v[i].info.path.base, b) < 0)
			r = err_set(&b->err, -ENOMEM, "out of memory");
		if (r != 0)
			return r;
		ret_todo[b->n_regs++] = i;
	}
	return 0;
}

static int prepare(struct place *p, struct batch *b, const struct staged *v, size_t n,
		   unsigned int flags)
{
	size_t *todo = arena_array(&b->arena, n ? n : 1, sizeof(*todo));
	int r;

	if (!todo)
		return err_set(&b->err, -ENOMEM, "out of memory");
	p->staged = v;
	p->n_staged = n;
	r = check_all(p, b, v, n, flags, todo);
	p->staged = NULL;
	p->n_staged = 0;
	/* Its files lie in the store before the row does. */
	for (size_t i = 0; r == 0 && i < b->n_regs && beside_promise(p->core); i++) {
		r = beside_tell(p->core, b->regs[i].info.path.base);
		if (r < 0)
			err_errno(&b->err, r, "adding '%s' during another garbage collection",
				  b->regs[i].info.path.base);
	}
	for (size_t i = 0; r == 0 && i < b->n_regs; i++) {
		r = move_in(p, &v[todo[i]], b->modes[i], &b->err);
		if (r == 0)
			b->n_moved++;
	}
	return r;
}

static void unpend(struct place *p, const struct batch *b)
{
	for (size_t i = 0; i < b->n_regs; i++)
		(void)smap_remove(&p->pending, b->regs[i].info.path.base);
}

static void flush_later(void *ctx)
{
	struct place *p = ctx;

	p->deferred = false;
	place_flush(p);
}

static bool is_pending(const struct place *p, const struct staged *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (smap_has(&p->pending, v[i].info.path.base))
			return true;
	return false;
}

/* The transaction of this round: opened before the first question, so that the questions of all
 * its batches need no lock of their own. */
static int open_round(struct place *p, struct err *e)
{
	int r = p->deferred ? 0 : loop_defer(p->core->loop, flush_later, p);

	if (r < 0)
		return err_set(e, r, "out of memory");
	p->deferred = true;
	if (p->txn)
		return 0;
	r = db_begin(p->core->db);
	if (r < 0)
		return err_errno(e, r, "starting a transaction in the store database");
	p->txn = true;
	return 0;
}

void place_objects_from(struct place *p, const struct staged *v, size_t n, unsigned int flags,
			place_done done, void *ctx)
{
	const struct err oom = { .code = -ENOMEM };
	struct batch *b;
	int r;

	/* Two of a round want the same path: the first is committed, the second finds it valid. */
	if (is_pending(p, v, n))
		place_flush(p);
	b = batch_new(n, done, ctx);
	if (!b) {
		done(ctx, &oom);
		return;
	}
	b->sigs_max = flags & PLACE_CHECK_SIGS ? DB_SIGS_FOREIGN : DB_SIGS_MAX;
	r = open_round(p, &b->err);
	if (r == 0)
		r = prepare(p, b, v, n, flags);
	if (r != 0) {
		unpend(p, b);
		take_back(p, b);
		b->done(b->ctx, &b->err);
		batch_free(b);
		return;
	}
	*p->tail = b;
	p->tail = &b->next;
}

void place_objects(struct place *p, const struct staged *v, size_t n, place_done done, void *ctx)
{
	place_objects_from(p, v, n, 0, done, ctx);
}

static int register_batch(struct db *db, struct batch *b, bool guarded)
{
	int r = 0;

	/* The signatures first: of a batch that fails no row may stay, since its files go. */
	for (size_t i = 0; r == 0 && i < b->n_sigs; i++) {
		r = db_add_sigs(db, &b->sigs[i].path, &b->sigs[i].sigs, b->sigs_max);
		if (r == DB_ABSENT)
			r = 0; /* collected meanwhile: there is nothing to sign */
		if (r < 0)
			err_errno(&b->err, r, "adding signatures");
	}
	if (r == 0 && b->n_regs > 0)
		r = guarded ? db_register_many(db, b->regs, b->n_regs, &b->err)
			    : db_register_bare(db, b->regs, b->n_regs, &b->err);
	if (r != 0 && b->err.code == 0)
		err_errno(&b->err, r < 0 ? r : -EIO, "registering in the database");
	return r;
}

/* Hardly ever does one fail with rows written: then all is done again, one by one undoable. */
static int register_all(struct db *db, struct batch *list)
{
	int r = 0;

	for (struct batch *b = list; b && r >= 0; b = b->next)
		r = register_batch(db, b, false);
	if (r >= 0)
		return 0;
	db_rollback(db);
	r = db_begin(db);
	for (struct batch *b = list; r == 0 && b; b = b->next) {
		err_done(&b->err);
		b->err = (struct err){};
		(void)register_batch(db, b, true); /* failed ones carry it in b->err */
	}
	return r;
}

/* On failure every batch carries the error. */
static void commit(struct place *p, struct batch *list)
{
	struct core *core = p->core;
	const char *step = "starting a transaction";
	int r = register_all(core->db, list);

	if (r == 0) {
		step = "flushing the store";
		r = durable_before_commit(core);
	}
	if (r == 0) {
		step = "committing";
		r = db_commit(core->db);
	}
	if (r == 0)
		return;
	db_rollback(core->db);
	for (struct batch *b = list; b; b = b->next)
		err_errno(&b->err, r < 0 ? r : -EIO, "%s in the store database", step);
}

static void share_files(struct core *core, const struct batch *b)
{
	for (size_t i = 0; b->err.code == 0 && i < b->n_regs; i++)
		optimise_later(core, b->regs[i].info.path.base, b->replaced[i]);
}

/* A collection that runs does not know them: neither what is new nor that it needs its references.
 */
static void pin_registered(struct core *core, const struct batch *b)
{
	if (b->err.code != 0 || !gc_is_running(core))
		return;
	for (size_t i = 0; i < b->n_regs; i++) {
		gc_pin(core, b->regs[i].info.path.base);
		for (size_t k = 0; k < b->regs[i].info.refs.n; k++)
			gc_pin(core, b->regs[i].info.refs.v[k]);
	}
}

void place_flush(struct place *p)
{
	struct batch *list = p->head, *b;
	bool work = false;

	p->head = NULL;
	p->tail = &p->head;
	for (b = list; b; b = b->next)
		work = work || b->n_regs > 0 || b->n_sigs > 0;
	if (work) {
		commit(p, list);
		durable_note(p->core->durable);
	} else if (p->txn) {
		db_rollback(p->core->db);
	}
	p->txn = false;
	for (b = list; b; b = b->next) {
		pin_registered(p->core, b);
		if (p->core->settings.auto_optimise_store)
			share_files(p->core, b);
		unpend(p, b);
		if (b->err.code != 0)
			take_back(p, b);
	}
	while ((b = list)) {
		list = b->next;
		b->done(b->ctx, b->err.code ? &b->err : NULL);
		batch_free(b);
	}
}
