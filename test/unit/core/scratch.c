/* See scratch.h. */
#include "scratch.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "core/sigcheck.h"

static char *sub(const struct scratch *s, const char *name)
{
	char *path;
	int n = asprintf(&path, "%s/%s", s->top, name);

	assert(n > 0);
	return path;
}

void scratch_open(struct scratch *s)
{
	_cleanup_free_ char *db = NULL;
	struct err e = {};
	int r;

	*s = (struct scratch){ .core = { .store_fd = -1 } };
	strcpy(s->top, "/tmp/airplant-test-XXXXXX");
	assert(mkdtemp(s->top));
	s->core.uid = geteuid();
	s->core.gid = getegid();
	settings_init(&s->core.settings);
	s->core.loop = loop_new();
	s->core.keyring = keyring_new();
	s->core.store_dir = sub(s, "store");
	s->core.state_dir = sub(s, "state");
	s->core.log_dir = sub(s, "log");
	db = sub(s, "state/db");
	r = mkdir_p(s->core.store_dir, 0755) | mkdir_p(db, 0755);
	assert(r == 0);
	s->core.store_fd = open(s->core.store_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = db_open(db, DB_WRITE, s->core.store_dir, false, &s->core.db, &e);
	assert(r == 0);
	r = spool_open(&s->core, &s->core.spool, &e);
	assert(r == 0);
	s->core.place = place_new(&s->core);
	assert(s->core.place);
}

void scratch_close(struct scratch *s)
{
	place_free(s->core.place);
	spool_close(s->core.spool);
	db_close(s->core.db);
	close(s->core.store_fd);
	loop_free(s->core.loop);
	keyring_free(s->core.keyring);
	settings_done(&s->core.settings);
	free(s->core.store_dir);
	free(s->core.state_dir);
	free(s->core.log_dir);
	(void)rm_tree_at(AT_FDCWD, s->top);
}

static void quit(void *ctx)
{
	loop_quit(ctx);
}

void scratch_spin(struct scratch *s)
{
	int r = loop_timer(s->core.loop, 1000, quit, s->core.loop, NULL);

	assert(r == 0);
	r = loop_run(s->core.loop);
	assert(r == 0);
}

void scratch_write(int dirfd, const char *name, const char *text)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	int r = fd < 0 ? -1 : write_full(fd, text, strlen(text));

	assert(r == 0);
	close(fd);
}

bool scratch_exists(const struct scratch *s, const char *base)
{
	struct stat st;

	return fstatat(s->core.store_fd, base, &st, AT_SYMLINK_NOFOLLOW) == 0;
}
