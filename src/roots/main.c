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
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "confine/confine.h"
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

/* From the service manager: fd 3 our own socket, fd 4 upstream's, if that one is wanted; every
 * other fd is closed. */
static int inherit(struct service *s)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	int n = pid && fds && atoi(pid) == getpid() ? atoi(fds) : 0, type;
	socklen_t len = sizeof(type);

	n = n < 0 || n > N_SOCKETS ? 0 : n;
	for (int i = 0; i < n; i++) {
		if (getsockopt(3 + i, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM)
			return -EINVAL;
		(void)fcntl(3 + i, F_SETFD, FD_CLOEXEC);
		(void)fcntl(3 + i, F_SETFL, O_NONBLOCK);
		s->listener[i] = 3 + i;
	}
	return close_range(3 + (unsigned int)n, ~0U, 0) < 0 ? -errno : 0;
}

static int find_user(const char *name, uid_t *ret, struct err *e)
{
	char *end;
	unsigned long v = strtoul(name, &end, 10);
	const struct passwd *pw = *end ? getpwnam(name) : NULL;

	if (*end && !pw)
		return err_set(e, -ENOENT, "there is no user '%s'", name);
	*ret = pw ? pw->pw_uid : (uid_t)v;
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
		r = find_user(s->user[i], &s->peer[i], e);
	if (r == 0 && (getuid() == 0 || getgid() == 0 || geteuid() != getuid()))
		return err_set(e, -EPERM,
			       "airplant-roots must not run as root: give it a user of its own");
	if (r == 0 && s->peer[OWN] == getuid())
		return err_set(
			e, -EPERM,
			"airplant-roots needs a user apart from the daemon's (or --own-user)");
	return r;
}

/* Made under another name first: where the socket is, somebody listens. The mode lets all in; who
 * may stay is decided at accept. */
static int listen_at(const char *path, struct err *e)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (snprintf(sa.sun_path, sizeof(sa.sun_path), "%s.new", path) >= (int)sizeof(sa.sun_path))
		return err_set(e, -ENAMETOOLONG, "the socket path '%s' is too long", path);
	(void)unlink(sa.sun_path); /* bind says what is wrong otherwise */
	umask(0111);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 16) < 0 ||
	    rename(sa.sun_path, path) < 0)
		return err_errno(e, -errno, "cannot listen on '%s'", path);
	umask(0077);
	return TAKE_FD(fd);
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
	int r = inherit(s);

	if (r < 0)
		return err_errno(e, r, "cannot take over the sockets");
	(void)signal(SIGPIPE, SIG_IGN); /* a client that leaves is an error of write */
	if (clearenv() != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_set(e, -ENOMEM, "cannot shed what was inherited");
	r = parse_options(s, argc, argv, e);
	if (r == 0)
		r = check_identity(s, e);
	for (int i = 0; r == 0 && i < N_SOCKETS; i++) {
		if (s->socket[i])
			s->listener[i] = r = listen_at(s->socket[i], e);
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
	static bool told; /* once: anybody may connect, and must not be able to fill the log */
	const struct timeval limit = { .tv_sec = SEND_TIMEOUT_SEC };
	_cleanup_close_ int fd = accept4(s->listener[which], NULL, NULL, SOCK_CLOEXEC);
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int r;

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
	    cred.uid != s->peer[which] ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0) {
		if (!told)
			log_warn("a user that is not the daemon's connected; refused");
		told = true;
		return;
	}
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
