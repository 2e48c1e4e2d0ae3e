/* The core's side of a lease (src/core/lease.c) against brokers that misbehave. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/core.h"
#include "core/lease.h"
#include "core/loop.h"
#include "ipc/ids.h"

static char dir[] = "/tmp/airplant-lease-XXXXXX", path[64];

/* The answer to one call, which comes from the loop or at once. */
struct answer {
	struct loop *loop;
	bool done;
	int r, fd;
	struct build_ids ids;
	struct err *e;
};

static void on_done(void *ctx, int r, const struct build_ids *ids, int fd, const struct err *e)
{
	struct answer *a = ctx;

	a->done = true;
	a->r = r;
	a->fd = fd;
	a->ids = *ids;
	if (r < 0)
		(void)err_set(a->e, r, "%s", err_msg(e));
	loop_quit(a->loop);
}

static const struct lease_events events = { on_done, NULL };

/* Loops until the call is over. */
static int finish(struct core *core, struct answer *a, struct build_ids *ids, int *fd)
{
	if (!a->done)
		assert_int_equal(loop_run(core->loop), 0);
	assert_true(a->done);
	*ids = a->ids;
	*fd = a->fd;
	return a->r;
}

static int map_ids(struct core *core, struct lease *l, enum lease_kind kind, int pidfd, pid_t pid,
		   struct build_ids *ids, int *fd, struct err *e)
{
	struct answer a = { .loop = core->loop, .e = e };
	struct lease_call *call = NULL;
	int r;

	lease_map(l, kind, pidfd, pid, &events, &a, &call);
	r = finish(core, &a, ids, fd);
	assert_null(call);
	return r;
}

static int map_clean(struct core *core, struct lease *l, int lease_fd, int pidfd, pid_t pid,
		     struct build_ids *ids, int *fd, struct err *e)
{
	struct answer a = { .loop = core->loop, .e = e };
	struct lease_call *call = NULL;

	lease_clean(l, lease_fd, pidfd, pid, &events, &a, &call);
	return finish(core, &a, ids, fd);
}

static int give_back(struct core *core, struct lease *l, int lease_fd, struct err *e)
{
	struct answer a = { .loop = core->loop, .e = e };
	struct build_ids none;
	int fd;

	lease_return(l, lease_fd, &events, &a);
	return finish(core, &a, &none, &fd);
}

struct fake {
	const char *what;
	struct ids_reply reply;
	size_t len; /* bytes of the reply that are sent; 0: hang up */
	bool with_fd;
	bool hang_up_first; /* the first connection ends without an answer */
	int want;
	const char *sentence;
};

static void serve_one(int conn, const struct fake *f)
{
	char request[64];
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct iovec iov = { (void *)&f->reply, f->len };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (recv(conn, request, sizeof(request), 0) != sizeof(struct ids_request) || f->len == 0)
		return;
	if (f->with_fd) {
		mh.msg_control = &control;
		mh.msg_controllen = sizeof(control);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.align), &fd, sizeof(int));
	}
	(void)sendmsg(conn, &mh, 0);
	(void)recv(conn, request, 1, 0); /* until the other side is done */
}

static pid_t start_fake(const struct fake *f)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	pid_t pid;

	unlink(path);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 4), 0);
	pid = fork();
	if (pid == 0) {
		bool first = f->hang_up_first;

		for (;;) {
			int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

			if (!first)
				serve_one(conn, f);
			first = false;
			close(conn);
		}
	}
	close(fd);
	return pid;
}

static const struct fake fakes[] = {
	{ "ok", { 1, IDS_OK, 1000000, 1, "" }, sizeof(struct ids_reply), true, false, 0, NULL },
	{ "restarted",
	  { 1, IDS_OK, 1000000, 1, "" },
	  sizeof(struct ids_reply),
	  true,
	  true,
	  0,
	  NULL },
	{ "busy",
	  { 1, IDS_BUSY, 0, 0, "" },
	  sizeof(struct ids_reply),
	  false,
	  false,
	  LEASE_BUSY,
	  NULL },
	{ "refused",
	  { 1, IDS_REFUSED, 0, 0, "because" },
	  sizeof(struct ids_reply),
	  false,
	  false,
	  -EPERM,
	  "because" },
	{ "ok without a lease",
	  { 1, IDS_OK, 1000000, 1, "" },
	  sizeof(struct ids_reply),
	  false,
	  false,
	  -EBADMSG,
	  "id broker" },
	{ "busy with a lease",
	  { 1, IDS_BUSY, 0, 0, "" },
	  sizeof(struct ids_reply),
	  true,
	  false,
	  -EBADMSG,
	  "id broker" },
	{ "version",
	  { 2, IDS_OK, 1000000, 1, "" },
	  sizeof(struct ids_reply),
	  true,
	  false,
	  -EBADMSG,
	  "id broker" },
	{ "short", { 1, IDS_OK, 1000000, 1, "" }, 20, true, false, -EBADMSG, "id broker" },
	{ "hangs up", { 0 }, 0, false, false, -ECONNRESET, "id broker" },
};

