/* While the builder runs: its terminal into the log, its limits, the core's wish to stop, its end.
 *
 * Nothing a builder writes is interpreted. Killing goes through the pidfd of the namespace's first
 * process: the kernel ends every process of the build with it. Linked by airplant-build alone. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "build/logfile.h"
#include "build/network.h"
#include "build/supervisor.h"

enum { LOG_NOTICE_USEC = 20 * 1000, STATUS_MAX = 8192 };

enum verdict { RUNNING, ENDED, CANCELLED, TIMED, SILENT, TALKATIVE, UNPLUGGED };

struct watch {
	struct build *b;
	enum verdict verdict;
	uint64_t started_usec, last_output_usec;
	uint64_t log_bytes; /* what the builder wrote, for its limit */
	uint64_t noticed_size, noticed_usec;
	char status[STATUS_MAX]; /* what came through status_fd */
	size_t status_len;
	bool set_up;
	bool terminal_open;
};

static int send_with(struct build *b, uint32_t type, const struct layout *l, const void *record,
		     const int *fd)
{
	for (;;) {
		int r = chan_send_record(b->chan, type, 0, l, record, fd, fd ? 1 : 0);
		struct pollfd p = { .fd = b->chan, .events = POLLOUT };

		if (r != -EAGAIN)
			return r;
		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return -errno;
	}
}

int watch_send(struct build *b, uint32_t type, const struct layout *l, const void *record)
{
	return send_with(b, type, l, record, NULL);
}

/* Tells the core that the log has grown. A full channel only delays the notice. */
static void notice(struct watch *w, uint64_t now)
{
	struct build_log n = { .size = logfile_size(w->b->log) };

	if (n.size == w->noticed_size)
		return;
	if (chan_send_record(w->b->chan, BUILD_LOG, 0, &build_log_layout, &n, NULL, 0) == 0)
		w->noticed_size = n.size;
	w->noticed_usec = now;
}

static void end_build(struct watch *w, enum verdict verdict)
{
	if (w->verdict != RUNNING)
		return;
	w->verdict = verdict;
	/* ESRCH: it has ended by itself meanwhile, which the pidfd will say. */
	(void)syscall(SYS_pidfd_send_signal, w->b->pidfd, SIGKILL, NULL, 0);
	cgroup_kill(w->b);
}

/* As upstream, that is the builder's end. One that exits has its exit status by then: the kernel
 * closes its files later than that. */
static void hung_up(struct watch *w)
{
	w->terminal_open = false;
	if (w->set_up && w->b->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, w->b->pidfd, SIGKILL, NULL, 0);
}

/* How much of what came the limit lets through; more ends the build. */
static ssize_t below_limit(struct watch *w, ssize_t n)
{
	uint64_t max = w->b->s.max_log_bytes, left = max - w->log_bytes;

	if (max && (uint64_t)n > left) {
		end_build(w, TALKATIVE);
		n = (ssize_t)left;
	}
	w->log_bytes += (uint64_t)n;
	return n;
}

static void read_terminal(struct watch *w, uint64_t now)
{
	char data[16 * 1024];

	for (;;) {
		ssize_t n = read(w->b->master, data, sizeof(data));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			/* EIO: no process holds the other side open any more. */
			if (n == 0 || errno != EAGAIN)
				hung_up(w);
			return;
		}
		w->last_output_usec = now;
		if (w->verdict == TALKATIVE)
			continue; /* read on, so that nothing blocks, but keep no more */
		n = below_limit(w, n);
		(void)logfile_write(w->b->log, data, (size_t)n); /* a short log ends no build */
	}
}

/* The core holds the builder before any foreign code runs; a builder whose supervisor cannot say
 * so reads the end of its socket and exits. */
static bool let_go(struct build *b)
{
	struct build_running r = { .host_uid = b->ids.mode == IDS_SINGLE ? b->host_uid
									 : b->ids.host_base };

	return b->pidfd >= 0 &&
	       send_with(b, BUILD_RUNNING, &build_running_layout, &r, &b->pidfd) == 0 &&
	       write_full(b->status_fd, "G", 1) == 0;
}

/* A builder starts when its network is up, or when it is clear that it has none. */
static bool prepare_network(struct watch *w)
{
	_cleanup_free_ char *note = NULL;
	struct build *b = w->b;
	int n;

	net_wait(b);
	if (watch_cancelled(b))
		return false;
	if (!b->net_missing)
		return true;
	n = asprintf(&note, "note: this build has no network: %s\n", b->net_missing);
	if (n < 0)
		note = NULL;
	else
		(void)logfile_write(b->log, note, (size_t)n); /* a short log ends no build */
	return true;
}

/* One packet comes: "S", a sentence, or the end. */
static void read_status(struct watch *w)
{
	ssize_t n = read(w->b->status_fd, w->status, STATUS_MAX - 1);

	if (n < 0 && errno == EINTR)
		return;
	w->status_len = n > 0 ? (size_t)n : 0;
	w->status[w->status_len] = 0;
	w->set_up = !strcmp(w->status, "S") && prepare_network(w) && let_go(w->b);
	close_fdp(&w->b->status_fd);
}

