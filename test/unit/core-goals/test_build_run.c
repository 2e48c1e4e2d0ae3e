/* The core's side of the boundary to a build supervisor, with a hostile peer behind it: this
 * program, started under the supervisor's name, plays a part named by the derivation. The store,
 * the database and the loop are real. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/build_run.h"
#include "core/core.h"
#include "core/place.h"
#include "core/sigcheck.h"
#include "core/store_open.h"
#include "nar/tree.h"

#define OUT_BASE     "00000000000000000000000000000001-made"
#define FOREIGN_BASE "99999999999999999999999999999999-not-given"
#define DRV_BASE     "00000000000000000000000000000002-made.drv"
enum { LIMIT_USEC = 8000000, REST_USEC = 300000 };

/* ---- the supervisor ---- */

static struct arena peer_arena = ARENA_INIT(64 << 20);

static void expect_message(uint32_t type, struct msg *m)
{
	if (chan_recv(BUILD_FD, BUILD_MSG_MAX, m) != 0 || m->type != type)
		_exit(3);
}

static void make_output(const struct build_start *s)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/out", s->scratch);
	if (mkdir(path, 0700) < 0)
		_exit(4);
	snprintf(path, sizeof(path), "%s/out/%s", s->scratch, OUT_BASE);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0444);
	if (fd < 0 || write(fd, "made\n", 5) != 5)
		_exit(5);
	close(fd);
}

static void send_end(const struct build_start *s, struct build_end *end)
{
	char path[4096];
	struct build_made made = { .name = (char *)"out" };
	struct tree_facts facts;
	char *foreign[] = { (char *)FOREIGN_BASE };
	struct err e = {};
	int dirfd;

	snprintf(path, sizeof(path), "%s/out", s->scratch);
	dirfd = open(path, O_RDONLY | O_DIRECTORY);
	if (dirfd >= 0 && tree_measure(dirfd, OUT_BASE, NULL, &facts, &e) == 0) {
		memcpy(made.nar_hash, facts.nar_hash, 32);
		made.nar_size = facts.nar_size;
	}
	if (!strcmp(s->drv_name, "liar-reference"))
		made.refs = (struct strv){ .v = foreign, .n = 1 };
	if (!strcmp(s->drv_name, "liar-name"))
		made.name = (char *)"dev";
	if (end->status == BUILT) {
		end->outputs.v = &made;
		end->outputs.n = strcmp(s->drv_name, "liar-count") ? 1 : 0;
	}
	(void)chan_send_record(BUILD_FD, BUILD_END, 0, &build_end_layout, end, NULL, 0);
}

/* A process that outlives its supervisor stands for the builder. */
static void say_running(const struct build_start *s)
{
	bool none = !strcmp(s->drv_name, "no-pidfd"), wrong = !strcmp(s->drv_name, "wrong-fd");
	pid_t pid = none || wrong ? getpid() : fork();
	int fd;

	if (pid == 0) {
		(void)syscall(SYS_close_range, 0U, ~0U, 0U);
		sleep(60);
		_exit(0);
	}
	fd = wrong ? open("/dev/null", O_RDWR) : (int)syscall(SYS_pidfd_open, pid, 0);
	(void)chan_send_record(BUILD_FD, BUILD_RUNNING, 0, &build_running_layout,
			       &(struct build_running){ .host_uid = (uint64_t)pid }, &fd,
			       none ? 0 : 1);
	close(fd);
}

