/* See helper.h. */
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

extern char **environ;

void scratch_make(struct scratch *s)
{
	snprintf(s->path, sizeof(s->path), "/tmp/airplant-test-nar-XXXXXX");
	assert_non_null(mkdtemp(s->path));
	s->fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(s->fd >= 0);
	/* The stock nix-store gives up at once when it cannot look into its home. */
	assert_int_equal(setenv("HOME", s->path, 1), 0);
}

void scratch_drop(struct scratch *s)
{
	close_fdp(&s->fd);
	assert_int_equal(rm_tree_at(AT_FDCWD, s->path), 0);
}

int to_buf(void *ctx, const uint8_t *data, size_t len)
{
	return buf_append(ctx, data, len);
}

void put_file(int dirfd, const char *name, const void *data, size_t len, mode_t mode)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write_full(fd, data, len), 0);
	assert_int_equal(fchmod(fd, mode), 0);
}

void dump(int dirfd, const char *name, struct buf *out)
{
	_cleanup_err_ struct err e = { 0 };
	int r = tree_dump(dirfd, name, to_buf, out, &e);

	if (r != 0)
		fail_msg("dump of %s: %s", name, err_msg(&e));
}

int restore(int dirfd, const char *name, const void *data, size_t len, size_t piece,
	    size_t *ret_used, struct err *e)
{
	struct tree_writer *w = tree_writer_new(dirfd, name);
	size_t at = 0, used;
	int r = TREE_MORE;

	assert_non_null(w);
	while (r == TREE_MORE && at < len) {
		size_t n = len - at < piece ? len - at : piece;

		r = tree_writer_feed(w, (const uint8_t *)data + at, n, &used, e);
		assert_true(used <= n);
		assert_true(r != TREE_MORE || used == n);
		at += used;
	}
	tree_writer_free(w);
	if (ret_used)
		*ret_used = at;
	return r;
}

static int file_of(const struct buf *b)
{
	int fd = memfd_create("oracle", MFD_CLOEXEC);

	assert_true(fd >= 0);
	if (b && b->len)
		assert_int_equal(write_full(fd, b->data, b->len), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

static void read_back(int fd, struct buf *out)
{
	ssize_t n;

	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	do {
		assert_int_equal(buf_reserve(out, 65536), 0);
		n = read(fd, out->data + out->len, 65536);
		assert_true(n >= 0);
		out->len += (size_t)n;
	} while (n > 0);
}

bool oracle(const char *verb, const char *path, const struct buf *in, struct buf *out)
{
	_cleanup_close_ int in_fd = file_of(in), out_fd = file_of(NULL);
	char *argv[] = { "nix-store", (char *)verb, (char *)path, NULL };
	posix_spawn_file_actions_t actions;
	int r, status;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in_fd, 0);
	posix_spawn_file_actions_adddup2(&actions, out_fd, 1);
	r = posix_spawnp(&pid, "nix-store", &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (r == ENOENT)
		return false;
	assert_int_equal(r, 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return false;
	assert_int_equal(status, 0);
	if (out)
		read_back(out_fd, out);
	return true;
}

void assert_buf_equal(const struct buf *a, const struct buf *b)
{
	assert_int_equal(a->len, b->len);
	if (a->len)
		assert_memory_equal(a->data, b->data, a->len);
}

mode_t canonical_mode_of(int dirfd, const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(st.st_mtim.tv_sec, 1);
	assert_int_equal(st.st_mtim.tv_nsec, 0);
	return st.st_mode & 07777;
}
