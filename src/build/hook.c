/* airplant-build hook: runs one program of the administrator's (post-build-hook and its like) for
 * the core, and exits. What it prints goes into a file; the core hears how far that has grown, and
 * how the program ended.
 *
 * The program runs as the daemon's user, in a session of its own, and can gain no privilege: no
 * capability, no set-user-ID program. It sees the machine's files, since it is there to hand
 * results to other programs and machines. Nobody but whom we tell waits for it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "build/supervisor.h"

enum { ARENA_MAX = 64 << 20, OUTPUT_MAX = 64 << 20, NOTICE_USEC = 20 * 1000, ROUNDS_MAX = 1 << 20 };

struct hook {
	struct arena arena;
	struct build_hook job;
	int file, out; /* what it prints: where it goes, where it comes from */
	pid_t pid;
	uint64_t size, told, told_usec;
};

static char **environment(struct hook *h)
{
	char **env = arena_array(&h->arena, h->job.env.n + 1, sizeof(*env));

	for (size_t i = 0; env && i < h->job.env.n; i++) {
		env[i] = arena_printf(&h->arena, "%s=%s", h->job.env.v[i].name,
				      h->job.env.v[i].value);
		if (!env[i])
			return NULL;
	}
	return env;
}

static char **arguments(struct hook *h)
{
	char **argv = arena_array(&h->arena, h->job.args.n + 2, sizeof(*argv));

	if (!argv)
		return NULL;
	argv[0] = h->job.program;
	for (size_t i = 0; i < h->job.args.n; i++)
		argv[i + 1] = h->job.args.v[i];
	return argv;
}

/* In the child. As upstream, a program that cannot be executed says so where its output goes. */
static _Noreturn void become(struct hook *h, int out, char **argv, char **env)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)signal(SIGIO, SIG_DFL);
	(void)setsid();
	umask(022);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
	    (!h->job.errors_apart && dup2(out, STDERR_FILENO) < 0) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0) < 0) {
		dprintf(out, "error: preparing '%s': %s\n", h->job.program, strerror(errno));
		_exit(1);
	}
	environ = env;
	execvp(h->job.program, argv);
	dprintf(STDERR_FILENO, "error: executing \"%s\": %s\n", h->job.program, strerror(errno));
	_exit(1);
}

static int start(struct hook *h, struct err *e)
{
	char **argv = arguments(h), **env = environment(h);
	int pair[2];

	if (!argv || !env)
		return err_errno(e, -ENOMEM, "starting '%s'", h->job.program);
	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_errno(e, -errno, "starting '%s'", h->job.program);
	h->pid = fork();
	if (h->pid == 0)
		become(h, pair[1], argv, env);
	close(pair[1]);
	h->out = pair[0];
	return h->pid < 0 ? err_errno(e, -errno, "starting '%s'", h->job.program) : 0;
}

/* A full channel only delays the notice. */
static void tell_size(struct hook *h)
{
	struct build_log n = { .size = h->size };

	if (h->size == h->told)
		return;
	if (chan_send_record(BUILD_FD, BUILD_LOG, 0, &build_log_layout, &n, NULL, 0) == 0)
		h->told = h->size;
	h->told_usec = now_usec();
}