int watch_receive(struct build *b, uint32_t type, struct msg *ret)
{
	for (;;) {
		struct pollfd p = { .fd = b->chan, .events = POLLIN };
		int r = b->cancelled ? -ECANCELED : chan_recv(b->chan, BUILD_MSG_MAX, ret);

		if (r == 0 && ret->type == type)
			return 0;
		if (r != -EAGAIN) {
			b->cancelled = true;
			return -ECANCELED;
		}
		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return -errno;
	}
}

bool watch_cancelled(struct build *b)
{
	_cleanup_msg_ struct msg m = MSG_INIT;

	/* Only BUILD_CANCEL may come now; whatever else comes, or nothing, ends the build as well.
	 */
	if (!b->cancelled && chan_recv(b->chan, CHAN_INLINE, &m) != -EAGAIN)
		b->cancelled = true;
	return b->cancelled;
}

static void read_channel(struct watch *w)
{
	if (watch_cancelled(w->b))
		end_build(w, CANCELLED);
}

static void reap(struct watch *w)
{
	pid_t pid;

	do
		pid = wait4(w->b->pid, &w->b->wait_status, __WALL, &w->b->usage);
	while (pid < 0 && errno == EINTR);
	if (w->verdict == RUNNING)
		w->verdict = ENDED;
	close_fdp(&w->b->pidfd);
}

static void check_limits(struct watch *w, uint64_t now)
{
	const struct build_start *s = &w->b->s;

	if (s->max_silent_sec && now - w->last_output_usec >= s->max_silent_sec * 1000000)
		end_build(w, SILENT);
	if (s->timeout_sec && now - w->started_usec >= s->timeout_sec * 1000000)
		end_build(w, TIMED);
}

static int earlier(int a_ms, uint64_t due_usec, uint64_t now)
{
	uint64_t ms = due_usec <= now ? 0 : (due_usec - now + 999) / 1000;

	if (ms > 60000)
		ms = 60000;
	return a_ms < 0 || (int)ms < a_ms ? (int)ms : a_ms;
}

static int next_timeout(const struct watch *w, uint64_t now)
{
	const struct build_start *s = &w->b->s;
	int ms = -1;

	if (logfile_size(w->b->log) != w->noticed_size)
		ms = earlier(ms, w->noticed_usec + LOG_NOTICE_USEC, now);
	if (w->verdict != RUNNING)
		return ms;
	if (s->max_silent_sec)
		ms = earlier(ms, w->last_output_usec + s->max_silent_sec * 1000000, now);
	if (s->timeout_sec)
		ms = earlier(ms, w->started_usec + s->timeout_sec * 1000000, now);
	return ms;
}

static void step(struct watch *w)
{
	struct build *b = w->b;
	struct pollfd p[5] = {
		{ .fd = b->cancelled ? -1 : b->chan, .events = POLLIN },
		{ .fd = w->terminal_open ? b->master : -1, .events = POLLIN },
		{ .fd = b->status_fd, .events = POLLIN },
		{ .fd = b->pidfd, .events = POLLIN },
		{ .fd = w->set_up ? b->net_pidfd : -1, .events = POLLIN },
	};
	uint64_t now = now_usec();

	if (poll(p, ELEMENTS(p), next_timeout(w, now)) < 0)
		return; /* EINTR: once more */
	now = now_usec();
	if (p[0].revents)
		read_channel(w);
	if (p[1].revents)
		read_terminal(w, now);
	if (p[2].revents)
		read_status(w);
	check_limits(w, now);
	if (p[4].revents && !p[3].revents)
		end_build(w, UNPLUGGED);
	if (p[3].revents) {
		reap(w);
		/* Every process of the build is dead: what is in the terminal now is all there is.
		 */
		if (w->terminal_open)
			read_terminal(w, now);
	}
	if (now - w->noticed_usec >= LOG_NOTICE_USEC)
		notice(w, now);
}

/* --- the sentence -------------------------------------------------------- */

static int print_status(struct buf *b, int status)
{
	if (WIFEXITED(status))
		return buf_printf(b, "failed with exit code %d", WEXITSTATUS(status));
	if (WIFSIGNALED(status))
		return buf_printf(b, "failed due to signal %d (%s)", WTERMSIG(status),
				  strsignal(WTERMSIG(status)));
	return buf_append_str(b, "died abnormally");
}

static bool disk_full(const struct build *b)
{
	struct statvfs st;

	/* Upstream's guess: less than 8 MiB left. */
	return fstatvfs(b->top, &st) == 0 && (uint64_t)st.f_bavail * st.f_bsize < (8U << 20);
}

static int by_path(const void *x, const void *y)
{
	return strcmp(((const struct build_output *)x)->path,
		      ((const struct build_output *)y)->path);
}

