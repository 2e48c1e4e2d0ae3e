/* airplant-roots, the tracer of roots: says which store paths links and processes hold.
 *
 *   airplant-roots --daemon-user NAME|UID (--socket PATH | socket activation) [--store DIR]
 *                  [--state DIR] [--upstream-socket PATH [--upstream-user NAME|UID]]
 *   airplant-roots --stdio [--own-user] [--store DIR] [--state DIR]
 *
 * --own-user    without capabilities: looks at processes of its own user alone
 * --skip-hidden goes without processes that the kernel hides in spite of CAP_SYS_PTRACE (another
 *               security module, an outer user namespace); else they make each answer incomplete
 *
 * It starts as a user of its own with CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE and nothing else, and
 * seals itself before the first answer. Each connection gets one answer (ipc/roots.h, or upstream's
 * on the other socket) and is closed; nothing is read from it. See tracer.h for what it must never
 * do. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/landlock.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "confine/confine.h"
#include "helper/helper.h"
#include "roots/tracer.h"

enum { OWN, UPSTREAM, N_SOCKETS, SEND_TIMEOUT_SEC = 60 };

struct service {
	struct tracer t;
	const char *socket[N_SOCKETS], *user[N_SOCKETS];
	int listener[N_SOCKETS];
	uid_t peer[N_SOCKETS];
	bool stdio;
};

static int parse_options(struct service *s, int argc, char **argv, struct err *e)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "daemon-user", required_argument, NULL, 'u' },
		{ "upstream-socket", required_argument, NULL, 'S' },
		{ "upstream-user", required_argument, NULL, 'U' },
		{ "store", required_argument, NULL, 'd' },
		{ "state", required_argument, NULL, 'v' },
		{ "stdio", no_argument, NULL, 'i' },
		{ "own-user", no_argument, NULL, 'o' },
		{ "skip-hidden", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 's' || c == 'S')
			s->socket[c == 's' ? OWN : UPSTREAM] = optarg;
		else if (c == 'u' || c == 'U')
			s->user[c == 'u' ? OWN : UPSTREAM] = optarg;
		else if (c == 'd')
			s->t.store = optarg;
		else if (c == 'v')
			s->t.state = optarg;
		else if (c == 'i')
			s->stdio = true;
		else if (c == 'o')
			s->t.own_user = true;
		else if (c == 'h')
			s->t.skip_hidden = true;
		else
			return err_set(e, -EINVAL, "unknown option");
	}
	if (optind != argc || s->t.store[0] != '/' || s->t.state[0] != '/' ||
	    s->stdio == !!s->user[OWN] || s->t.own_user > s->stdio ||
	    (s->stdio && (s->socket[OWN] || s->socket[UPSTREAM])) ||
	    (!s->stdio && !s->socket[OWN] == (s->listener[OWN] < 0)))
		return err_set(
			e, -EINVAL,
			"usage: airplant-roots (--stdio [--own-user] | --daemon-user NAME|UID "
			"--socket PATH [--upstream-socket PATH [--upstream-user NAME|UID]]) "
			"[--store DIR] [--state DIR] (no sockets under socket activation)");
	return 0;
}

static int check_identity(struct service *s, struct err *e)
{
	struct stat st;
	int r = 0;

	if (stat(s->t.store, &st) < 0)
		return err_errno(e, -errno, "cannot look at the store '%s'", s->t.store);
	s->t.store_uid = st.st_uid;
	if (s->stdio)
		return 0;
	if (!s->user[UPSTREAM])
		s->user[UPSTREAM] = s->user[OWN];
	for (int i = 0; r == 0 && i < N_SOCKETS; i++)
		r = helper_user(s->user[i], &s->peer[i], NULL, e);
	if (r == 0 && (getuid() == 0 || getgid() == 0 || geteuid() != getuid()))
		return err_set(e, -EPERM,
			       "airplant-roots must not run as root: give it a user of its own");
	if (r == 0 && s->peer[OWN] == getuid())
		return err_set(
			e, -EPERM,
			"airplant-roots needs a user apart from the daemon's (or --own-user)");
	return r;
}

/* Where the kernel has Landlock, the looker at links can open no file, and list no directory but in
 * the state directory: what is in homes stays unread even if it goes wrong. */
