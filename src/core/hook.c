/* See hook.h. The program's process is a child of "airplant-build hook" (build/hook.c); this is the
 * core's side of ipc/build.h for it. */
#include "core/hook.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "core/cgroup.h"
#include "core/core.h"
#include "core/supervisor.h"
#include "core/spool.h"

enum { REPLY_MAX = 1 << 20, HOOK_MEMORY = 64 << 20, MESSAGES_AT_END = 64 };

struct hook {
	struct core *core;
	const struct hook_events *ev; /* NULL once `ended` was told or it was cancelled */
	void *ctx;
	char *program;
	int file, chan, pidfd;
	pid_t pid;
	uint64_t size;
	bool end_seen;
	struct cgroup cgroup;
	struct loop_fd *chan_watch, *pid_watch;
	struct loop_timer *timer;
};

static void hook_free(struct hook *h)
{
	loop_remove(h->chan_watch);
	loop_remove(h->pid_watch);
	loop_timer_cancel(h->timer);
	cgroup_leave(h->core->cgroups, &h->cgroup);
	close_fdp(&h->file);
	close_fdp(&h->chan);
	close_fdp(&h->pidfd);
	free(h->program);
	free(h);
}

static void tell_end(struct hook *h, const char *error)
{
	const struct hook_events *ev = h->ev;

	h->ev = NULL;
	if (ev)
		ev->ended(h->ctx, error);
}

/* Nothing else is heard of it; what it still does, the end of its channel ends (build/hook.c). */
static void give_up(struct hook *h)
{
	loop_remove(h->chan_watch);
	h->chan_watch = NULL;
	close_fdp(&h->chan);
}

/* The program and all that it has started. */
static void end_it(struct hook *h)
{
	loop_timer_cancel(h->timer);
	h->timer = NULL;
	give_up(h);
	cgroup_kill(&h->cgroup);
}

static void on_timeout(void *ctx)
{
	struct hook *h = ctx;
	_cleanup_free_ char *text = NULL;

	h->timer = NULL;
	end_it(h);
	if (asprintf(&text, "program \"%s\" timed out after %llu seconds (hook-timeout)", h->program,
		     (unsigned long long)h->core->settings.hook_timeout) < 0)
		text = NULL;
	tell_end(h, text ? text : "out of memory");
}

static void take(struct hook *h, const struct msg *m)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(REPLY_MAX);
	struct build_log l;
	struct build_end end;

	if (m->type == BUILD_LOG && msg_decode(m, &build_log_layout, &a, &l) == 0) {
		h->size = l.size;
		if (h->ev)
			h->ev->log(h->ctx, l.size);
	} else if (m->type == BUILD_END && msg_decode(m, &build_end_layout, &a, &end) == 0) {
		h->end_seen = true;
		h->size = end.log_size;
		tell_end(h, end.status == BUILT ? NULL : end.error);
	} else {
		log_error("the process that runs '%s' sent a wrong message", h->program);
		give_up(h);
	}
}

/* True: there may be more. */
static bool read_one(struct hook *h)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	int r = h->chan < 0 ? CHAN_EOF : chan_recv(h->chan, REPLY_MAX, &m);

	if (r == 0)
		take(h, &m);
	else if (r != -EAGAIN)
		give_up(h); /* the rest is told by the end of the process */
	return r == 0;
}

static void on_channel(void *ctx, uint32_t events)
{
	(void)events;
	(void)read_one(ctx);
}

static void on_exit_event(void *ctx, uint32_t events)
{
	struct hook *h = ctx;
	_cleanup_free_ char *text = NULL;
	siginfo_t si = {};

	(void)events;
	if (waitid(P_PIDFD, (id_t)h->pidfd, &si, WEXITED | WNOHANG) < 0 || si.si_pid == 0)
		return;
	for (int i = 0; i < MESSAGES_AT_END && read_one(h); i++)
		;
	if (h->ev &&
	    asprintf(&text, "the process that ran '%s' ended without an answer", h->program) < 0)
		text = NULL;
	tell_end(h, text ? text : "out of memory");
	hook_free(h);
}

static int launch(struct hook *h, struct err *e)
{
	struct supervisor s;
	int r = supervisor_start(h->core, BUILD_HOOK, NULL, &s, e);

	if (r < 0)
		return r;
	h->chan = s.chan;
	h->pidfd = s.pidfd;
	h->pid = s.pid;
	return 0;
}

/* Before it has started anything. */
static int confine(struct hook *h, struct err *e)
{
	struct core *core = h->core;
	int r;

	if (!core->cgroups)
		return 0;
	r = cgroup_make_hook(core->cgroups, core, h->program, &h->cgroup, e);
	if (r < 0)
		return r;
	r = cgroup_enter(&h->cgroup, h->pid);
	return r < 0 ? err_errno(e, r, "moving '%s' into its cgroup", h->program) : 0;
}

