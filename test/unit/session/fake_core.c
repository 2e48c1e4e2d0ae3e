/* See fake_core.h. Test code: what cannot happen here aborts. */
#include "fake_core.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "drv/drv.h"
#include "nar/tree.h"
#include "session/session.h"

struct core_side {
	const struct fake_core *f;
	int chan, store, spool;
	struct db *db;
};

static char *in_dir(const struct fake_core *f, const char *name)
{
	static char b[4][320];
	static unsigned i;
	char *p = b[i++ % 4];

	(void)snprintf(p, sizeof(b[0]), "%s/%s", f->dir, name);
	return p;
}

static void send_done(struct core_side *c, uint32_t id, const char *error)
{
	struct session_done d = { .ok = !error, .error = (char *)(error ? error : "") };

	assert(chan_send_record(c->chan, SESSION_DONE, id, &session_done_layout, &d, NULL, 0) == 0);
}

static void add_outputs(struct core_side *c, struct arena *a, struct registration *r)
{
	_cleanup_err_ struct err e = {};
	_cleanup_free_ char *text = NULL;
	struct drv d;
	size_t len;

	if (!store_path_is_drv(&r->info.path))
		return;
	if (read_file_at(c->spool, (char *)r->info.path.base, DRV_MAX, &text, &len) < 0 &&
	    read_file_at(c->store, r->info.path.base, DRV_MAX, &text, &len) < 0)
		return;
	if (drv_parse(c->f->store_dir, &r->info.path, text, len, a, &d, &e))
		return;
	r->outputs.v = arena_array(a, d.outputs.n + 1, sizeof(*r->outputs.v));
	for (size_t i = 0; i < d.outputs.n; i++) {
		struct store_path p;
		if (store_path_parse(c->f->store_dir, d.outputs.v[i].path, &p, &e))
			continue;
		r->outputs.v[r->outputs.n++] = (struct drv_row){ .output = d.outputs.v[i].name,
								 .path = arena_strdup(a, p.base) };
	}
}

static void handle_add(struct core_side *c, const struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(256 << 20);
	_cleanup_err_ struct err e = {};
	struct session_add add;
	size_t n = 0;

	assert(msg_decode(m, &session_add_layout, &a, &add) == 0);
	if (c->f->refuse_add) {
		send_done(c, m->id, c->f->refuse_add);
		return;
	}
	struct registration *v = arena_array(&a, add.objects.n + 1, sizeof(*v));
	for (size_t i = 0; i < add.objects.n; i++) {
		struct session_object *o = &add.objects.v[i];
		struct registration *r = &v[n];
		assert(store_path_parse_base(o->path, &r->info.path, &e) == 0);
		if (db_path_valid(c->db, &r->info.path) == 0)
			continue;
		assert(renameat(c->spool, o->spool_name, c->store, o->path) == 0);
		assert(tree_seal(c->store, o->path) == 0);
		memcpy(r->info.nar_hash, o->nar_hash, 32);
		r->info.nar_size = o->nar_size;
		r->info.registration_time = (int64_t)o->registration_time;
		r->info.deriver = o->deriver;
		r->info.refs = o->refs;
		r->info.sigs = o->sigs;
		r->info.ca = o->ca;
		r->info.ultimate = o->ultimate;
		add_outputs(c, &a, r);
		n++;
	}
	assert(db_begin(c->db) == 0);
	int r = db_register_many(c->db, v, n, &e);
	assert(db_commit(c->db) == 0);
	send_done(c, m->id, r ? err_msg(&e) : NULL);
}

static void handle_build(struct core_side *c, const struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
	struct session_build b;

	assert(msg_decode(m, &session_build_layout, &a, &b) == 0);
	if (c->f->build_log) {
		_cleanup_close_ int log = memfd_create("log", MFD_CLOEXEC);
		size_t len = strlen(c->f->build_log);
		assert(write_full(log, c->f->build_log, len) == 0);
		struct session_ev_build ev = { .build = 7,
					       .drv = "00000000000000000000000000000000-x.drv",
					       .size = len / 2 };
		struct session_progress p = { .done = 0, .expected = 1, .running = 1 };
		(void)chan_send_record(c->chan, SESSION_EV_STARTED, m->id, &session_ev_build_layout,
				       &ev, &log, 1);
		(void)chan_send_record(c->chan, SESSION_EV_PROGRESS, m->id,
				       &session_progress_layout, &p, NULL, 0);
		ev.size = len;
		(void)chan_send_record(c->chan, SESSION_EV_LOG, m->id, &session_ev_build_layout,
				       &ev, NULL, 0);
		(void)chan_send_record(c->chan, SESSION_EV_ENDED, m->id, &session_ev_build_layout,
				       &ev, NULL, 0);
	}
	if (c->f->build_hangs)
		return;
	struct session_result *v = arena_array(&a, b.targets.n + 1, sizeof(*v));
	struct session_output out = { "out", "11111111111111111111111111111111-x" };
	for (size_t i = 0; i < b.targets.n; i++) {
		v[i] = (struct session_result){ .target = b.targets.v[i],
						.times_built = 1,
						.start_time = 100,
						.stop_time = 200,
						.cpu_known = 1,
						.cpu_user_usec = 5 };
		v[i].error = (char *)(c->f->build_error ? c->f->build_error : "");
		v[i].status = c->f->build_error ? 9 : 0;
		if (!c->f->build_error) {
			v[i].outputs.v = &out;
			v[i].outputs.n = 1;
		}
	}
	struct session_built built = { .ok = !c->f->build_error,
				       .error = (char *)(c->f->build_error ? c->f->build_error
									   : "") };
	built.results.v = v;
	built.results.n = b.targets.n;
	(void)chan_send_record(c->chan, SESSION_BUILT, m->id, &session_built_layout, &built, NULL,
			       0);
}