static int make_rules(struct tracer *t, struct err *e)
{
	const struct landlock_ruleset_attr attr = {
		.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1, /* all of version 1 */
	};
	struct landlock_path_beneath_attr beneath = {
		.allowed_access = LANDLOCK_ACCESS_FS_READ_DIR,
	};
	_cleanup_close_ int state = open(t->state, O_PATH | O_CLOEXEC);

	if (state < 0)
		return err_errno(e, -errno, "cannot look at '%s'", t->state);
	t->rules = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
	beneath.parent_fd = state;
	if (t->rules < 0)
		log_info("this kernel has no Landlock; the system call filter alone must hold");
	else if (syscall(SYS_landlock_add_rule, t->rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0))
		return err_errno(e, -errno, "cannot confine the reader of links to '%s'", t->state);
	return 0;
}

static int start(struct service *s, int argc, char **argv, struct err *e)
{
	/* Fd 3 is our own socket, fd 4 upstream's, if that one is wanted. */
	int r = helper_inherit(SOCK_STREAM, N_SOCKETS);

	if (r < 0)
		return err_errno(e, r, "cannot take over the sockets");
	for (int i = 0; i < r; i++)
		s->listener[i] = 3 + i;
	(void)signal(SIGPIPE, SIG_IGN); /* a client that leaves is an error of write */
	if (clearenv() != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_set(e, -ENOMEM, "cannot shed what was inherited");
	r = parse_options(s, argc, argv, e);
	if (r == 0)
		r = check_identity(s, e);
	for (int i = 0; r == 0 && i < N_SOCKETS; i++) {
		if (s->socket[i])
			s->listener[i] = r = helper_listen(s->socket[i], SOCK_STREAM, e);
		r = r < 0 ? r : 0;
	}
	if (r == 0)
		r = make_rules(&s->t, e);
	if (r < 0)
		return r;
	return confine_seal(s->t.own_user ? CONFINE_ROOTS_OWN : CONFINE_ROOTS, e);
}

static void on_connect(const struct service *s, int which)
{
	const struct timeval limit = { .tv_sec = SEND_TIMEOUT_SEC };
	_cleanup_close_ int fd = helper_accept(s->listener[which], s->peer[which], 0);
	int r;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return;
	r = serve(&s->t, fd, which == UPSTREAM);
	if (r < 0)
		log_warn("the daemon did not take the answer: %s", strerror(-r));
}

static int loop(const struct service *s)
{
	for (;;) {
		struct pollfd p[N_SOCKETS] = { { s->listener[OWN], POLLIN, 0 },
					       { s->listener[UPSTREAM], POLLIN, 0 } };

		if (poll(p, N_SOCKETS, -1) < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < N_SOCKETS; i++)
			if (p[i].revents)
				on_connect(s, i);
	}
}

int main(int argc, char **argv)
{
	static struct service s = {
		.t = {
			.store = "/nix/store",
			.state = "/nix/var/nix",
			.proc = "/proc",
			.process_msec = 5000,
			.account_usec = 20 * 1000 * 1000,
			.rules = -1,
		},
		.listener = { -1, -1 },
	};
	_cleanup_err_ struct err e = { 0 };

	log_setup("airplant-roots", LOG_LEVEL_INFO);
	if (start(&s, argc, argv, &e) < 0) {
		log_error("%s", err_msg(&e));
		return 1;
	}
	if (s.stdio)
		return serve(&s.t, STDOUT_FILENO, false) < 0;
	log_error("poll: %s", strerror(-loop(&s)));
	return 1;
}