static void test_fakes(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTS(fakes); i++) {
		const struct fake *f = &fakes[i];
		pid_t pid = start_fake(f);
		struct core core = { .loop = loop_new(),
				     .settings = { .ids = IDS_USE_BROKER, .ids_socket = path } };
		_cleanup_err_ struct err e = { 0 };
		struct build_ids ids = { 0 };
		struct lease *l = NULL;
		int fd = -1, r;

		assert_int_equal(lease_setup(&core, &l, &e), 0);
		assert_int_equal(lease_mode(l), IDS_BROKER);
		r = map_ids(&core, l, LEASE_PLAIN, STDIN_FILENO, getpid(), &ids, &fd, &e);
		if (r != f->want)
			fail_msg("%s: got %d (%s), want %d", f->what, r, err_msg(&e), f->want);
		if (f->sentence)
			assert_non_null(strstr(err_msg(&e), f->sentence));
		if (r == 0) {
			assert_true(fd >= 0 && (fcntl(fd, F_GETFD) & FD_CLOEXEC));
			assert_int_equal(ids.host_base, 1000000);
			assert_int_equal(ids.count, 1);
		} else {
			assert_int_equal(fd, -1);
		}
		close_fdp(&fd);
		lease_free(l);
		loop_free(core.loop);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static int n_late;

static void on_late(void *ctx, const char *whom)
{
	struct answer *a = ctx;

	assert_non_null(strstr(whom, path));
	n_late++;
	loop_quit(a->loop);
}

/* One that takes requests and does not answer: whoever waits is told so, what was not sent can be
 * taken back, and nothing of it needs the broker to end. */
static void test_hung_broker(void **state)
{
	static const struct lease_events patient = { on_done, on_late };
	struct core core = { .loop = loop_new(),
			     .settings = { .ids = IDS_USE_BROKER, .ids_socket = path } };
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	_cleanup_close_ int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	_cleanup_err_ struct err e = { 0 };
	struct answer a = { .loop = core.loop, .e = &e }, b = a;
	struct lease_call *first = NULL, *second = NULL;
	struct lease *l = NULL;

	(void)state;
	unlink(path);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(s, 4), 0);
	assert_int_equal(lease_setup(&core, &l, &e), 0);
	lease_map(l, LEASE_PLAIN, STDIN_FILENO, getpid(), &patient, &a, &first);
	lease_map(l, LEASE_PLAIN, STDIN_FILENO, getpid(), &patient, &b, &second);
	assert_non_null(first);
	assert_non_null(second);
	assert_false(lease_cancel(first));
	assert_true(lease_cancel(second));
	assert_null(second);
	assert_int_equal(loop_run(core.loop), 0);
	assert_int_equal(n_late, 1);
	assert_false(a.done || b.done);
	lease_free(l);
	loop_free(core.loop);
}

/* Told to use the broker and nobody there: never another mode, and a sentence per build. */
static void test_no_broker(void **state)
{
	struct core core = { .loop = loop_new(),
			     .settings = { .ids = IDS_USE_BROKER, .ids_socket = path } };
	_cleanup_err_ struct err e = { 0 };
	struct build_ids ids;
	struct lease *l = NULL;
	int fd = -1;

	(void)state;
	unlink(path);
	assert_int_equal(lease_setup(&core, &l, &e), 0);
	assert_int_equal(lease_mode(l), IDS_BROKER);
	assert_int_equal(map_ids(&core, l, LEASE_PLAIN, 0, getpid(), &ids, &fd, &e), -ENOENT);
	assert_non_null(strstr(err_msg(&e), path));
	lease_free(l);
	loop_free(core.loop);
}

/* A broker that is not up yet is waited for: "auto" never means less because of the moment. */
static void test_auto(void **state)
{
	struct core core = { .loop = loop_new(),
			     .settings = { .ids = IDS_AUTO, .ids_socket = path },
			     .state_dir = "/proc/nonexistent" };
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	_cleanup_close_ int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	_cleanup_err_ struct err e = { 0 };
	enum build_ids_mode mode;
	struct lease *l = NULL;

	(void)state;
	unlink(path);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(lease_setup(&core, &l, &e), 0);
	assert_int_equal(lease_mode(l), IDS_BROKER);
	lease_free(l);
	/* What the daemon was sealed for is what it does. */
	unlink(path);
	assert_int_equal(lease_probe(&core, &mode, &e), 0);
	assert_int_equal(mode, IDS_SINGLE); /* no state directory, no subid */
	assert_int_equal(bind(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0),
			      (struct sockaddr *)&sa, sizeof(sa)),
			 0);
	assert_int_equal(lease_setup(&core, &l, &e), 0);
	assert_int_equal(lease_mode(l), IDS_SINGLE);
	lease_free(l);
	loop_free(core.loop);
	unlink(path);
}

