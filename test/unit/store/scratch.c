/* See scratch.h. */
#include "scratch.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

int scratch_setup(void **state)
{
	const char *tmp = getenv("TMPDIR");
	char *dir;

	if (asprintf(&dir, "%s/airplant-store-XXXXXX", tmp ? tmp : "/tmp") < 0 || !mkdtemp(dir))
		return -1;
	*state = dir;
	return 0;
}

int scratch_teardown(void **state)
{
	int r = rm_tree_at(-100 /* AT_FDCWD */, *state);

	free(*state);
	return r;
}

const char *in_scratch(void *const *state, const char *name)
{
	static char bufs[8][4096];
	static unsigned int next;
	char *buf = bufs[next++ % ELEMENTS(bufs)];

	snprintf(buf, sizeof(bufs[0]), "%s/%s", (const char *)*state, name);
	return buf;
}

struct store_path path_of(char letter, const char *name)
{
	struct store_path p;

	memset(p.base, letter, STORE_DIGEST_LEN);
	snprintf(p.base + STORE_DIGEST_LEN, sizeof(p.base) - STORE_DIGEST_LEN, "-%s", name);
	return p;
}

struct store_path path_nr(unsigned int i, const char *name)
{
	static const char digits[] = "0123456789abcdfghijklmnpqrsvwxyz";
	struct store_path p = path_of('0', name);
	uint64_t mixed = (i + 1) * 0x9e3779b97f4a7c15ULL;

	for (size_t k = 0; k < 12; k++)
		p.base[k] = digits[(mixed >> (5 * k)) & 31];
	for (size_t k = 0; k < 7; k++)
		p.base[12 + k] = digits[(i >> (5 * k)) & 31];
	return p;
}

struct registration reg_of(struct store_path p, struct arena *a, ...)
{
	struct registration reg = {
		.info = { .path = p, .nar_size = 120, .registration_time = 1000 }
	};
	const char *ref;
	va_list ap;

	memset(reg.info.nar_hash, 0xab, sizeof(reg.info.nar_hash));
	reg.info.deriver = reg.info.ca = (char *)"";
	va_start(ap, a);
	while ((ref = va_arg(ap, const char *)))
		assert_int_equal(strv_add_arena(&reg.info.refs, a, arena_strdup(a, ref)), 0);
	va_end(ap);
	return reg;
}

struct db *open_db(void *const *state, enum db_mode mode)
{
	_cleanup_err_ struct err e = { 0 };
	struct db *db = NULL;
	int r = db_open(in_scratch(state, "db"), mode, STORE, false, &db, &e);

	if (r)
		print_error("db_open: %s\n", err_msg(&e));
	assert_int_equal(r, 0);
	return db;
}

void register_ok(struct db *db, struct registration *v, size_t n)
{
	_cleanup_err_ struct err e = { 0 };
	int r = db_register_many(db, v, n, &e);

	if (r)
		print_error("db_register_many: %s\n", err_msg(&e));
	assert_int_equal(r, 0);
}

int shell(char *out, size_t size, const char *fmt, ...)
{
	char line[16384];
	size_t len = 0, got;
	va_list ap;
	FILE *f;
	int status;

	va_start(ap, fmt);
	assert_true(vsnprintf(line, sizeof(line), fmt, ap) < (int)sizeof(line));
	va_end(ap);
	/* A test's own words only: no foreign text reaches the shell. */
	f = popen(line, "r");
	assert_non_null(f);
	while ((got = fread(out + len, 1, size - 1 - len, f)) > 0)
		len += got;
	out[len] = 0;
	while (len && out[len - 1] == '\n')
		out[--len] = 0;
	status = pclose(f);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
