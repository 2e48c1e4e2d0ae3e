/* See peer.h. Aborts on anything that is not the supervisor's doing. */
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"

#define MUST(x)                                                                                    \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x,                 \
				strerror(errno));                                                  \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static char *str(struct peer *p, const char *s)
{
	char *r = arena_strdup(&p->arena, s);

	MUST(r);
	return r;
}

static char *join(struct peer *p, const char *dir, const char *name)
{
	char *r = arena_printf(&p->arena, "%s/%s", dir, name);

	MUST(r);
	return r;
}

static void put(const char *path, const void *data, size_t len, mode_t mode)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	MUST(fd >= 0 && write_full(fd, data, len) == 0 && fchmod(fd, mode) == 0);
}

static void give(const char *path)
{
	if (geteuid() == 0)
		MUST(lchown(path, PEER_UID, PEER_GID) == 0);
}

static void make_dir(const char *path, mode_t mode)
{
	MUST(mkdir(path, mode) == 0 && chmod(path, mode) == 0);
	give(path);
}

static void make_store(struct peer *p)
{
	_cleanup_free_ char *data = NULL;
	char *box = join(p, p->store, PEER_BUSYBOX), *bin = join(p, box, "bin");
	size_t len;

	MUST(read_file_at(AT_FDCWD, "/usr/bin/busybox", 64 << 20, &data, &len) == 0 ||
	     read_file_at(AT_FDCWD, "/bin/busybox", 64 << 20, &data, &len) == 0);
	make_dir(box, 0755);
	make_dir(bin, 0755);
	put(join(p, bin, "busybox"), data, len, 0555);
	MUST(symlink("busybox", join(p, bin, "sh")) == 0);
	put(join(p, p->store, PEER_FILE), "content\n", 8, 0444);
	MUST(symlink(PEER_FILE, join(p, p->store, PEER_LINK)) == 0);
	MUST(strv_add_arena(&p->start.inputs, &p->arena, str(p, PEER_BUSYBOX)) == 0);
	MUST(strv_add_arena(&p->start.inputs, &p->arena, str(p, PEER_FILE)) == 0);
	MUST(strv_add_arena(&p->start.inputs, &p->arena, str(p, PEER_LINK)) == 0);
}

void peer_init(struct peer *p, enum build_ids_mode mode, const char *program)
{
	struct build_start *s = &p->start;
	const char *tmp = getenv("TMPDIR");
	char top[4096];

	snprintf(top, sizeof(top), "%s/airplant-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");

	*p = (struct peer){ .arena = ARENA_INIT(64 << 20),
			    .mode = mode,
			    .program = program,
			    .cancel_after_ms = -1 };
	MUST(mkdtemp(top) && chmod(top, 0755) == 0);
	give(top);
	p->top = str(p, top);
	p->store = join(p, top, "store");
	make_dir(p->store, 0755);
	s->scratch = join(p, top, "scratch");
	make_dir(s->scratch, 0700);
	p->out = join(p, s->scratch, "out");
	make_store(p);
	s->drv = str(p, PEER_DRV);
	s->drv_name = str(p, "test");
	s->store_dir = str(p, "/nix/store");
	s->real_store = p->store;
	s->platform = str(p, "x86_64-linux");
	s->builder = str(p, "/nix/store/" PEER_BUSYBOX "/bin/sh");
	s->outputs.v = arena_array(&p->arena, 2, sizeof(*s->outputs.v));
	s->outputs.n = 1;
	s->outputs.v[0] = (struct build_output){ str(p, "out"), str(p, PEER_OUT) };
	s->outputs.v[1] = (struct build_output){ str(p, "dev"), str(p, PEER_DEV) };
	s->sandbox = SANDBOX_ON;
	s->build_dir = str(p, "/build");
	s->shm_size = str(p, "50%");
	s->uid = 1000;
	s->n_ids = 1;
	s->gid = 100;
	s->filter_syscalls = 1;
	s->log_lines = 25;
	s->compress_log = 1;
	peer_env(p, "PATH", "/nix/store/" PEER_BUSYBOX "/bin");
	peer_env(p, "out", "/nix/store/" PEER_OUT);
	peer_env(p, "dev", "/nix/store/" PEER_DEV);
}

void peer_env(struct peer *p, const char *name, const char *value)
{
	struct build_pair *v = arena_array(&p->arena, p->start.env.n + 1, sizeof(*v));

	MUST(v);
	if (p->start.env.n)
		memcpy(v, p->start.env.v, p->start.env.n * sizeof(*v));
	v[p->start.env.n] = (struct build_pair){ str(p, name), str(p, value) };
	p->start.env.v = v;
	p->start.env.n++;
}

void peer_script(struct peer *p, const char *script)
{
	/* Every applet by its plain name. */
	char *text = arena_printf(&p->arena,
				  "for a in $(busybox --list); do case $a in [a-z]*) "
				  "alias $a=\"busybox $a\";; esac; done\n%s",
				  script);

	MUST(text);
	MUST(strv_add_arena(&p->start.args, &p->arena, str(p, "-c")) == 0);
	MUST(strv_add_arena(&p->start.args, &p->arena, text) == 0);
}