static int play(void)
{
	struct msg start = MSG_INIT, ids = MSG_INIT, release = MSG_INIT;
	struct build_start s;
	struct build_end end = { .log_size = 6 };
	struct build_log log = { .size = 6 };
	struct build_bye bye = { .clean = 1 };

	expect_message(BUILD_START, &start);
	if (start.n_fds != 2 || msg_decode(&start, &build_start_layout, &peer_arena, &s))
		_exit(6);
	if (!strcmp(s.drv_name, "mute"))
		_exit(0);
	(void)chan_send(BUILD_FD, BUILD_NEED_IDS, 0, NULL, 0, NULL, 0);
	expect_message(BUILD_IDS, &ids);
	if (!strcmp(s.drv_name, "half-born")) {
		/* A child that nobody was told of, and that may still make files. */
		if (fork() == 0) {
			usleep(2 * REST_USEC);
			_exit(0);
		}
		abort();
	}
	say_running(&s);
	for (int i = 0; i < (strcmp(s.drv_name, "flood") ? 0 : 2000); i++)
		(void)chan_send_record(BUILD_FD, BUILD_LOG, 0, &build_log_layout, &log, NULL, 0);
	(void)!write(start.fds[0], "hello\n", 6);
	(void)!write(start.fds[1], "packed", 6);
	(void)chan_send_record(BUILD_FD, BUILD_LOG, 0, &build_log_layout, &log, NULL, 0);
	if (!strcmp(s.drv_name, "crash"))
		abort();
	if (!strcmp(s.drv_name, "babble"))
		(void)chan_send(BUILD_FD, 4711, 0, "x", 1, NULL, 0);
	if (!strcmp(s.drv_name, "garbage"))
		(void)chan_send(BUILD_FD, BUILD_END, 0, "\377\377\377\377", 4, NULL, 0);
	if (!strcmp(s.drv_name, "raw"))
		(void)!write(BUILD_FD, "no header", 9);
	if (!strcmp(s.drv_name, "babble") || !strcmp(s.drv_name, "garbage") ||
	    !strcmp(s.drv_name, "raw") || !strcmp(s.drv_name, "slow")) {
		expect_message(BUILD_CANCEL, &release); /* killed before, but for "slow" */
	} else {
		if (!strcmp(s.drv_name, "fail")) {
			end.status = PERMANENT_FAILURE;
			end.error = (char *)"it failed";
		} else if (strcmp(s.drv_name, "liar-empty")) {
			make_output(&s);
		}
		send_end(&s, &end);
		if (!strcmp(s.drv_name, "twice"))
			send_end(&s, &end);
		expect_message(BUILD_RELEASE, &release);
	}
	{
		char path[4096];

		snprintf(path, sizeof(path), "%s/out/%s", s.scratch, OUT_BASE);
		(void)unlink(path);
		snprintf(path, sizeof(path), "%s/out", s.scratch);
		(void)rmdir(path);
	}
	(void)chan_send_record(BUILD_FD, BUILD_BYE, 0, &build_bye_layout, &bye, NULL, 0);
	return 0;
}

/* ---- the core ---- */

struct world {
	char dir[64];
	struct core core;
	struct runs *runs;
	struct build_run *run;
	struct arena arena;
	struct drv drv;
	struct drv_opts opts;
	size_t logs, logs_in_round, most_in_round;
	bool started, over, cancel_at_start, reopen_at_start;
	uint64_t status, log_size;
	pid_t builder;
	char *error;
	char log_text[64];
};

static void stop(void *ctx)
{
	loop_quit(((struct world *)ctx)->core.loop);
}

static void rest(struct world *w)
{
	struct loop_timer *t;

	assert_int_equal(loop_timer(w->core.loop, REST_USEC, stop, w, &t), 0);
}

static void on_started(void *ctx)
{
	struct world *w = ctx;

	w->started = true;
	if (w->reopen_at_start)
		w->core.generation++;
	if (w->cancel_at_start) {
		build_run_cancel(w->run);
		rest(w);
	}
}

static void round_over(void *ctx)
{
	struct world *w = ctx;

	if (w->logs_in_round > w->most_in_round)
		w->most_in_round = w->logs_in_round;
	w->logs_in_round = 0;
}

static void on_log(void *ctx, uint64_t size)
{
	struct world *w = ctx;
	int fd = build_run_log_fd(w->run);

	w->logs++;
	if (w->logs_in_round++ == 0)
		assert_int_equal(loop_defer(w->core.loop, round_over, w), 0);
	w->log_size = size;
	assert_true(fd >= 0);
	assert_true(pread(fd, w->log_text, sizeof(w->log_text) - 1, 0) >= 0);
	assert_int_equal(write(fd, "x", 1), -1); /* a reader cannot write */
	close(fd);
}

static void on_note(void *ctx, uint64_t level, const char *text)
{
	(void)ctx;
	(void)level;
	(void)text;
}

static void on_ended(void *ctx, const struct build_outcome *o)
{
	struct world *w = ctx;

	assert_false(w->over);
	w->over = true;
	w->status = o->status;
	w->builder = (pid_t)o->host_uid; /* see say_running() */
	w->error = strdup(o->error);
	rest(w);
}

static const struct build_run_events events = { on_started, on_log, on_note, on_ended };

static char *below(const struct world *w, const char *name)
{
	char *path;

	assert_true(asprintf(&path, "%s/%s", w->dir, name) > 0);
	return path;
}

/* A valid path that no build was given as input. */
static void add_foreign(struct world *w)
{
	struct registration reg = { .info = { .nar_size = 1,
					      .registration_time = 1,
					      .deriver = (char *)"",
					      .ca = (char *)"" } };
	struct err e = {};

	assert_int_equal(store_path_parse_base(FOREIGN_BASE, &reg.info.path, NULL), 0);
	assert_int_equal(db_begin(w->core.db), 0);
	assert_int_equal(db_register_many(w->core.db, &reg, 1, &e), 0);
	assert_int_equal(db_commit(w->core.db), 0);
}