static void handle_roots(struct core_side *c, const struct msg *m)
{
	struct session_root root = { "/somewhere/link", "22222222222222222222222222222222-r" };
	struct session_roots roots = { .ok = 1, .error = "" };

	roots.roots.v = &root;
	roots.roots.n = 1;
	(void)chan_send_record(c->chan, SESSION_ROOTS, m->id, &session_roots_layout, &roots, NULL,
			       0);
}

static void handle(struct core_side *c, const struct msg *m)
{
	switch (m->type) {
	case SESSION_ADD:
		handle_add(c, m);
		break;
	case SESSION_BUILD:
		handle_build(c, m);
		break;
	case SESSION_FIND_ROOTS:
		handle_roots(c, m);
		break;
	case SESSION_OPTIONS:
		break;
	default:
		send_done(c, m->id, NULL);
	}
}

static void run_core(const struct fake_core *f, int chan)
{
	_cleanup_err_ struct err e = {};
	struct core_side c = { .f = f, .chan = chan };

	c.store = open(in_dir(f, "store"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	c.spool = open(in_dir(f, "spool"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert(c.store >= 0 && c.spool >= 0);
	assert(db_open(in_dir(f, "db"), DB_WRITE, f->store_dir, false, &c.db, &e) == 0);
	for (;;) {
		_cleanup_msg_ struct msg m = MSG_INIT;
		if (chan_recv(chan, SESSION_MSG_MAX, &m))
			break;
		handle(&c, &m);
	}
	db_close(c.db);
	close(c.store);
	close(c.spool);
}

static int run_session(const struct fake_core *f, int chan, int client)
{
	struct session *s = malloc(sizeof(*s));
	struct timeval idle = { .tv_usec = f->idle_msec * 1000 };

	assert(setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof(idle)) == 0);
	(void)umask(0);
	session_init(s);
	s->core = chan;
	s->spool = open(in_dir(f, "spool"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	s->store = open(in_dir(f, "store"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	s->db_dir = in_dir(f, "db");
	s->fd_in = s->fd_out = client;
	s->client = (struct session_client){ .store_dir = (char *)f->store_dir,
					     .daemon_version = "2.34.8",
					     .trusted = f->trusted,
					     .rights = f->trusted ? RIGHTS_TRUSTED : RIGHTS_ALLOWED,
					     .peer_pid = 1 };
	int r = session_run(s);
	session_done(s);
	free(s);
	return r;
}

void fake_core_init(struct fake_core *f, const char *dir)
{
	_cleanup_err_ struct err e = {};

	(void)snprintf(f->dir, sizeof(f->dir), "%s", dir);
	if (!f->store_dir)
		f->store_dir = "/nix/store";
	assert(mkdir_p(in_dir(f, "store"), 0755) == 0);
	assert(mkdir_p(in_dir(f, "spool"), 0755) == 0);
	/* Held for good, as the core does: readers need the files beside the database. */
	assert(db_open(in_dir(f, "db"), DB_WRITE, f->store_dir, false, &f->keep, &e) == 0);
}

void fake_core_serve(const struct fake_core *f, int client)
{
	int chan[2];

	assert(chan_pair(chan) == 0);
	pid_t pid = fork();
	assert(pid >= 0);
	if (pid == 0) {
		close(chan[0]);
		_exit(run_session(f, chan[1], client) < 0);
	}
	close(chan[1]);
	close(client);
	run_core(f, chan[0]);
	close(chan[0]);
	(void)waitpid(pid, NULL, 0);
}

int fake_core_connect(const struct fake_core *f, pid_t ret_pids[2])
{
	int chan[2], sock[2];

	assert(chan_pair(chan) == 0);
	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock) == 0);
	ret_pids[0] = fork();
	if (ret_pids[0] == 0) {
		close(chan[1]);
		close(sock[0]);
		close(sock[1]);
		run_core(f, chan[0]);
		_exit(0);
	}
	ret_pids[1] = fork();
	if (ret_pids[1] == 0) {
		close(chan[0]);
		close(sock[0]);
		_exit(run_session(f, chan[1], sock[1]) < 0);
	}
	close(chan[0]);
	close(chan[1]);
	close(sock[1]);
	return sock[0];
}
