/* The porter, and the core's word to it. See jail.h. Linked by airplantd.
 *
 * Sessions are the core's children (CLONE_PARENT) though the porter starts them: it is in the jail
 * already and has dropped what they must not have, so that a start does nothing twice, and the core
 * does not stand still for the length of an execve.
 *
 * The child shares the porter's memory until it execs (CLONE_VM, CLONE_VFORK), so it writes nothing
 * but its own stack and the one result, and calls nothing but plain system calls. */
#include "core/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "core/jail_session.h"
#include "ipc/chan.h"
#include "ipc/session.h"

/* Frames of a child that never returns would leave their marks on the stack it leaves behind. */
#define _on_borrowed_stack_ __attribute__((no_sanitize("address")))

enum { NAME_SIZE = 40, REPLY_MAX = 4096 };

/* One message each way. A request brings the session's channel, an answer the child's pidfd. */
struct request {
	char name[NAME_SIZE]; /* of the spool directory: "s-1" */
};
struct answer {
	int32_t pid, error; /* error: errno, with `failed` */
	char failed[64];
};

struct entrant {
	const char *spool;
	int chan_fd, view_fd;
	pid_t core;
	/* What went wrong: written by the child, read by the porter after it has stopped. */
	const char *volatile failed;
	volatile int error;
};

_on_borrowed_stack_ static int give_up(struct entrant *en, const char *what)
{
	en->failed = what;
	en->error = errno;
	return 1;
}

_on_borrowed_stack_ static int drop_all_caps(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = {};

	return (int)syscall(SYS_capset, &h, none);
}

_on_borrowed_stack_ static int enter(void *arg)
{
	struct entrant *en = arg;
	char *const argv[] = { (char *)"airplant-session", (char *)en->spool, NULL };
	static char *const envp[] = { NULL };

	if (chroot("/view") < 0 || chdir("/") < 0)
		return give_up(en, "entering the view");
	if (drop_all_caps() < 0)
		return give_up(en, "dropping capabilities");
	/* 2 stays the daemon's log. All of the porter's own fds close on exec. */
	if (dup2(PORTER_NULL, 0) < 0 || dup2(PORTER_NULL, 1) < 0)
		return give_up(en, "closing file descriptors");
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != en->core)
		return give_up(en, "binding its life to the daemon's");
	if (dup2(en->chan_fd, SESSION_FD) < 0 || dup2(en->view_fd, SESSION_SPOOL_FD) < 0)
		return give_up(en, "passing the channel");
	syscall(SYS_execveat, PORTER_PROGRAM, "", argv, envp, AT_EMPTY_PATH);
	return give_up(en, "executing the session program");
}

/* The view of a spool directory: a detached mount, which ".." cannot leave, and which outlives the
 * change of root. It goes with the session's last fd. */
static int view_of(const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/spool/%s", name);
	fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Returns the child's pidfd, or -1 with the answer's error set. */
static int start(const char *name, int chan_fd, pid_t core, struct answer *a)
{
	static _Alignas(64) char stack[JAIL_STACK];
	struct entrant en = { .spool = name, .chan_fd = chan_fd, .core = core };
	int pidfd = -1;
	pid_t pid = -1;

	en.view_fd = view_of(name);
	if (en.view_fd < 0) {
		errno = -en.view_fd;
		(void)give_up(&en, "opening its spool");
	} else {
		pid = clone(enter, stack + sizeof(stack),
			    CLONE_VM | CLONE_VFORK | CLONE_PARENT | CLONE_PIDFD | SIGCHLD, &en,
			    &pidfd);
		if (pid < 0)
			(void)give_up(&en, "creating its process");
	}
	a->pid = pid; /* also of one that failed: the core reaps it */
	a->error = en.failed ? en.error : 0;
	if (en.failed)
		snprintf(a->failed, sizeof(a->failed), "%s", en.failed);
	if (en.view_fd >= 0)
		close(en.view_fd);
	return pidfd;
}

_Noreturn void porter_serve(pid_t core)
{
	for (;;) {
		_cleanup_msg_ struct msg m = MSG_INIT;
		struct answer a = {};
		struct request q;
		int pidfd, r = chan_recv(PORTER_CHAN, REPLY_MAX, &m);

		if (r != 0 || m.len != sizeof(q) || m.n_fds != 1)
			_exit(r == CHAN_EOF ? 0 : 1);
		memcpy(&q, m.data, sizeof(q));
		q.name[sizeof(q.name) - 1] = 0;
		pidfd = start(q.name, m.fds[0], core, &a);
		r = chan_send(PORTER_CHAN, 0, m.id, &a, sizeof(a), &pidfd, pidfd >= 0 ? 1 : 0);
		close_fdp(&pidfd);
		if (r < 0)
			_exit(1);
	}
}

/* What the porter answers to the request just sent. */
static int hear_answer(struct jail *j, struct answer *ret, int *ret_pidfd, struct err *e)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	int r = chan_recv(j->chan, REPLY_MAX, &m);

	if (r != 0 || m.len != sizeof(*ret))
		return err_set(e, -EPIPE, "starting a session: the jail's porter has ended");
	memcpy(ret, m.data, sizeof(*ret));
	ret->failed[sizeof(ret->failed) - 1] = 0;
	*ret_pidfd = m.n_fds == 1 ? TAKE_FD(m.fds[0]) : -1;
	return 0;
}

int jail_spawn(struct jail *j, const char *spool_path, int chan_fd, pid_t *ret_pid, int *ret_pidfd,
	       struct err *e)
{
	const char *name = strrchr(spool_path, '/');
	_cleanup_close_ int pidfd = -1;
	struct request q = {};
	struct answer a;
	siginfo_t si;
	int r;

	if (!name || strlen(name + 1) >= sizeof(q.name))
		return err_set(e, -EINVAL, "'%s' is not a spool directory", spool_path);
	memcpy(q.name, name + 1, strlen(name + 1));
	r = chan_send(j->chan, 0, 0, &q, sizeof(q), &chan_fd, 1);
	if (r < 0)
		return err_set(e, -EPIPE, "starting a session: the jail's porter has ended");
	r = hear_answer(j, &a, &pidfd, e);
	if (r < 0)
		return r;
	if (a.error == 0 && pidfd >= 0) {
		*ret_pid = a.pid;
		*ret_pidfd = TAKE_FD(pidfd);
		return 0;
	}
	if (pidfd >= 0)
		(void)waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED);
	return err_errno(e, a.error ? -a.error : -EIO, "starting a session: %s", a.failed);
}
