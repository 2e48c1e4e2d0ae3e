/* A build that has a daemon of its own (the feature recursive-nix): its socket, and the process
 * that shows its builder what comes to its inputs.
 *
 * The supervisor, which reads what the builder leaves behind, could do that only with capabilities
 * that it gives up. So it starts a process for it before it does: one whose mount namespace holds
 * the store and nothing else, which takes base names from the core over a channel of its own,
 * mounts each where the builder sees it, read-only, and reads no byte of the builder's. Linked by
 * airplant-build alone. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "build/supervisor.h"
#include "confine/confine.h"

enum { BACKLOG = 64, FIRST_KEPT = 128, NAMES_MEMORY = 64 << 20, SENTENCE_MAX = 4096 };

/* The process that shows paths. */
struct show {
	const struct build *b;
	int chan, pipe;	 /* to the core; to the supervisor, whose end ends it */
	int own, theirs; /* mount namespaces */
	int store;	 /* the real one: this process's root directory */
	int seen;	 /* as the builder sees it; -1 before the first path */
};

int show_bind(struct build *b, int dir, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s", dir, BUILD_SOCKET);
	if (bind(b->socket, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    fchmodat(dir, BUILD_SOCKET, 0600, 0) < 0 || listen(b->socket, BACKLOG) < 0)
		return err_errno(e, -errno, "making the socket '%s/%s'", b->s.build_dir,
				 BUILD_SOCKET);
	return 0;
}

/* Beneath it lies the builder's store; the way there is the builder's to arrange, so no link is
 * followed.
 */
static int open_seen(struct show *w)
{
	if (w->seen < 0) {
		_cleanup_close_ int root = open_beneath(AT_FDCWD, ".", O_PATH | O_DIRECTORY, 0);

		if (root < 0)
			return root;
		w->seen = open_beneath(root, w->b->s.store_dir + 1, O_PATH | O_DIRECTORY, 0);
	}
	return w->seen < 0 ? w->seen : 0;
}

static int goes(int namespace)
{
	return setns(namespace, CLONE_NEWNS) < 0 ? -errno : 0;
}

/* There already: an input, a path of a store that is shown as a whole, or something that the
 * builder made in its place, who then deceives itself alone. */
static bool is_there(const struct show *w, const char *base, const struct stat *source)
{
	struct stat st;

	if (fstatat(w->seen, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	return w->b->s.sandbox != SANDBOX_ON || S_ISLNK(source->st_mode) ||
	       (st.st_dev == source->st_dev && st.st_ino == source->st_ino);
}

static int make_link(const struct show *w, const char *base)
{
	char to[4096];
	ssize_t n = readlinkat(w->store, base, to, sizeof(to) - 1);

	if (n < 0 || (size_t)n == sizeof(to) - 1)
		return n < 0 ? -errno : -ENAMETOOLONG;
	to[n] = 0;
	return symlinkat(to, w->seen, base) < 0 ? -errno : 0;
}

static int open_place(const struct show *w, const char *base, bool is_dir)
{
	int r = is_dir ? mkdirat(w->seen, base, 0555) : mknodat(w->seen, base, S_IFREG | 0444, 0);

	if (r < 0 && errno != EEXIST)
		return -errno;
	return open_beneath(w->seen, base, O_PATH | (is_dir ? O_DIRECTORY : 0), 0);
}

static int mount_path(const struct show *w, const char *base, bool is_dir)
{
	_cleanup_close_ int place = open_place(w, base, is_dir);
	_cleanup_close_ int tree =
		(int)syscall(SYS_open_tree, w->store, base,
			     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	int r, back;

	if (place < 0 || tree < 0)
		return place < 0 ? place : -errno;
	r = goes(w->theirs);
	if (r < 0)
		return r;
	if (syscall(SYS_move_mount, tree, "", place, "",
		    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		r = -errno;
	back = goes(w->own);
	return r < 0 ? r : back;
}

static bool is_output(const struct build *b, const char *base)
{
	for (size_t i = 0; i < b->s.outputs.n; i++)
		if (!strcmp(b->s.outputs.v[i].path, base))
			return true;
	return false;
}

static int show_path(struct show *w, const char *base)
{
	struct stat st;

	if (!*base || *base == '.' || strchr(base, '/') || strlen(base) > 255)
		return -EINVAL;
	if (is_output(w->b, base))
		return 0; /* what the builder makes itself must stay what it sees */
	if (fstatat(w->store, base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (is_there(w, base, &st))
		return 0;
	return S_ISLNK(st.st_mode) ? make_link(w, base) : mount_path(w, base, S_ISDIR(st.st_mode));
}

/* The builder's root is complete when it can ask for the first path. */
static int find_seen(struct show *w)
{
	int r, back;

	if (w->seen >= 0)
		return 0;
	r = goes(w->theirs);
	if (r < 0)
		return r;
	r = open_seen(w);
	back = goes(w->own);
	return r < 0 ? r : back;
}

/* 0, or the end. */
static int serve_one(struct show *w)
{
	_cleanup_arena_ struct arena a = ARENA_INIT(NAMES_MEMORY);
	_cleanup_msg_ struct msg m = MSG_INIT;
	_cleanup_err_ struct err e = { 0 };
	struct build_shown answer = { 0 };
	struct build_names names;
	int r = chan_recv(w->chan, NAMES_MEMORY / 2, &m);

	if (r != 0 || m.type != BUILD_SHOW || msg_decode(&m, &build_names_layout, &a, &names))
		return -1;
	r = find_seen(w);
	if (r < 0)
		(void)err_errno(&e, r, "opening the builder's '%s'", w->b->s.store_dir);
	for (size_t i = 0; r == 0 && i < names.names.n; i++) {
		r = show_path(w, names.names.v[i]);
		if (r < 0)
			(void)err_errno(&e, r, "making '%s/%s' available to the builder",
					w->b->s.store_dir, names.names.v[i]);
	}
	answer.ok = r == 0;
	answer.error = r < 0 ? e.msg : NULL;
	return chan_send_record(w->chan, BUILD_SHOWN, m.id, &build_shown_layout, &answer, NULL, 0);
}

static _noreturn_ void serve(struct show *w)
{
	struct pollfd p[] = { { .fd = w->chan, .events = POLLIN }, { .fd = w->pipe } };

	for (;;) {
		if (poll(p, ELEMENTS(p), -1) < 0 && errno != EINTR)
			_exit(1);
		if (p[1].revents || (p[0].revents && serve_one(w) < 0))
			_exit(0);
	}
}

/* Everything else is closed. The supervisor's channel stays, and the lease: as long as this process
 * has the slot's id, the core knows of it, and the slot is not free. */
static int keep_only(struct show *w, struct build *b)
{
	int *fds[] = { &w->chan, &w->pipe, &w->own, &w->theirs, &w->store, &b->chan, &b->lease_fd };

	for (size_t i = 0; i < ELEMENTS(fds); i++) {
		if (*fds[i] < 0)
			continue;
		*fds[i] = fcntl(*fds[i], F_DUPFD_CLOEXEC, FIRST_KEPT);
		if (*fds[i] < 0)
			return -errno;
	}
	return syscall(SYS_close_range, 3U, FIRST_KEPT - 1U, 0U) < 0 ? -errno : 0;
}

static int set_readonly(struct err *e)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID |
					       MOUNT_ATTR_NODEV };

	return syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &attr, sizeof(attr)) < 0
		       ? err_errno(e, -errno, "making the store read-only")
		       : 0;
}

static int seclude(struct show *w, struct build *b, struct err *e)
{
	int r;

	if (unshare(CLONE_NEWNS) < 0)
		return err_errno(e, -errno, "creating a mount namespace");
	w->own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (w->own < 0)
		return err_errno(e, -errno, "opening a mount namespace");
	r = ns_retreat_to(b->s.real_store, &w->store, e);
	if (r == 0)
		r = set_readonly(e);
	if (r == 0)
		r = child_become_slot(b, e);
	umask(0);
	if (r == 0) {
		r = keep_only(w, b);
		if (r < 0)
			(void)err_errno(e, r, "closing file descriptors");
	}
	if (r == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		r = err_errno(e, -errno, "setting death signal");
	return r < 0 ? r : confine_seal(CONFINE_SHOWER, e);
}

static _noreturn_ void show_main(struct build *b, int theirs, int pipe)
{
	struct show w = { .b = b,
			  .chan = b->show_chan,
			  .pipe = pipe,
			  .own = -1,
			  .theirs = theirs,
			  .store = -1,
			  .seen = -1 };
	struct err e = { 0 };

	if (seclude(&w, b, &e) < 0) {
		const char *text = err_msg(&e);

		(void)write_full(w.pipe, text, strlen(text)); /* or it is gone, and we are too */
		_exit(1);
	}
	if (write_full(w.pipe, "S", 1) < 0)
		_exit(1);
	serve(&w);
}

/* Its first word: that it is ready, or why not. */
static int hear_first(int fd, struct err *e)
{
	char text[SENTENCE_MAX];
	ssize_t n;

	do
		n = read(fd, text, sizeof(text) - 1);
	while (n < 0 && errno == EINTR);
	if (n == 1 && *text == 'S')
		return 0;
	text[n > 0 ? n : 0] = 0;
	return err_set(e, -EIO, "starting what shows paths to the builder: %s",
		       n > 0 ? text : "it ended");
}

/* Waits until the builder's process says that it can be opened. Positive: it has failed, and what it
 * says instead, or its end, is for watch_run. */
static int open_theirs(const struct build *b, int *ret, struct err *e)
{
	char path[64], word[2];
	ssize_t n;

	do
		n = recv(b->status_fd, word, sizeof(word), MSG_PEEK);
	while (n < 0 && errno == EINTR);
	if (n != 1 || *word != 'N')
		return 1;
	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)b->pid);
	*ret = open(path, O_RDONLY | O_CLOEXEC);
	if (*ret < 0 || read(b->status_fd, word, 1) != 1 || write_full(b->status_fd, "N", 1) < 0)
		return err_errno(e, -errno, "opening the builder's mount namespace");
	return 0;
}

int show_start(struct build *b, struct err *e)
{
	_cleanup_close_ int theirs = -1;
	int pair[2], r;
	pid_t pid;

	close_fdp(&b->socket); /* the builder's process has it */
	if (!b->s.recursive)
		return 0;
	r = open_theirs(b, &theirs, e);
	if (r != 0)
		return r < 0 ? r : 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(e, -errno, "creating a socket pair");
	pid = fork();
	if (pid == 0) {
		close(pair[0]);
		show_main(b, theirs, pair[1]);
	}
	close(pair[1]);
	close_fdp(&b->show_chan);
	b->show_pipe = pair[0];
	if (pid < 0)
		return err_errno(e, -errno, "starting what shows paths to the builder");
	b->show_pid = pid;
	return hear_first(b->show_pipe, e);
}

void show_end(struct build *b)
{
	close_fdp(&b->show_pipe);
	if (b->show_pid <= 0)
		return;
	while (wait4(b->show_pid, NULL, __WALL, NULL) < 0 && errno == EINTR)
		;
	b->show_pid = 0;
}

int show_added(struct build *b, struct err *e)
{
	_cleanup_msg_ struct msg m = MSG_INIT;
	struct build_names added;
	int r;

	if (!b->s.recursive)
		return 0;
	r = watch_send(b, BUILD_ASK_ADDED, NULL, NULL);
	if (r == 0)
		r = watch_receive(b, BUILD_ADDED, &m);
	if (r != 0 || msg_decode(&m, &build_names_layout, &b->arena, &added))
		return err_set(e, -EPROTO,
			       "the daemon does not say what came to the build's inputs");
	for (size_t i = 0; i < added.names.n; i++)
		if (strv_add_arena(&b->s.inputs, &b->arena, added.names.v[i]) < 0)
			return err_set(e, -ENOMEM, "out of memory");
	return 0;
}
