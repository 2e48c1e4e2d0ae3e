/* airplant-build: supervises one build and exits. Started by the core as the daemon's user with no
 * capability; the boundary is ipc/build.h on fd 3.
 *
 * It is root of one build's user namespace and of nothing else. It never opens a path outside of
 * what BUILD_START names, and once the builder runs it has no such path left. Every way out deletes
 * the scratch; when the process is killed, the core ends its builder, which it has a pidfd of. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "build/logfile.h"
#include "build/network.h"
#include "build/supervisor.h"
#include "confine/confine.h"

enum { ARENA_MAX = 768 << 20 };

static int receive_start(struct build *b)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	int r = chan_recv(b->chan, BUILD_MSG_MAX, &m);
	size_t n = 1;

	if (r == CHAN_EOF)
		return r;
	if (r != 0 || m.type != BUILD_START ||
	    msg_decode(&m, &build_start_layout, &b->arena, &b->s) ||
	    m.n_fds != 1 + (b->s.compress_log ? 1U : 0) + (b->s.recursive ? 2U : 0) +
			       (b->s.cgroup ? 1U : 0)) {
		log_error("the first message was not a build");
		return -EPROTO;
	}
	b->log_fd = TAKE_FD(m.fds[0]);
	if (b->s.compress_log)
		b->zlog_fd = TAKE_FD(m.fds[n++]);
	if (b->s.recursive) {
		b->socket = TAKE_FD(m.fds[n]);
		b->show_chan = TAKE_FD(m.fds[n + 1]);
	}
	if (b->s.cgroup) {
		b->cgroup = fcntl(m.fds[m.n_fds - 1], F_DUPFD_CLOEXEC, CONFINE_CGROUP_FD);
		if (b->cgroup != CONFINE_CGROUP_FD) { /* the seal knows it by this number */
			log_error("fd %d is taken", CONFINE_CGROUP_FD);
			return -EMFILE;
		}
	}
	b->top = open(b->s.scratch, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (b->top < 0) {
		log_error("opening '%s': %s", b->s.scratch, strerror(errno));
		return -errno;
	}
	b->log = logfile_new(b->log_fd, b->s.compress_log ? b->zlog_fd : -1, b->s.log_lines);
	return b->log ? 0 : -ENOMEM;
}

/* The core keeps <scratch>/keep if it is there. Builtins have nothing that is worth a look, and
 * may have credentials one day. */
static void keep(struct build *b)
{
	bool builtin = !strncmp(b->s.builder, "builtin:", 8);
	int r = builtin ? 0 : keep_build_dir(b);

	if (r < 0)
		log_warn("the build directory in '%s' could not be kept: %s", b->s.scratch,
			 strerror(-r));
	if (r < 0 || builtin)
		(void)rm_tree_at(b->top, "keep"); /* tried again, and reported, at the end */
}

/* Up to the builder's end. Fills `end`; BUILD_CANCELLED when there is nobody to tell. */
static int run(struct build *b, struct build_end *end, struct err *e)
{
	int r = ns_outer(b, e);

	if (r != 0)
		return r;
	r = ns_terminal(b, e);
	if (r == 0 && b->s.sandbox == SANDBOX_ON && !b->warm)
		r = net_start(b, e);
	b->shares = root_shares(b);
	if (r == 0)
		r = child_start(b, e);
	if (r < 0)
		return r;
	r = show_start(b, e);
	if (r == 0)
		r = ns_retreat(b, e);
	if (r == 0)
		r = confine_seal(CONFINE_SUPERVISOR, e);
	if (r < 0) {
		child_end(b); /* it must be dead before the scratch is deleted */
		return r;
	}
	/* From here on only watch_send() and watch_release() wait for the core. */
	(void)fcntl(b->chan, F_SETFL, O_NONBLOCK);
	watch_run(b, end);
	show_end(b);
	if (end->status == BUILT && !b->cancelled)
		outputs_collect(b, end);
	/* Whether a check has failed, the core finds out. */
	if ((end->status != BUILT || b->s.check) && b->s.keep_failed && !b->cancelled)
		keep(b);
	return 0;
}

/* Names below the scratch, all of them made by us or by the build; the scratch itself is the
 * core's. */
static int clean(struct build *b)
{
	static const char *const names[] = {
		"build", "store", "tmp", "root", "out", "work", "keep"
	};
	int first = 0;

	first = cgroup_empty(b);
	/* While a directory is mounted on somewhere, deleting it takes the kernel much longer. */
	close_fdp(&b->mounts_fd);
	for (size_t i = 0; b->top >= 0 && i < ELEMENTS(names); i++) {
		int r = rm_tree_at(b->top, names[i]);

		if (r < 0 && !first)
			first = r;
	}
	return first;
}

static void say_bye(struct build *b)
{
	_cleanup_err_ struct err e = { 0 };
	int r = clean(b);
	struct build_bye bye = { .clean = r == 0 };

	if (r < 0)
		err_errno(&e, r, "deleting the scratch '%s'", b->s.scratch);
	bye.error = r < 0 ? e.msg : NULL;
	(void)watch_send(b, BUILD_BYE, &build_bye_layout, &bye); /* the core may be gone */
}

int main(int argc, char **argv)
{
	struct build b = {
		.arena = ARENA_INIT(ARENA_MAX),
		.chan = BUILD_FD,
		.log_fd = -1,
		.zlog_fd = -1,
		.cgroup = -1,
		.lease_fd = -1,
		.master = -1,
		.slave = -1,
		.status_fd = -1,
		.pidfd = -1,
		.top = -1,
		.mounts_fd = -1,
		.pts_fd = -1,
		.net_pidfd = -1,
		.net_out = -1,
		.socket = -1,
		.show_chan = -1,
		.show_pipe = -1,
	};
	struct build_end end = { 0 };
	struct err e = { 0 };
	int r;

	log_setup("airplant-build", LOG_LEVEL_WARN);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGIO, SIG_IGN); /* somebody wants a file on which we have a lease */
	(void)fcntl(BUILD_FD, F_SETFD, FD_CLOEXEC);
	umask(077);
	if (argc == 3 && !strcmp(argv[1], BUILD_CLEAN))
		return clean_main(argv[2]);
	if (argc == 2 && !strcmp(argv[1], BUILD_HOOK))
		return hook_main();
	if (argc > 1 && !strcmp(argv[1], BUILD_WARM))
		ns_warm(&b);
	r = receive_start(&b);
	if (r != 0)
		return r == CHAN_EOF ? 0 : 1;
	r = run(&b, &end, &e);
	if (r < 0) {
		end.status = MISC_FAILURE;
		end.error = e.msg;
	}
	if (r != BUILD_CANCELLED && !b.cancelled) {
		if (watch_send(&b, BUILD_END, &build_end_layout, &end) == 0)
			watch_release(&b);
	}
	net_end(&b);
	show_end(&b);
	say_bye(&b);
	return 0; /* memory and descriptors go with the process */
}