static int print_failure(struct build *b, bool full, struct buf *t)
{
	const struct build_start *s = &b->s;
	struct build_output *sorted =
		arena_dup(&b->arena, s->outputs.v, s->outputs.n * sizeof(*sorted));
	/* Where it would have put what is named after its contents says nothing to anybody. */
	size_t known = s->outputs.n && *s->outputs.v[0].ca && !s->fixed_hash.n ? 0 : s->outputs.n;
	int r;

	if (!sorted)
		return -ENOMEM;
	qsort(sorted, s->outputs.n, sizeof(*sorted), by_path);
	r = buf_printf(t,
		       "Cannot build '" C_MAGENTA "%s/%s" C_NORMAL "'.\nReason: " C_RED "builder ",
		       s->store_dir, s->drv);
	if (r == 0)
		r = cgroup_print_end(b, t);
	if (r == 0)
		r = print_status(t, b->wait_status);
	if (r == 1)
		r = 0;
	if (r == 0)
		r = buf_append_str(t, C_NORMAL ".");
	if (r == 0 && known)
		r = buf_append_str(t, "\nOutput paths:");
	for (size_t i = 0; r == 0 && i < known; i++)
		r = buf_printf(t, "\n  " C_MAGENTA "%s/%s" C_NORMAL, s->store_dir, sorted[i].path);
	if (r == 0 && (r = logfile_quote(b->log, t)) == 1)
		r = buf_printf(t, "For full logs, run:\n  " C_BOLD "%s %s/%s" C_NORMAL,
			       s->nix_log ? "nix log" : "nix-store -l", s->store_dir, s->drv);
	if (r == 0 && b->net_missing)
		r = buf_printf(t, "\nnote: this build had no network: %s", b->net_missing);
	if (r == 0 && full)
		r = buf_append_str(
			t, "\nnote: build failure may have been caused by lack of free disk space");
	return r < 0 ? r : cgroup_print_note(b, t);
}

static void fail(struct build *b, struct build_end *end, enum build_status status, char *text)
{
	end->status = status;
	end->error = text ? text : arena_strdup(&b->arena, "out of memory");
}

static void judge_exit(struct build *b, struct build_end *end)
{
	_cleanup_buf_ struct buf t = BUF_INIT(BUILD_MSG_MAX / 2);
	bool full;

	if (WIFEXITED(b->wait_status) && WEXITSTATUS(b->wait_status) == 0) {
		end->status = BUILT;
		return;
	}
	full = disk_full(b);
	if (print_failure(b, full, &t) < 0)
		buf_clear(&t);
	fail(b, end, b->s.fixed || full ? TRANSIENT_FAILURE : PERMANENT_FAILURE,
	     arena_strndup(&b->arena, t.data ? (char *)t.data : "", t.len));
}

static void judge(struct watch *w, struct build_end *end)
{
	struct build *b = w->b;
	struct arena *a = &b->arena;

	switch (w->verdict) {
	case TIMED:
	case SILENT:
		fail(b, end, TIMED_OUT,
		     arena_printf(a, "timed out after " C_MAGENTA "%llu" C_NORMAL " seconds",
				  (unsigned long long)(w->verdict == TIMED ? b->s.timeout_sec
									   : b->s.max_silent_sec)));
		break;
	case TALKATIVE:
		fail(b, end, LOG_LIMIT_EXCEEDED,
		     arena_printf(a,
				  C_MAGENTA "building derivation '%s/%s'" C_NORMAL
					    " killed after writing more than " C_MAGENTA
					    "%llu" C_NORMAL " bytes of log output",
				  b->s.store_dir, b->s.drv,
				  (unsigned long long)b->s.max_log_bytes));
		break;
	case UNPLUGGED:
		fail(b, end, TRANSIENT_FAILURE,
		     arena_strdup(a, "pasta, which gives this build its network, ended before "
				     "the build did"));
		break;
	case CANCELLED:
		fail(b, end, MISC_FAILURE, arena_strdup(a, "the build was cancelled"));
		break;
	case RUNNING:
	case ENDED:
		if (w->set_up)
			judge_exit(b, end);
		else
			fail(b, end, MISC_FAILURE,
			     arena_printf(
				     a, "while setting up the build environment: %s",
				     w->status_len && strcmp(w->status, "S")
					     ? w->status
					     : "the builder's process ended before it was ready"));
	}
}

void watch_run(struct build *b, struct build_end *end)
{
	struct watch w = { .b = b, .terminal_open = true };

	w.started_usec = w.last_output_usec = now_usec();
	while (b->pidfd >= 0)
		step(&w);
	if (b->status_fd >= 0)
		read_status(&w);
	net_end(b);
	(void)logfile_finish(b->log); /* as above: a short log ends no build */
	close_fdp(&b->master);
	judge(&w, end);
	notice(&w, now_usec());
	end->log_size = logfile_size(b->log);
	cgroup_account(b, end);
}

void watch_release(struct build *b)
{
	while (!b->cancelled) {
		_cleanup_msg_ struct msg m = MSG_INIT;
		struct pollfd p = { .fd = b->chan, .events = POLLIN };
		int r;

		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			return;
		r = chan_recv(b->chan, CHAN_INLINE, &m);
		if (r == 0 && m.type == BUILD_RELEASE)
			return;
		if (r != -EAGAIN)
			b->cancelled = true;
	}
}