static int set_timer(struct hook *h, struct err *e)
{
	uint64_t seconds = h->core->settings.hook_timeout;

	if (!seconds || loop_timer(h->core->loop, seconds * 1000000, on_timeout, h, &h->timer) == 0)
		return 0;
	return err_errno(e, -ENOMEM, "starting '%s'", h->program);
}

/* What the service manager told the daemon alone, and what would send a client elsewhere. */
static bool is_ours_alone(const char *entry, size_t len, const struct build_pairs *env)
{
	static const char *const names[] = { "NOTIFY_SOCKET",  "LISTEN_PID",	"LISTEN_FDS",
					     "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID" };

	for (size_t i = 0; i < ELEMENTS(names); i++)
		if (strlen(names[i]) == len && !strncmp(names[i], entry, len))
			return true;
	for (size_t i = 0; i < env->n; i++)
		if (strlen(env->v[i].name) == len && !strncmp(env->v[i].name, entry, len))
			return true;
	return false;
}

static int make_env(const struct build_pairs *own, struct arena *a, struct build_pairs *ret)
{
	size_t n = 0;

	while (environ[n])
		n++;
	ret->v = arena_array(a, n + own->n + 1, sizeof(*ret->v));
	if (!ret->v)
		return -ENOMEM;
	for (size_t i = 0; i < own->n; i++)
		ret->v[ret->n++] = own->v[i];
	for (size_t i = 0; i < n; i++) {
		size_t len = strcspn(environ[i], "=");

		if (!environ[i][len] || is_ours_alone(environ[i], len, own))
			continue;
		ret->v[ret->n].name = arena_strndup(a, environ[i], len);
		ret->v[ret->n].value = environ[i] + len + 1;
		if (!ret->v[ret->n++].name)
			return -ENOMEM;
	}
	return 0;
}

static int send_job(struct hook *h, const struct hook_job *job, struct err *e)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(HOOK_MEMORY);
	struct build_hook m = { .program = h->program,
				.args = job->args,
				.errors_apart = job->errors_apart };
	int r = make_env(&job->env, &a, &m.env);

	if (r == 0)
		r = chan_send_record(h->chan, BUILD_HOOK_START, 0, &build_hook_layout, &m, &h->file,
				     1);
	return r < 0 ? err_errno(e, r, "starting '%s'", h->program) : 0;
}

static int open_file(struct hook *h, struct err *e)
{
	const char *dir = spool_dir(h->core->spool);

	h->file = open(dir, O_TMPFILE | O_RDWR | O_APPEND | O_CLOEXEC, 0600);
	return h->file < 0 ? err_errno(e, -errno, "creating a file in '%s'", dir) : 0;
}

static int watch(struct hook *h, struct err *e)
{
	int r = loop_add(h->core->loop, h->chan, EPOLLIN, on_channel, h, &h->chan_watch);

	if (r == 0)
		r = loop_add(h->core->loop, h->pidfd, EPOLLIN, on_exit_event, h, &h->pid_watch);
	return r < 0 ? err_errno(e, r, "watching '%s'", h->program) : 0;
}

int hook_start(struct core *core, const struct hook_job *job, const struct hook_events *ev,
	       void *ctx, struct hook **ret, struct err *e)
{
	struct hook *h = calloc(1, sizeof(*h));
	int r;

	if (!h)
		return err_errno(e, -ENOMEM, "starting '%s'", job->program);
	*h = (struct hook){
		.core = core,
		.ev = ev,
		.ctx = ctx,
		.file = -1,
		.chan = -1,
		.pidfd = -1,
		.cgroup = CGROUP_INIT,
	};
	h->program = strdup(job->program);
	r = h->program ? open_file(h, e) : err_errno(e, -ENOMEM, "starting a hook");
	r = r ? r : launch(h, e);
	r = r ? r : confine(h, e);
	r = r ? r : set_timer(h, e);
	r = r ? r : send_job(h, job, e);
	r = r ? r : watch(h, e);
	if (r == 0) {
		*ret = h;
		return 0;
	}
	if (h->pidfd >= 0) {
		(void)syscall(SYS_pidfd_send_signal, h->pidfd, SIGKILL, NULL, 0);
		(void)waitid(P_PIDFD, (id_t)h->pidfd, &(siginfo_t){}, WEXITED);
	}
	hook_free(h);
	return r;
}

void hook_cancel(struct hook *h)
{
	h->ev = NULL;
	end_it(h);
}

int hook_log_fd(const struct hook *h)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", h->file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

uint64_t hook_log_size(const struct hook *h)
{
	return h->size;
}
