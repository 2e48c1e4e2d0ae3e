/* airplant-session: speaks Nix's worker protocol with one client.
 *
 * Started by the core as root of a user namespace that maps nothing but its own id, inside a mount
 * namespace with the store and the database read-only and the spools read-write, without a network.
 * Before it hears of a client it gives up the rest: it keeps a detached mount of its own spool,
 * changes its root to the read-only view, drops every capability and installs its filter. It must
 * never meet a client in any other state; a step that fails ends it. Links statically. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "confine/confine.h"
#include "session/session.h"

static _noreturn_ void die(int r, const char *what)
{
	log_error("%s: %s", what, strerror(r < 0 ? -r : EPROTO));
	_exit(1);
}

/* A detached mount: ".." cannot leave it, and it outlives the change of root. */
static int open_spool(const char *name)
{
	char path[64];

	if (strchr(name, '/') || *name == '.' || !*name || strlen(name) > sizeof(path) - 8)
		return -EINVAL;
	(void)stpcpy(stpcpy(path, "/spool/"), name);
	int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void enter_view(struct session *s, const char *spool)
{
	s->spool = open_spool(spool);
	if (s->spool < 0)
		die(s->spool, "cannot open the spool");
	if (chroot("/view") < 0 || chdir("/") < 0)
		die(-errno, "cannot enter /view");
	s->store = open("/store", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->store < 0)
		die(-errno, "cannot open /store");
	s->db_dir = "/db";
}

/* Sealed means: nothing regained by exec, a filter in place, nobody may read this memory. */
static void seal(void)
{
	_cleanup_err_ struct err e = {};

	int r = confine_seal(CONFINE_SESSION, &e);
	if (r < 0) {
		log_error("cannot seal the session: %s", err_msg(&e));
		_exit(1);
	}
	/* Nothing but the view may be in reach by a path. */
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 2 ||
	    prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0 || access("/../spool", F_OK) == 0 ||
	    access("/../view", F_OK) == 0)
		die(-EPERM, "the session is not sealed");
}

static void wait_for_client(struct session *s)
{
	_cleanup_msg_ struct msg m = MSG_INIT;

	int r = chan_recv(s->core, SESSION_MSG_MAX, &m);
	if (r == CHAN_EOF)
		_exit(0); /* a spare that was never needed */
	if (r)
		die(r, "cannot hear from the core");
	if (m.type != SESSION_CLIENT || m.n_fds < 1 || m.n_fds > 2 ||
	    msg_decode(&m, &session_client_layout, &s->client_arena, &s->client))
		die(-EBADMSG, "the core's first message");
	s->fd_in = TAKE_FD(m.fds[0]);
	s->fd_out = m.n_fds > 1 ? TAKE_FD(m.fds[1]) : s->fd_in;
}

int main(int argc, char **argv)
{
	static struct session s;

	log_setup("airplant-session", LOG_LEVEL_INFO);
	if (argc != 2)
		die(-EINVAL, "started without its spool's name");
	(void)signal(SIGPIPE, SIG_IGN);
	(void)umask(0); /* modes of spooled files are exact */
	session_init(&s);
	s.core = SESSION_FD;
	if (fcntl(SESSION_FD, F_SETFD, FD_CLOEXEC) < 0)
		die(-errno, "no channel to the core");
	enter_view(&s, argv[1]);
	seal();
	wait_for_client(&s);
	int r = session_run(&s);
	session_done(&s);
	return r < 0 ? 1 : 0;
}