static int append(struct hook *h, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(h->file, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		h->size += (uint64_t)n;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* What comes beyond the limit is read and dropped: the program is not to hang on it. */
static int store(struct hook *h, const char *data, size_t len)
{
	static const char full[] = "\n[what it prints beyond 64 MiB is not shown]\n";
	int r;

	if (h->size >= OUTPUT_MAX)
		return 0;
	r = append(h, data, len < OUTPUT_MAX - h->size ? len : OUTPUT_MAX - h->size);
	return r == 0 && h->size >= OUTPUT_MAX ? append(h, full, sizeof(full) - 1) : r;
}

static void take_output(struct hook *h)
{
	char data[16 * 1024];
	ssize_t n = read(h->out, data, sizeof(data));

	if (n < 0 && errno == EINTR)
		return;
	/* A full disk costs output, not the hook. */
	if (n > 0 && store(h, data, (size_t)n) == 0)
		return;
	if (n <= 0)
		close_fdp(&h->out);
}

/* Until its output ends, as upstream: a process that it leaves behind may still print. False when
 * the core is gone or wants it ended. */
static bool follow(struct hook *h)
{
	while (h->out >= 0) {
		struct pollfd p[] = { { .fd = h->out, .events = POLLIN },
				      { .fd = BUILD_FD, .events = POLLIN } };
		bool due = h->size != h->told;
		int r = poll(p, ELEMENTS(p), due ? NOTICE_USEC / 1000 : -1);

		if (r < 0 && errno != EINTR)
			return false;
		if (r > 0 && p[1].revents)
			return false; /* there is one message that may come, BUILD_CANCEL */
		if (r > 0 && p[0].revents)
			take_output(h);
		if (now_usec() - h->told_usec >= NOTICE_USEC)
			tell_size(h);
	}
	return true;
}

/* What the program has started comes to this process when its own parent is gone: in the end all of
 * it is a child. Where there is a cgroup, the core ends everything at once. */
static void end_all(struct hook *h)
{
	char pids[4096];

	(void)kill(-h->pid, SIGKILL);
	for (int round = 0; round < ROUNDS_MAX; round++) {
		int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, pids, sizeof(pids) - 1);
		char *save = NULL;

		if (fd >= 0)
			close(fd);
		pids[n > 0 ? n : 0] = 0;
		(void)kill(h->pid, SIGKILL); /* also before it made its session */
		for (char *p = strtok_r(pids, " ", &save); p; p = strtok_r(NULL, " ", &save))
			(void)kill((pid_t)strtol(p, NULL, 10), SIGKILL);
		if (waitpid(-1, NULL, 0) < 0 && errno == ECHILD)
			return;
	}
}

/* Upstream's words for how a program ended. */
static int judge(struct hook *h, struct err *e)
{
	int status = 0;

	while (waitpid(h->pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(e, -errno, "waiting for '%s'", h->job.program);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status))
		return err_set(e, 1, "program \"%s\" failed with exit code %d", h->job.program,
			       WEXITSTATUS(status));
	return err_set(e, 1, "program \"%s\" failed due to signal %d (%s)", h->job.program,
		       WTERMSIG(status), strsignal(WTERMSIG(status)));
}

static int receive(struct hook *h)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	int r = chan_recv(BUILD_FD, BUILD_MSG_MAX, &m);

	if (r == CHAN_EOF)
		return r;
	if (r != 0 || m.type != BUILD_HOOK_START || m.n_fds != 1 ||
	    msg_decode(&m, &build_hook_layout, &h->arena, &h->job)) {
		log_error("the first message was not a hook");
		return -EPROTO;
	}
	h->file = TAKE_FD(m.fds[0]);
	return 0;
}

int hook_main(void)
{
	struct hook h = { .arena = ARENA_INIT(ARENA_MAX), .file = -1, .out = -1, .pid = -1 };
	_cleanup_err_ struct err e = {};
	struct build_end end = {};
	int r = receive(&h);

	if (r != 0)
		return r == CHAN_EOF ? 0 : 1;
	r = prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0
		    ? err_errno(&e, -errno, "preparing a hook")
		    : start(&h, &e);
	(void)fcntl(BUILD_FD, F_SETFL, O_NONBLOCK | O_RDWR);
	if (r == 0 && !follow(&h)) {
		end_all(&h);
		return 0;
	}
	if (r == 0)
		r = judge(&h, &e);
	(void)fcntl(BUILD_FD, F_SETFL, O_RDWR);
	end.status = r ? MISC_FAILURE : BUILT;
	end.error = r ? e.msg : NULL;
	end.log_size = h.size;
	(void)chan_send_record(BUILD_FD, BUILD_END, 0, &build_end_layout, &end, NULL, 0);
	return 0; /* memory and descriptors go with the process */
}