static void test_single(void **state)
{
	struct core core = { .loop = loop_new(),
			     .settings = { .ids = IDS_USE_SINGLE },
			     .uid = 4711 };
	_cleanup_err_ struct err e = { 0 };
	struct build_ids ids;
	struct lease *l = NULL;
	int fd = 7;

	(void)state;
	assert_int_equal(lease_setup(&core, &l, &e), 0);
	assert_int_equal(map_ids(&core, l, LEASE_PLAIN, -1, 0, &ids, &fd, &e), 0);
	assert_int_equal(ids.mode, IDS_SINGLE);
	assert_int_equal(ids.host_base, 4711);
	assert_int_equal(fd, -1);
	assert_int_equal(map_ids(&core, l, LEASE_RANGE, -1, 0, &ids, &fd, &e), -EOPNOTSUPP);
	assert_non_null(strstr(err_msg(&e), "/etc/subuid"));
	assert_int_equal(map_clean(&core, l, -1, -1, 0, &ids, &fd, &e), LEASE_NONE);
	assert_int_equal(give_back(&core, l, -1, &e), 0);
	lease_free(l);
	loop_free(core.loop);
}

/* A range where the grant is large enough, with setgroups; else the sentence says what to write. */
static void map_range(struct core *core, struct lease *l)
{
	_cleanup_err_ struct err e = { 0 };
	_cleanup_free_ char *text = NULL;
	struct build_ids ids = { 0 };
	int fd = -1, ready[2], r;
	char c, proc[64];
	pid_t pid;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		(void)!write(ready[1], unshare(CLONE_NEWUSER) == 0 ? "x" : "!", 1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	r = map_ids(core, l, LEASE_RANGE4, -1, pid, &ids, &fd, &e);
	if (r == 0) {
		assert_int_equal(ids.count, 262144);
		snprintf(proc, sizeof(proc), "/proc/%d/setgroups", pid);
		assert_int_equal(read_file_at(AT_FDCWD, proc, 64, &text, NULL), 0);
		assert_string_equal(text, "allow\n");
		assert_int_equal(give_back(core, l, fd, &e), 0);
	} else {
		assert_int_equal(r, -EOPNOTSUPP);
		assert_non_null(strstr(err_msg(&e), "for example with the line"));
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* newuidmap for real, where this user has a grant. */
static void test_subid(void **state)
{
	struct core core = { .loop = loop_new(),
			     .settings = { .ids = IDS_USE_SUBID },
			     .state_dir = dir,
			     .uid = getuid(),
			     .gid = getgid() };
	_cleanup_err_ struct err e = { 0 };
	struct build_ids a = { 0 }, b = { 0 };
	struct lease *l = NULL;
	int fd[2] = { -1, -1 }, ready[2];
	pid_t pid[2];
	char proc[64], want[64], c;
	_cleanup_free_ char *map = NULL;
	unsigned int first[3];

	(void)state;
	if (lease_setup(&core, &l, &e) < 0) {
		print_message("skipped: %s\n", err_msg(&e));
		err_done(&e); /* skip() jumps over the cleanup */
		loop_free(core.loop);
		skip();
	}
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	for (int i = 0; i < 2; i++) {
		pid[i] = fork();
		if (pid[i] == 0) {
			(void)!write(ready[1], unshare(CLONE_NEWUSER) == 0 ? "x" : "!", 1);
			pause();
			_exit(0);
		}
		assert_int_equal(read(ready[0], &c, 1), 1);
		assert_int_equal(c, 'x');
		if (map_ids(&core, l, LEASE_PLAIN, -1, pid[i], i ? &b : &a, &fd[i], &e) != 0)
			fail_msg("%s", err_msg(&e));
	}
	assert_int_not_equal(a.host_base, b.host_base);
	snprintf(proc, sizeof(proc), "/proc/%d/uid_map", pid[1]);
	assert_int_equal(read_file_at(AT_FDCWD, proc, 4096, &map, NULL), 0);
	assert_int_equal(sscanf(map, "%u %u %u", &first[0], &first[1], &first[2]), 3);
	assert_int_equal(first[1], b.host_base);
	snprintf(want, sizeof(want), "%10u %10u %10u\n", 1, getuid(), 1);
	assert_non_null(strstr(map, want));
	free(TAKE_PTR(map));
	snprintf(proc, sizeof(proc), "/proc/%d/setgroups", pid[1]);
	assert_int_equal(read_file_at(AT_FDCWD, proc, 4096, &map, NULL), 0);
	assert_string_equal(map, "allow\n");
	assert_int_equal(give_back(&core, l, fd[0], &e), 0);
	assert_int_equal(map_clean(&core, l, -1, -1, pid[0], &a, &ready[0], &e), LEASE_NONE);
	for (int i = 0; i < 2; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
		if (i > 0)
			close(fd[i]); /* the other was returned */
	}
	map_range(&core, l);
	lease_free(l);
	loop_free(core.loop);
}

static int group_setup(void **state)
{
	(void)state;
	log_setup("test", LOG_LEVEL_ERROR);
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/socket", dir);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	return rm_tree_at(AT_FDCWD, dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fakes), cmocka_unit_test(test_no_broker),
		cmocka_unit_test(test_auto),  cmocka_unit_test(test_single),
		cmocka_unit_test(test_subid), cmocka_unit_test(test_hung_broker),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
