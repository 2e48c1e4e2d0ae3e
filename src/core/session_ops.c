/* What a session may ask for: one row per message, one function per row. Linked by airplantd.
 *
 * The session counts as taken over by its client. Its trust is what the core decided at accept;
 * every base name is parsed again here. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "core/build_log.h"
#include "core/gc.h"
#include "core/gc_auto.h"
#include "core/place.h"
#include "core/realise.h"
#include "core/roots.h"
#include "core/session_state.h"
#include "core/used.h"

enum {
	OP_ARENA = 3 * SESSION_MSG_MAX,
	LINK_NAME_LEN = 52,
	OBJECTS_MAX = 1 << 20,
	LOG_MAX = 1 << 30 /* bytes */
};

static void done(struct session *s, uint32_t id, const struct err *e)
{
	const struct session_done d = { .ok = !e, .error = e ? (char *)err_msg(e) : NULL };

	session_send(s, SESSION_DONE, id, &session_done_layout, &d, -1, 0);
}

/* After a call that fills `e` when it fails. */
static void done_with(struct session *s, uint32_t id, int r, const struct err *e)
{
	done(s, id, r == 0 ? NULL : e);
}

static void refuse(struct session *s, uint32_t id, const char *why)
{
	const struct err e = { .code = EPERM, .msg = (char *)why };

	done(s, id, &e);
}

static bool parse(struct session *s, const char *base, struct store_path *ret)
{
	if (store_path_parse_base(base, ret, NULL) == 0)
		return true;
	session_misbehaves(s, "a name that is not a store path");
	return false;
}

int session_temp_root(struct session *s, const char *base)
{
	int r;

	if (smap_has(&s->temp_roots, base)) {
		gc_pin(s->all->core, base);
		return 0;
	}
	if (s->stopped || account_hold(&s->all->accounts, s->peer.uid) != 0)
		return -ENOBUFS;
	gc_pin(s->all->core, base);
	used_note(s->all->core, s->peer.uid, base);
	r = smap_put(&s->temp_roots, base, NULL);
	if (r < 0)
		account_let_go(&s->all->accounts, s->peer.uid, 1);
	return r;
}

/* Kept per session for as long as it lives: bytes. */
enum { OPTIONS_MAX = 256 << 10 };

static void op_options(struct session *s, struct msg *m, void *record, struct arena *a)
{
	(void)record;
	(void)a;
	if (m->len > OPTIONS_MAX) {
		session_misbehaves(s, "options of an absurd size");
		return;
	}
	/* Kept as it came: most sessions never build. Decoding it once has shown that it is sound.
	 */
	msg_done(&s->options);
	s->options = *m;
	m->data = NULL;
	m->len = 0;
}

struct adding {
	struct session *s;
	uint32_t id;
	struct strv paths; /* heap; for a build's session alone */
};

static void adding_free(struct adding *ad)
{
	strv_done(&ad->paths);
	free(ad);
}

static void added(void *ctx, const struct err *e)
{
	struct adding *ad = ctx;

	if (!e && ad->s->peer.nested)
		session_nest_added(ad->s, ad->id, &ad->paths);
	else
		done(ad->s, ad->id, e);
	session_unref(ad->s);
	adding_free(ad);
}

