/* Entering the jail: from clone to exec. Linked by airplantd.
 *
 * The program starts with three capabilities of the jail's user namespace, which maps nothing but
 * the daemon's own id: with them it takes a detached view of its own spool directory, changes its
 * root to /view, empties its bounding set and seals itself, before it hears of a client
 * (src/session/main.c).
 *
 * The child shares the core's memory until it execs (CLONE_VM, CLONE_VFORK: the core stands still
 * meanwhile), so it writes nothing but its own stack and the one result, and calls nothing but
 * plain system calls. */
#include "core/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "core/jail_session.h"

/* Frames of a child that never returns would leave their marks on the stack it leaves behind. */
#define _on_borrowed_stack_ __attribute__((no_sanitize("address")))

struct entrant {
	const struct jail_entry *jail;
	const char *spool; /* "s-1" */
	int chan_fd;
	pid_t parent;
	/* What went wrong: written by the child, read by the core after it has stopped. */
	const char *volatile failed;
	volatile int error;
};

_on_borrowed_stack_ static int give_up(struct entrant *en, const char *what)
{
	en->failed = what;
	en->error = errno;
	return 1;
}

/* Ambient: they survive the exec of a program by somebody who is not root. */
_on_borrowed_stack_ static int keep_three_caps(void)
{
	static const unsigned long kept[] = { CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAP_SETPCAP };
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = {};

	for (size_t i = 0; i < ELEMENTS(kept); i++)
		d[0].inheritable |= 1U << kept[i];
	d[0].effective = d[0].permitted = d[0].inheritable;
	if (syscall(SYS_capset, &h, d) < 0)
		return -1;
	for (size_t i = 0; i < ELEMENTS(kept); i++)
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kept[i], 0, 0) < 0)
			return -1;
	return 0;
}

_on_borrowed_stack_ static int plain_signals(void)
{
	const struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;

	sigemptyset(&none);
	if (sigaction(SIGPIPE, &dfl, NULL) < 0)
		return -1;
	return sigprocmask(SIG_SETMASK, &none, NULL);
}

_on_borrowed_stack_ static int enter(void *arg)
{
	struct entrant *en = arg;
	char *const argv[] = { (char *)"airplant-session", (char *)en->spool, NULL };
	static char *const envp[] = { NULL };
	const struct rlimit no_core = { 0, 0 };

	for (size_t i = 0; i < JAIL_NS; i++)
		if (setns(en->jail->ns[i], 0) < 0)
			return give_up(en, "entering the jail's namespaces");
	if (chdir("/") < 0)
		return give_up(en, "entering the jail's root");
	if (keep_three_caps() < 0)
		return give_up(en, "dropping capabilities");
	if (setrlimit(RLIMIT_CORE, &no_core) < 0 || plain_signals() < 0)
		return give_up(en, "resetting limits and signals");
	if (en->chan_fd == 3 ? fcntl(3, F_SETFD, 0) < 0 : dup2(en->chan_fd, 3) < 0)
		return give_up(en, "passing the channel");
	/* 2 stays the daemon's log. The rest closes on exec, not now: the program is among it. */
	if (dup2(en->jail->null_fd, 0) < 0 || dup2(en->jail->null_fd, 1) < 0 ||
	    close_range(4, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		return give_up(en, "closing file descriptors");
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != en->parent)
		return give_up(en, "binding its life to the daemon's");
	syscall(SYS_execveat, en->jail->program, "", argv, envp, AT_EMPTY_PATH);
	return give_up(en, "executing the session program");
}

int jail_spawn(struct jail *j, const char *spool_path, int chan_fd, pid_t *ret_pid, int *ret_pidfd,
	       struct err *e)
{
	const char *name = strrchr(spool_path, '/');
	struct entrant en = { .jail = &j->entry,
			      .spool = name ? name + 1 : "",
			      .chan_fd = chan_fd,
			      .parent = getpid() };
	int pidfd = -1;
	pid_t pid;
	siginfo_t si;

	if (!name)
		return err_set(e, -EINVAL, "'%s' is not a spool directory", spool_path);
	pid = clone(enter, (char *)j->stack + JAIL_STACK,
		    CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &en, &pidfd);
	if (pid < 0)
		return err_errno(e, -errno, "starting a session");
	if (!en.failed) {
		*ret_pid = pid;
		*ret_pidfd = pidfd;
		return 0;
	}
	(void)waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED);
	close(pidfd);
	return err_errno(e, en.error ? -en.error : -EIO, "starting a session: %s", en.failed);
}