void peer_inputs(struct peer *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char *base = arena_printf(&p->arena, "%032zu-input", i + 1000000);

		MUST(base);
		make_dir(join(p, p->store, base), 0555);
		MUST(strv_add_arena(&p->start.inputs, &p->arena, base) == 0);
	}
}

static pid_t spawn(struct peer *p, int chan)
{
	pid_t pid = fork();

	MUST(pid >= 0);
	if (pid)
		return pid;
	if (geteuid() == 0)
		MUST(setgroups(0, NULL) == 0 && setresgid(PEER_GID, PEER_GID, PEER_GID) == 0 &&
		     setresuid(PEER_UID, PEER_UID, PEER_UID) == 0);
	if (chan == BUILD_FD)
		MUST(fcntl(chan, F_SETFD, 0) == 0);
	else
		MUST(dup2(chan, BUILD_FD) == BUILD_FD);
	execl(p->program, p->program, (char *)NULL);
	_exit(127);
}

static void write_map(pid_t pid, const char *name, const char *text)
{
	char path[64];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void answer_ids(struct peer *p, int chan, pid_t pid)
{
	struct build_ids ids = { .mode = p->mode, .count = 1, .host_base = PEER_BASE };
	char text[128];

	if (p->mode != IDS_SINGLE) {
		snprintf(text, sizeof(text), "0 %u 1\n1 %u 1\n", PEER_BASE, PEER_UID);
		write_map(pid, "uid_map", text);
		snprintf(text, sizeof(text), "0 %u 1\n1 %u 1\n", PEER_BASE, PEER_GID);
		write_map(pid, "gid_map", text);
	}
	MUST(chan_send_record(chan, BUILD_IDS, 0, &build_ids_layout, &ids, NULL, 0) == 0);
}

/* False when the channel is finished. */
static bool handle(struct peer *p, int chan, pid_t pid, double begin)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	int r = chan_recv(chan, BUILD_MSG_MAX, &m);

	if (r == CHAN_EOF || r == -ECONNRESET)
		return false;
	MUST(r == 0);
	switch (m.type) {
	case BUILD_NEED_IDS:
		answer_ids(p, chan, pid);
		break;
	case BUILD_RUNNING:
		/* With it the core can end the builder whatever becomes of the supervisor. A quick
		 * builder may be gone by now (ESRCH); what is no pidfd says EBADF. */
		MUST(m.n_fds == 1 &&
		     (syscall(SYS_pidfd_send_signal, m.fds[0], 0, NULL, 0) == 0 || errno == ESRCH));
		p->got_running = msg_decode(&m, &build_running_layout, &p->arena, &p->running) == 0;
		break;
	case BUILD_END:
		p->ms_end = now_ms() - begin;
		p->got_end = msg_decode(&m, &build_end_layout, &p->arena, &p->end) == 0;
		if (p->inspect)
			p->inspect(p);
		MUST(chan_send(chan, BUILD_RELEASE, 0, NULL, 0, NULL, 0) == 0);
		break;
	case BUILD_BYE:
		p->got_bye = msg_decode(&m, &build_bye_layout, &p->arena, &p->bye) == 0;
		break;
	case BUILD_LOG:
		break;
	default:
		MUST(!"an unknown message");
	}
	return true;
}

static void read_back(struct peer *p, int fd, char **ret, size_t *ret_len)
{
	struct stat st;

	MUST(fstat(fd, &st) == 0);
	*ret = arena_alloc(&p->arena, (size_t)st.st_size + 1);
	*ret_len = (size_t)st.st_size;
	MUST(*ret && pread(fd, *ret, *ret_len, 0) == st.st_size);
}

void peer_run(struct peer *p)
{
	int pair[2];
	int fds[2] = { open(p->top, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600),
		       open(p->top, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) };
	double begin = now_ms();
	bool open_chan = true;
	pid_t pid;

	MUST(chan_pair(pair) == 0 && fds[0] >= 0 && fds[1] >= 0);
	pid = spawn(p, pair[1]);
	close(pair[1]);
	MUST(chan_send_record(pair[0], BUILD_START, 0, &build_start_layout, &p->start, fds,
			      p->start.compress_log ? 2 : 1) == 0);
	while (open_chan) {
		struct pollfd f = { .fd = pair[0], .events = POLLIN };
		int wait = p->cancel_after_ms;

		if (wait >= 0) {
			wait -= (int)(now_ms() - begin);
			wait = wait < 0 ? 0 : wait;
		}
		if (poll(&f, 1, wait) == 0) {
			p->cancel_after_ms = -1;
			if (p->hang_up)
				break;
			if (p->kill) {
				MUST(kill(pid, SIGKILL) == 0);
				continue;
			}
			(void)chan_send(pair[0], BUILD_CANCEL, 0, NULL, 0, NULL, 0);
			continue;
		}
		open_chan = handle(p, pair[0], pid, begin);
	}
	close(pair[0]);
	MUST(waitpid(pid, &p->exit_status, 0) == pid);
	p->ms = now_ms() - begin;
	read_back(p, fds[0], &p->log, &p->log_len);
	read_back(p, fds[1], &p->zlog, &p->zlog_len);
	close(fds[0]);
	close(fds[1]);
}

void peer_done(struct peer *p)
{
	MUST(rm_tree_at(AT_FDCWD, p->top) == 0);
	arena_done(&p->arena);
}