static void open_world(struct world *w)
{
	_cleanup_free_ char *link = NULL, *session = NULL;
	char self[4096];
	struct err e = {};
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	memset(w, 0, sizeof(*w));
	snprintf(w->dir, sizeof(w->dir), "/tmp/airplant-test-run-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	assert_true(n > 0);
	self[n] = 0;
	link = below(w, "airplant-build");
	session = below(w, "airplant-session"); /* looked at when the store is opened */
	assert_int_equal(symlink(self, link), 0);
	assert_int_equal(symlink(self, session), 0);
	settings_init(&w->core.settings);
	w->core.settings.ids = IDS_USE_SINGLE;
	w->core.store_dir = below(w, "store");
	w->core.state_dir = below(w, "state");
	w->core.log_dir = below(w, "log");
	w->core.conf_dir = below(w, "conf");
	w->core.libexec_dir = below(w, "");
	w->core.uid = getuid();
	w->core.gid = getgid();
	w->core.store_fd = -1;
	w->core.loop = loop_new();
	w->core.keyring = keyring_new();
	if (store_open(&w->core, &e) != 0)
		fail_msg("%s", err_msg(&e));
	add_foreign(w);
	w->core.place = place_new(&w->core);
	w->runs = runs_new(&w->core);
	assert_non_null(w->runs);
	w->arena = ARENA_INIT(16 << 20);
	w->opts.allow_substitutes = true;
}

static void close_world(struct world *w)
{
	const char *name = strrchr(w->dir, '/') + 1;
	_cleanup_close_ int tmp = open("/tmp", O_RDONLY | O_DIRECTORY);

	runs_free(w->runs);
	place_free(w->core.place);
	store_close(&w->core, false);
	keyring_free(w->core.keyring);
	loop_free(w->core.loop);
	settings_done(&w->core.settings);
	free(w->core.store_dir);
	free(w->core.state_dir);
	free(w->core.log_dir);
	free(w->core.conf_dir);
	free(w->core.libexec_dir);
	free(w->error);
	arena_done(&w->arena);
	(void)rm_tree_at(tmp, name);
}

static void too_long(void *ctx)
{
	(void)ctx;
	fail_msg("the build did not end");
}

static void run_part(struct world *w, const char *part)
{
	struct build_job job = { .drv_base = DRV_BASE,
				 .drv = &w->drv,
				 .opts = &w->opts,
				 .settings = &w->core.settings };
	struct loop_timer *limit;
	struct err e = {};

	w->drv.name = (char *)part;
	w->drv.platform = w->core.settings.system;
	w->drv.builder = (char *)"/bin/sh";
	w->drv.outputs.n = 1;
	w->drv.outputs.v = arena_array(&w->arena, 1, sizeof(*w->drv.outputs.v));
	w->drv.outputs.v[0] =
		(struct drv_output){ .name = (char *)"out",
				     .algo = (char *)"",
				     .path = arena_printf(&w->arena, "%s/%s", w->core.store_dir,
							  OUT_BASE) };
	assert_int_equal(build_run_start(w->runs, &job, &events, w, &w->run, &e), 0);
	assert_false(w->over);
	assert_int_equal(loop_timer(w->core.loop, LIMIT_USEC, too_long, w, &limit), 0);
	assert_int_equal(loop_run(w->core.loop), 0);
	loop_timer_cancel(limit);
}

static bool is_valid(struct world *w)
{
	struct store_path p;

	assert_int_equal(store_path_parse_base(OUT_BASE, &p, NULL), 0);
	return db_path_valid(w->core.db, &p) == 0;
}

static size_t scratches_left(struct world *w)
{
	_cleanup_free_ char *path = below(w, "state/airplant/spool");
	struct stat st;

	/* Each directory is a link of its parent; "trash" and "lost" are always there. */
	assert_int_equal(stat(path, &st), 0);
	return st.st_nlink - 4;
}

static void a_good_build_is_registered(void **state)
{
	_cleanup_free_ char *log = NULL;
	struct stat st;
	struct world w;

	(void)state;
	open_world(&w);
	run_part(&w, "good");
	assert_true(w.started);
	assert_int_equal(w.status, BUILT);
	assert_string_equal(w.error, "");
	assert_int_equal(w.log_size, 6);
	assert_string_equal(w.log_text, "hello\n");
	assert_true(is_valid(&w));
	log = below(&w, "log/drvs/00/000000000000000000000000000002-made.drv.bz2");
	assert_int_equal(stat(log, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_int_equal(st.st_size, 6);
	assert_int_equal(scratches_left(&w), 0);
	close_world(&w);
}

static void a_failure_is_passed_on(void **state)
{
	struct world w;

	(void)state;
	open_world(&w);
	run_part(&w, "fail");
	assert_int_equal(w.status, PERMANENT_FAILURE);
	assert_string_equal(w.error, "it failed");
	assert_false(is_valid(&w));
	assert_int_equal(scratches_left(&w), 0);
	close_world(&w);
}

static void lies_and_noise_register_nothing(void **state)
{
	static const char *const parts[] = { "liar-reference", "liar-name", "liar-count",
					     "liar-empty",     "mute",	    "crash",
					     "babble",	       "garbage",   "raw",
					     "no-pidfd",       "wrong-fd" };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(parts); i++) {
		struct world w;

		open_world(&w);
		run_part(&w, parts[i]);
		assert_true(w.over);
		assert_int_equal(w.status, MISC_FAILURE);
		assert_true(w.error[0]);
		assert_false(is_valid(&w));
		close_world(&w);
	}
}

static bool is_alive(pid_t pid)
{
	_cleanup_free_ char *path = NULL, *text = NULL;

	if (asprintf(&path, "/proc/%d/stat", pid) < 0 ||
	    read_file_at(AT_FDCWD, path, 4096, &text, NULL) < 0)
		return false;
	return !strstr(text, ") Z ") && !strstr(text, ") X ");
}

/* Whether the supervisor ends well, badly, or is killed: no builder outlives it. */
static void no_builder_outlives_its_supervisor(void **state)
{
	static const char *const parts[] = { "good", "crash", "garbage" };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(parts); i++) {
		struct world w;

		open_world(&w);
		run_part(&w, parts[i]);
		assert_true(w.builder > 1);
		assert_false(is_alive(w.builder));
		close_world(&w);
	}
}

/* A supervisor that is killed between the clone and the announcement of its builder leaves a child
 * that holds the channel: the scratch is not touched, and the ids are not free, before that has
 * ended. */
static void a_child_that_was_not_announced_is_waited_for(void **state)
{
	struct world w;

	(void)state;
	open_world(&w);
	run_part(&w, "half-born");
	assert_true(w.over);
	assert_false(w.started);
	assert_int_equal(scratches_left(&w), 1);
	for (int i = 0; i < 10 && scratches_left(&w); i++) {
		rest(&w);
		assert_int_equal(loop_run(w.core.loop), 0);
	}
	assert_int_equal(scratches_left(&w), 0);
	close_world(&w);
}

/* Others have their turn between the messages of a supervisor that never stops talking. */
static void a_flood_of_messages_is_read_in_portions(void **state)
{
	struct world w;

	(void)state;
	open_world(&w);
	run_part(&w, "flood");
	assert_int_equal(w.status, BUILT);
	assert_int_equal(w.logs, 2001);
	assert_in_range(w.most_in_round, 1, 64);
	close_world(&w);
}

/* The second answer comes when the first has been taken: it ends the supervisor, nothing else. */
static void only_the_first_answer_counts(void **state)
{
	struct world w;

	(void)state;
	open_world(&w);
	run_part(&w, "twice");
	assert_true(w.over);
	close_world(&w);
}

static void a_cancelled_build_is_silent_and_gone(void **state)
{
	struct world w;

	(void)state;
	open_world(&w);
	w.cancel_at_start = true;
	run_part(&w, "slow");
	assert_true(w.started);
	assert_false(w.over);
	assert_false(is_valid(&w));
	assert_int_equal(scratches_left(&w), 0);
	close_world(&w);
}

/* After the store was opened anew the name of an old scratch may be another build's. */
static void an_old_build_drops_nothing_of_a_new_store(void **state)
{
	struct world w;

	(void)state;
	open_world(&w);
	w.reopen_at_start = true;
	run_part(&w, "fail");
	assert_int_equal(w.status, PERMANENT_FAILURE);
	assert_int_equal(scratches_left(&w), 1);
	close_world(&w);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_good_build_is_registered),
		cmocka_unit_test(a_failure_is_passed_on),
		cmocka_unit_test(lies_and_noise_register_nothing),
		cmocka_unit_test(no_builder_outlives_its_supervisor),
		cmocka_unit_test(a_child_that_was_not_announced_is_waited_for),
		cmocka_unit_test(a_flood_of_messages_is_read_in_portions),
		cmocka_unit_test(only_the_first_answer_counts),
		cmocka_unit_test(an_old_build_drops_nothing_of_a_new_store),
		cmocka_unit_test(a_cancelled_build_is_silent_and_gone),
	};

	if (argc > 0 && !strcmp(argv[0], "airplant-build"))
		_exit(play()); /* what it did not free is no leak of the test */
	log_setup("test", LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