/* A plain name in the session's own spool directory. */
static bool is_plain_name(const char *name)
{
	return *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

static bool stage(struct session *s, const struct session_object *o, struct staged *ret)
{
	struct store_path path;

	if (!is_plain_name(o->spool_name)) {
		session_misbehaves(s, "a spool name that leaves its spool");
		return false;
	}
	if (!parse(s, o->path, &ret->info.path))
		return false;
	for (size_t i = 0; i < o->refs.n; i++)
		if (!parse(s, o->refs.v[i], &path))
			return false;
	if (*o->deriver && !parse(s, o->deriver, &path))
		return false;
	for (size_t i = 0; i < o->sigs.n; i++)
		if (!signature_has_form(o->sigs.v[i])) {
			session_misbehaves(s, "a corrupt signature");
			return false;
		}
	memcpy(ret->info.nar_hash, o->nar_hash, sizeof(o->nar_hash));
	ret->info.nar_size = o->nar_size;
	ret->info.registration_time = (int64_t)o->registration_time;
	ret->info.deriver = o->deriver;
	ret->info.ultimate = o->ultimate && s->peer.trusted;
	ret->info.sigs = o->sigs;
	ret->info.ca = o->ca;
	ret->info.refs = o->refs;
	ret->dirfd = s->spool_fd;
	ret->name = o->spool_name;
	return true;
}

static void op_add(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_add *add = record;
	const bool trusted = s->peer.trusted, believed = session_may(s, RIGHT_IMPORT_UNSIGNED);
	unsigned int flags = PLACE_FOREIGN;
	struct err no_repair = {
		.code = EPERM,
		.msg = (char *)"repairing is not allowed because you are not in 'trusted-users'",
	};
	_cleanup_err_ struct err unknown = {};
	struct adding *ad;
	struct staged *v;

	if (!session_may(s, RIGHT_ADD)) {
		refuse(s, m->id, "you are not allowed to add to the store");
		return;
	}
	if (add->repair && !trusted) {
		done(s, m->id, &no_repair);
		return;
	}
	if (s->peer.nested && session_nest_knows(s, add, &unknown) != 0) {
		done(s, m->id, &unknown);
		return;
	}
	/* With the disk nearly full it waits, and all that this session sends after it. */
	if (gc_auto_look(s->all->core->gc_auto, &s->all->core->settings)) {
		s->held = *m;
		*m = MSG_INIT;
		return;
	}
	if (add->objects.n > OBJECTS_MAX) {
		session_misbehaves(s, "too many objects at once");
		return;
	}
	v = arena_array(a, add->objects.n ? add->objects.n : 1, sizeof(*v));
	ad = calloc(1, sizeof(*ad));
	if (!v || !ad) {
		free(ad);
		session_misbehaves(s, "more than there is memory for");
		return;
	}
	for (size_t i = 0; i < add->objects.n; i++) {
		if (!stage(s, &add->objects.v[i], &v[i])) {
			adding_free(ad);
			return;
		}
		if (s->peer.nested && strv_add(&ad->paths, v[i].info.path.base) < 0) {
			adding_free(ad);
			session_misbehaves(s, "more than there is memory for");
			return;
		}
		if (s->peer.nested && *v[i].info.ca)
			v[i].info.sigs = (struct strv){}; /* a build signs nothing */
		v[i].replace = add->repair;
		(void)session_temp_root(s,
					v[i].info.path.base); /* the session asks for more itself */
	}
	if (!(believed && add->dont_check_sigs) && !session_vouches(s, v, add->objects.n))
		flags |= PLACE_CHECK_SIGS;
	if (s->peer.nested)
		flags |= PLACE_CHECK_VALID;
	ad->s = s;
	ad->id = m->id;
	session_ref(s);
	place_objects_from(s->all->core->place, v, add->objects.n, flags, added, ad);
}

static void op_temp_root(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_text *t = record;
	_cleanup_err_ struct err e = {};
	struct store_path path;
	int r;

	(void)a;
	if (!parse(s, t->text, &path))
		return;
	r = s->peer.nested ? 0 : session_temp_root(s, path.base); /* what a build may use is kept for it */
	if (r < 0)
		err_errno(&e, r, "adding a temporary root for '%s'", path.base);
	done_with(s, m->id, r, &e);
}

static void op_temp_roots(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_texts *t = record;
	_cleanup_err_ struct err e = {};
	struct store_path path;
	int r = 0;

	(void)a;
	for (size_t i = 0; r == 0 && i < t->texts.n; i++) {
		if (!parse(s, t->texts.v[i], &path))
			return;
		r = s->peer.nested ? 0 : session_temp_root(s, path.base);
		if (r < 0)
			err_errno(&e, r, "adding a temporary root for '%s'", path.base);
	}
	done_with(s, m->id, r, &e);
}

static void op_indirect_root(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_text *t = record;
	_cleanup_err_ struct err e = {};

	(void)a;
	done_with(s, m->id, roots_add_indirect(s->all->core, t->text, &s->temp_roots, &e), &e);
}

static void op_find_roots(struct session *s, struct msg *m, void *record, struct arena *a)
{
	(void)record;
	(void)a;
	session_find_roots(s, m->id);
}

static void op_collect(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_collect *c = record;
	struct store_path path;

	(void)a;
	for (size_t i = 0; i < c->paths.n; i++)
		if (!parse(s, c->paths.v[i], &path))
			return;
	session_collect(s, m->id, c);
}

static void op_add_sigs(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_sigs *sigs = record;
	struct core *core = s->all->core;
	_cleanup_err_ struct err e = {};
	struct store_path path;
	int r;

	(void)a;
	if (!parse(s, sigs->path, &path))
		return;
	for (size_t i = 0; i < sigs->sigs.n; i++)
		if (!signature_has_form(sigs->sigs.v[i])) {
			session_misbehaves(s, "a corrupt signature");
			return;
		}
	place_flush(core->place); /* it may have been added in this round */
	r = db_add_sigs(core->db, &path, &sigs->sigs,
			s->peer.trusted ? DB_SIGS_MAX : DB_SIGS_FOREIGN);
	if (r == DB_ABSENT)
		err_set(&e, r, "path '%s/%s' is not valid", core->store_dir, path.base);
	else if (r == -E2BIG)
		err_set(&e, r, "path '%s/%s' would have too many signatures", core->store_dir,
			path.base);
	else if (r != 0)
		err_errno(&e, r < 0 ? r : -EIO, "adding signatures to '%s/%s'", core->store_dir,
			  path.base);
	done_with(s, m->id, r, &e);
}

static void op_realisation(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_realisation *from = record;
	struct realisation row = { .output = from->output, .sigs = from->sigs };
	_cleanup_err_ struct err e = {};

	(void)a;
	if (!parse(s, from->path, &row.path))
		return;
	if (store_name_check(from->output, NULL)) {
		session_misbehaves(s, "a name that is not an output's");
		return;
	}
	for (size_t i = 0; i < row.sigs.n; i++)
		if (!signature_has_form(row.sigs.v[i])) {
			session_misbehaves(s, "a corrupt signature");
			return;
		}
	memcpy(row.drv_hash, from->drv_hash, sizeof(row.drv_hash));
	done_with(s, m->id, realise_add(s->all->core, &row, session_may(s, RIGHT_REALISE), &e), &e);
}

static void op_ensure(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_text *t = record;
	struct core *core = s->all->core;
	_cleanup_err_ struct err e = {};
	struct store_path path;
	int r;

	(void)a;
	if (!parse(s, t->text, &path))
		return;
	if (s->peer.nested) {
		session_nest_ensure(s, m->id, &path);
		return;
	}
	place_flush(core->place);
	r = db_path_valid(core->db, &path);
	if (r < 0)
		err_errno(&e, r, "querying the database");
	else if (r > 0)
		err_set(&e, r,
			"path '%s/%s' is required, but there is no substituter that can build it",
			core->store_dir, path.base);
	done_with(s, m->id, r, &e);
}

static void op_add_log(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_log *l = record;
	_cleanup_err_ struct err e = {};
	_cleanup_close_ int fd = -1;
	struct store_path path;
	int r;

	(void)a;
	if (!session_may(s, RIGHT_ADD_LOGS)) {
		refuse(s, m->id, "you are not privileged to add logs");
		return;
	}
	if (!is_plain_name(l->spool_name)) {
		session_misbehaves(s, "a spool name that leaves its spool");
		return;
	}
	if (!parse(s, l->drv, &path))
		return;
	fd = open_beneath(s->spool_fd, l->spool_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	r = fd < 0 ? err_errno(&e, fd, "opening the log of '%s'", path.base)
		   : build_log_import(fd, LOG_MAX, s->all->core->log_dir, path.base, &e);
	done_with(s, m->id, r, &e);
}

/* Anybody may say that a path's files are gone; that they are is seen here. */
static int forget_gone(struct core *core, const struct store_path *path, struct err *e)
{
	struct stat st;
	int r;

	place_flush(core->place);
	if (fstatat(core->store_fd, path->base, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return err_set(e, EEXIST, "path '%s/%s' is there", core->store_dir, path->base);
	if (errno != ENOENT)
		return err_errno(e, -errno, "looking at '%s/%s'", core->store_dir, path->base);
	r = db_invalidate(core->db, path);
	return r < 0 ? err_errno(e, r, "removing '%s/%s' from the database", core->store_dir,
				 path->base)
		     : 0;
}

static void op_invalidate(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_text *t = record;
	_cleanup_err_ struct err e = {};
	struct store_path path;

	(void)a;
	if (parse(s, t->text, &path))
		done_with(s, m->id, forget_gone(s->all->core, &path, &e), &e);
}

/* A file in .links is there to save space alone. */
static void op_drop_link(struct session *s, struct msg *m, void *record, struct arena *a)
{
	static const char digits[] = "0123456789abcdfghijklmnpqrsvwxyz";
	const struct session_text *t = record;
	_cleanup_close_ int links = -1;
	_cleanup_err_ struct err e = {};
	int r = 0;

	(void)a;
	if (!s->peer.trusted) {
		refuse(s, m->id, "you are not privileged to repair paths");
		return;
	}
	if (strlen(t->text) != LINK_NAME_LEN || strspn(t->text, digits) != LINK_NAME_LEN) {
		session_misbehaves(s, "a name that no link has");
		return;
	}
	links = openat(s->all->core->store_fd, ".links",
		       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (links < 0 || (unlinkat(links, t->text, 0) < 0 && errno != ENOENT))
		r = err_errno(&e, -errno, "removing the link '%s'", t->text);
	done_with(s, m->id, r, &e);
}

static void op_perm_root(struct session *s, struct msg *m, void *record, struct arena *a)
{
	const struct session_root *root = record;
	struct core *core = s->all->core;
	_cleanup_err_ struct err e = {};
	struct store_path path;
	int r;

	(void)a;
	if (!session_may(s, RIGHT_ADD_ROOTS)) {
		refuse(s, m->id, "you are not privileged to create perm roots");
		return;
	}
	if (!parse(s, root->target, &path))
		return;
	r = session_temp_root(s, path.base); /* before the link: a collection may be looking */
	if (r < 0)
		err_errno(&e, r, "adding a temporary root for '%s'", path.base);
	else
		r = roots_add_perm(core->store_dir, core->state_dir, root->link, &path, &e);
	done_with(s, m->id, r, &e);
}

static void op_optimise(struct session *s, struct msg *m, void *record, struct arena *a)
{
	(void)record;
	(void)a;
	session_optimise(s, m->id);
}

static void op_allowed(struct session *s, struct msg *m, void *record, struct arena *a)
{
	(void)a;
	session_nest_allowed(s, m->id, record);
}

static void op_build(struct session *s, struct msg *m, void *record, struct arena *a)
{
	(void)a;
	session_build(s, m->id, record);
}

static const struct op {
	uint32_t type;
	const struct layout *layout; /* NULL: the message is empty */
	void (*fn)(struct session *s, struct msg *m, void *record, struct arena *a);
} ops[] = {
	{ SESSION_OPTIONS, &session_options_layout, op_options },
	{ SESSION_ADD, &session_add_layout, op_add },
	{ SESSION_TEMP_ROOT, &session_text_layout, op_temp_root },
	{ SESSION_INDIRECT_ROOT, &session_text_layout, op_indirect_root },
	{ SESSION_FIND_ROOTS, NULL, op_find_roots },
	{ SESSION_ADD_SIGS, &session_sigs_layout, op_add_sigs },
	{ SESSION_ENSURE, &session_text_layout, op_ensure },
	{ SESSION_REALISATION, &session_realisation_layout, op_realisation },
	{ SESSION_OPTIMISE, NULL, op_optimise },
	{ SESSION_BUILD, &session_build_layout, op_build },
	{ SESSION_COLLECT, &session_collect_layout, op_collect },
	{ SESSION_ADD_LOG, &session_log_layout, op_add_log },
	{ SESSION_INVALIDATE, &session_text_layout, op_invalidate },
	{ SESSION_DROP_LINK, &session_text_layout, op_drop_link },
	{ SESSION_PERM_ROOT, &session_root_layout, op_perm_root },
	{ SESSION_TEMP_ROOTS, &session_texts_layout, op_temp_roots },
	{ SESSION_ALLOWED, &session_texts_layout, op_allowed },
};

void session_dispatch(struct session *s, struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(OP_ARENA);
	union {
		struct session_options options;
		struct session_add add;
		struct session_text text;
		struct session_texts texts;
		struct session_sigs sigs;
		struct session_build build;
		struct session_log log;
		struct session_root root;
		struct session_realisation realisation;
		struct session_collect collect;
	} record = {};

	for (size_t i = 0; i < ELEMENTS(ops); i++) {
		if (ops[i].type != m->type)
			continue;
		if (s->peer.nested ? !session_nest_may(m->type) : m->type == SESSION_ALLOWED)
			break;
		if (ops[i].layout ? msg_decode(m, ops[i].layout, &a, &record) != 0 : m->len != 0)
			session_misbehaves(s, "a malformed message");
		else
			ops[i].fn(s, m, &record, &a);
		return;
	}
	session_misbehaves(s, "a message of an unknown type");
}
