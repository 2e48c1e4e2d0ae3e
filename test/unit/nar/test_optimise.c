/* Sharing equal files while somebody exchanges them. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "nar/optimise.h"
#include "nar/tree.h"

#include "helper.h"

enum { SIZE = 128 << 20 }; /* takes a moment to measure */

static void note(void *ctx, unsigned level, const char *text)
{
	(void)ctx, (void)level, (void)text;
}

static void put_large(int dirfd, const char *name, char last)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL, 0444);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	assert_int_equal(pwrite(fd, &last, 1, SIZE - 1), 1);
}

/* As soon as somebody reads `name`, `other` takes its place. */
static pid_t exchange_when_opened(int dirfd, const char *name, const char *other)
{
	char path[64], event[4096];
	int in = inotify_init1(IN_CLOEXEC);
	pid_t pid;

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name);
	assert_true(inotify_add_watch(in, path, IN_OPEN) >= 0);
	pid = fork();
	if (pid == 0)
		_exit(read(in, event, sizeof(event)) > 0 && renameat(dirfd, other, dirfd, name) == 0
			      ? 0
			      : 1);
	close(in);
	return pid;
}

static struct optimise make(struct scratch *s)
{
	struct optimise o = { .note = note };

	scratch_make(s);
	assert_int_equal(mkdirat(s->fd, ".links", 0755), 0);
	assert_int_equal(mkdirat(s->fd, "temp", 0755), 0);
	o.store = s->fd;
	o.links = openat(s->fd, ".links", O_RDONLY | O_DIRECTORY);
	o.temp = openat(s->fd, "temp", O_RDONLY | O_DIRECTORY);
	return o;
}

static void done(struct scratch *s, struct optimise *o)
{
	close(o->links);
	close(o->temp);
	scratch_drop(s);
}

/* Every name in .links is what is behind it. */
static void assert_links_are_true(const struct optimise *o, const char *name)
{
	struct tree_facts facts;
	struct stat st, link;
	char hash[64];

	assert_int_equal(tree_measure(o->store, name, NULL, &facts, NULL), 0);
	base32_encode(facts.nar_hash, 32, hash);
	assert_int_equal(fstatat(o->store, name, &st, 0), 0);
	if (fstatat(o->links, hash, &link, 0) == 0)
		assert_int_equal(link.st_ino, st.st_ino);
	else
		assert_int_equal(st.st_nlink, 1); /* it has no other name there */
}

static void exchanged_while_it_is_measured(void **state)
{
	struct scratch s;
	struct optimise o = make(&s);
	int status;
	pid_t pid;

	(void)state;
	put_large(s.fd, "path", 'a');
	put_large(s.fd, "another", 'b');
	pid = exchange_when_opened(s.fd, "path", "another");
	assert_int_equal(optimise_path(&o, "path", NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_links_are_true(&o, "path");
	/* The victim has what was measured. */
	put_large(s.fd, "victim", 'a');
	assert_int_equal(optimise_path(&o, "victim", NULL), 0);
	assert_links_are_true(&o, "victim");
	assert_int_equal(o.files, 0);
	done(&s, &o);
}

static void exchanged_before_it_is_replaced(void **state)
{
	struct scratch s;
	struct optimise o = make(&s);
	struct stat st;
	int status;
	pid_t pid;

	(void)state;
	put_large(s.fd, "first", 'a');
	put_large(s.fd, "path", 'a');
	put_large(s.fd, "another", 'b');
	assert_int_equal(optimise_path(&o, "first", NULL), 0);
	pid = exchange_when_opened(s.fd, "path", "another");
	assert_int_equal(optimise_path(&o, "path", NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(o.files, 0);
	assert_int_equal(fstatat(s.fd, "path", &st, 0), 0);
	assert_int_equal(st.st_nlink, 1); /* it is `another`, as it came */
	done(&s, &o);
}

static void equal_files_are_shared(void **state)
{
	struct scratch s;
	struct optimise o = make(&s);
	struct stat a, b;

	(void)state;
	put_file(s.fd, "a", "hello", 5, 0444);
	put_file(s.fd, "b", "hello", 5, 0444);
	assert_int_equal(symlinkat("x", s.fd, "l"), 0);
	assert_int_equal(symlinkat("x", s.fd, "m"), 0);
	for (const char *const *n = (const char *const[]){ "a", "b", "l", "m", NULL }; *n; n++)
		assert_int_equal(optimise_path(&o, *n, NULL), 0);
	assert_int_equal(o.files, 2);
	assert_int_equal(fstatat(s.fd, "a", &a, 0), 0);
	assert_int_equal(fstatat(s.fd, "b", &b, 0), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(a.st_nlink, 3);
	done(&s, &o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_files_are_shared),
		cmocka_unit_test(exchanged_while_it_is_measured),
		cmocka_unit_test(exchanged_before_it_is_replaced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
