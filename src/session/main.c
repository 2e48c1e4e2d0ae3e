/* airplant-session: speaks Nix's worker protocol with one client.
 *
 * Started by the core's porter inside a user namespace that maps nothing but the daemon's own id,
 * without a capability, without a network, its root a view of the store and the database, both
 * read-only; what it may write is a detached mount of its own spool, which it finds open. It
 * checks that and installs its filter before it hears of a client: it must never meet one in any
 * other state; a step that fails ends it. Links statically. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
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

static void take_what_was_given(struct session *s)
{
	s->core = SESSION_FD;
	s->spool = SESSION_SPOOL_FD;
	if (fcntl(s->core, F_SETFD, FD_CLOEXEC) < 0)
		die(-errno, "no channel to the core");
	if (fcntl(s->spool, F_SETFD, FD_CLOEXEC) < 0)
		die(-errno, "no spool");
	s->store = open("/store", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->store < 0)
		die(-errno, "cannot open /store");
	s->db_dir = "/db";
	for (int cap = 0, r; (r = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) >= 0; cap++)
		if (r != 0)
			die(-EPERM, "the bounding set is not empty");
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
	/* The daemon's log is not for what a client makes of this process: from here on /dev/null
	 * (fd 0) stands in its place. */
	if (close(STDERR_FILENO) < 0 ||
	    fcntl(STDIN_FILENO, F_DUPFD, STDERR_FILENO) != STDERR_FILENO)
		_exit(1);
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
	(void)argc;
	(void)argv; /* the spool's name, for who lists processes */
	(void)signal(SIGPIPE, SIG_IGN);
	(void)umask(0); /* modes of spooled files are exact */
	session_init(&s);
	take_what_was_given(&s);
	seal();
	wait_for_client(&s);
	int r = session_run(&s);
	session_done(&s);
	return r < 0 ? 1 : 0;
}
