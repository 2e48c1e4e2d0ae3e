/* Derivations written by the stock nix (2.8, with /nix/store as its store directory), and
 * malformed ones made from them by hand.
 *
 * Golden: each must survive parsing and printing byte for byte, pass the check, have the store
 * path its file is named by, and fail the check once one of its output paths is changed. Their
 * inputs lie in the same directory. Must-fail: each must be refused for its own reason. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"
#include "drv/drv.h"

#define DIR_ "/nix/store"

static const struct {
	const char *name;
	bool check; /* parses, but drv_check refuses it */
	const char *why;
} must_fail[] = {
	{ "empty", false,
	  "derivation does not start with 'Derive' or 'DrvWithVersion' (at byte 0)" },
	{ "not-a-derivation", false, "derivation does not start with" },
	{ "version-unknown", false, "Unknown derivation ATerm format version 'next'" },
	{ "trailing-newline", false, "data behind the end of the derivation (at byte 272)" },
	{ "trailing-nul", false, "data behind the end" },
	{ "truncated", false, "expected string ')'" },
	{ "truncated-in-string", false, "unterminated string in derivation" },
	{ "backslash-at-end", false, "unterminated string in derivation" },
	{ "nul-in-string", false, "string contains a NUL byte" },
	{ "no-outputs", false, "must have at least one output" },
	{ "leading-comma", false, "expected string '\"'" },
	{ "trailing-comma", false, "expected string '\"'" },
	{ "missing-comma", false, "expected string ','" },
	{ "output-twice", false, "output 'out' is listed twice" },
	{ "outputs-unsorted", false, "output 'dev' is not in sorted order" },
	{ "output-name-empty", false, "invalid derivation output name '': name must not be empty" },
	{ "output-name-slash", false,
	  "invalid derivation output name '../x': name '../x' contains illegal character '/'" },
	{ "output-name-drv", false, "invalid derivation output name 'drv'" },
	{ "output-path-relative", false, "bad path 'nix/store/x' in derivation" },
	{ "output-path-elsewhere", false, "path '/etc/passwd' is not in the Nix store" },
	{ "output-path-dots", false, "is not in the Nix store" },
	{ "output-path-double-slash", false, "is not in the Nix store" },
	{ "output-path-digest", false, "contains illegal base-32 character 'e'" },
	{ "output-path-no-dash", false, "no '-' between its digest and its name" },
	{ "output-hash-without-algo", false, "output 'out' has a hash but no hash algorithm" },
	{ "mixed-kinds", false, "can't mix derivation output types" },
	{ "fixed-two-outputs", false, "only one fixed output is allowed for now" },
	{ "fixed-not-out", false, "single fixed output must be named \"out\"" },
	{ "fixed-no-path", false, "bad path '' in derivation" },
	{ "fixed-algo-unknown", false, "unknown hash algorithm 'sha3'" },
	{ "fixed-algo-empty-recursive", false, "unknown hash algorithm ''" },
	{ "fixed-algo-text", true, "has incorrect output" },
	{ "fixed-algo-git", false, "has wrong length for hash algorithm 'sha1'" },
	{ "fixed-hash-short", false, "has wrong length for hash algorithm 'sha256'" },
	{ "fixed-hash-not-hex", false, "invalid character in Base16 string: 'g'" },
	{ "fixed-hash-prefixed", false, "has wrong length for hash algorithm 'sha256'" },
	{ "floating-with-path", false,
	  "content-addressing derivation output should not specify output path" },
	{ "floating-two-algos", false, "all floating outputs must use the same hash algorithm" },
	{ "impure-with-path", false, "impure derivation output should not specify output path" },
	{ "inputs-unsorted", false, "is not in sorted order" },
	{ "input-twice", false, "is listed twice" },
	{ "input-not-drv", false, "is not a valid derivation path" },
	{ "input-elsewhere", false, "is not in the Nix store" },
	{ "input-dynamic", false, "expected string '['" },
	{ "input-output-twice", false, "output 'dev' is listed twice" },
	{ "input-output-bad", false, "contains illegal character ' '" },
	{ "src-not-a-path", false, "bad path 'x' in derivation" },
	{ "src-below", false, "is not in the Nix store" },
	{ "src-twice", false, "is listed twice" },
	{ "platform-quote", false, "contains a quote or a backslash" },
	{ "env-twice", false, "environment variable 'builder' is listed twice" },
	{ "env-unsorted", false, "environment variable 'builder' is not in sorted order" },
	{ "env-triple", false, "expected string ')'" },
	{ "wrong-output-path", true,
	  "has incorrect output '/nix/store/vwm98hmzzq1vyxm4ad9mkgbg89r4ndjg-simple-1.0', should "
	  "be '/nix/store/vwm97hmzzq1vyxm4ad9mkgbg89r4ndjg-simple-1.0'" },
	{ "wrong-output-name", true, "has incorrect output" },
	{ "wrong-env-path", true,
	  "has incorrect environment variable 'out', should be "
	  "'/nix/store/vwm97hmzzq1vyxm4ad9mkgbg89r4ndjg-simple-1.0'" },
	{ "changed-builder", true, "has incorrect output" },
	{ "changed-env", true, "has incorrect output" },
	{ "fixed-wrong-path", true,
	  "has incorrect output '/nix/store/6q1nx8s74ikcxl638lylyy8p2i540q4y-f-sha256', should be "
	  "'/nix/store/6q1nx9s74ikcxl638lylyy8p2i540q4y-f-sha256'" },
	{ "fixed-wrong-hash", true, "has incorrect output" },
	{ "fixed-wrong-method", true, "has incorrect output" },
	{ "fixed-wrong-env", true, "has incorrect environment variable 'out'" },
	{ "fixed-no-env", true, "has missing environment variable 'out'" },
};

struct loaded {
	struct arena arena;
	struct store_path path;
	struct drv drv;
	char *text;
	size_t len;
};

static int data_dir(const char *which)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%s/drv", TEST_DATA, which);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void load(int dir, const char *file, struct loaded *l)
{
	struct err e = {};

	*l = (struct loaded){ .arena = ARENA_INIT(1 << 20) };
	assert_int_equal(read_file_at(dir, file, 1 << 20, &l->text, &l->len), 0);
	assert_int_equal(store_path_parse_base(file, &l->path, NULL), 0);
	if (drv_parse(DIR_, &l->path, l->text, l->len, &l->arena, &l->drv, &e))
		fail_msg("%s: %s", file, err_msg(&e));
}

static void unload(struct loaded *l)
{
	arena_done(&l->arena);
	free(l->text);
}

/* The hash of an input that lies in the golden directory. The test data is ours, so that recursion
 * is safe here. */
static int look_up(void *ctx, const char *drv_path, struct drv_hash *ret, struct err *e)
{
	int *dir = ctx, r;
	struct loaded l;

	load(*dir, strrchr(drv_path, '/') + 1, &l);
	r = drv_hash_modulo(&l.drv, false, look_up, ctx, ret, e);
	unload(&l);
	return r;
}

static void check_round_trip(const struct loaded *l)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 20);

	assert_int_equal(drv_print(&l->drv, &b), 0);
	assert_int_equal(b.len, l->len);
	assert_memory_equal(b.data, l->text, l->len);
}

/* A .drv is a text object that refers to its inputs. */
static void check_own_path(const struct loaded *l)
{
	_cleanup_strv_ struct strv refs = {};
	struct ca ca = { .method = CA_TEXT };
	struct store_path own;

	for (size_t i = 0; i < l->drv.srcs.n; i++)
		assert_int_equal(strv_add(&refs, strrchr(l->drv.srcs.v[i], '/') + 1), 0);
	for (size_t i = 0; i < l->drv.inputs.n; i++)
		assert_int_equal(strv_add(&refs, strrchr(l->drv.inputs.v[i].path, '/') + 1), 0);
	strv_sort_uniq(&refs, true);
	hash_buffer(HASH_SHA256, l->text, l->len, &ca.hash);
	assert_int_equal(
		store_path_for_ca(DIR_, store_path_name(&l->path), &ca, &refs, false, &own, NULL),
		0);
	assert_string_equal(own.base, l->path.base);
}

static void check_changed_outputs(const struct loaded *l, int *dir)
{
	for (size_t i = 0; i < l->drv.outputs.n; i++) {
		char *digit = l->drv.outputs.v[i].path + sizeof(DIR_) + 3, was = *digit;
		_cleanup_err_ struct err e = {};

		if (l->drv.kind != DRV_INPUT_ADDRESSED && l->drv.kind != DRV_FIXED)
			return;
		*digit = was == '0' ? '1' : '0';
		assert_int_equal(drv_check(DIR_, &l->drv, look_up, dir, NULL, &e), DRV_BAD);
		assert_non_null(strstr(err_msg(&e), "has incorrect output"));
		*digit = was;
	}
}

static void golden(void **state)
{
	_cleanup_close_ int fd = data_dir("golden");
	DIR *d = fdopendir(dup(fd));
	size_t n = 0, kinds[5] = {};
	struct dirent *entry;

	(void)state;
	assert_non_null(d);
	while ((entry = readdir(d))) {
		struct drv_hash hash, again;
		struct err e = {};
		struct loaded l;

		if (entry->d_name[0] == '.')
			continue;
		load(fd, entry->d_name, &l);
		check_round_trip(&l);
		check_own_path(&l);
		if (drv_check(DIR_, &l.drv, look_up, &fd, &hash, &e))
			fail_msg("%s: %s", entry->d_name, err_msg(&e));
		assert_int_equal(drv_hash_modulo(&l.drv, false, look_up, &fd, &again, NULL), 0);
		assert_memory_equal(hash.bytes, again.bytes, 32);
		assert_int_equal(hash.fixed, l.drv.kind == DRV_FIXED);
		check_changed_outputs(&l, &fd);
		kinds[l.drv.kind]++;
		unload(&l);
		n++;
	}
	closedir(d);
	assert_int_equal(n, 30);
	for (size_t i = 0; i < ELEMENTS(kinds); i++)
		assert_true(kinds[i] > 0);
}

static void refused(void **state)
{
	_cleanup_close_ int dir = data_dir("must-fail"), golden_dir = data_dir("golden");
	struct store_path path;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(must_fail); i++) {
		bool is_fixed = !strncmp(must_fail[i].name, "fixed-", 6);
		_cleanup_arena_ struct arena a = ARENA_INIT(1 << 20);
		_cleanup_free_ char *text = NULL;
		_cleanup_err_ struct err e = {};
		char file[256];
		struct drv d;
		size_t len;
		int r;

		snprintf(file, sizeof(file), "%s.drv", must_fail[i].name);
		assert_int_equal(read_file_at(dir, file, 1 << 20, &text, &len), 0);
		assert_int_equal(
			store_path_parse_base(
				is_fixed ? "b5s64inanmjwm9i4cm3i4vbysvw714w0-f-sha256.drv"
					 : "6zr7yypsjvxf0qvf0d3g0y2r0p6dprch-simple-1.0.drv",
				&path, NULL),
			0);
		r = drv_parse(DIR_, &path, text, len, &a, &d, &e);
		if (must_fail[i].check) {
			if (r)
				fail_msg("%s does not parse: %s", file, err_msg(&e));
			r = drv_check(DIR_, &d, look_up, &golden_dir, NULL, &e);
		}
		assert_int_equal(r, DRV_BAD);
		if (!strstr(err_msg(&e), must_fail[i].why))
			fail_msg("%s gave: %s", file, err_msg(&e));
	}
}

static void every_bad_file_is_listed(void **state)
{
	DIR *d = fdopendir(data_dir("must-fail"));
	struct dirent *entry;
	size_t n = 0;

	(void)state;
	assert_non_null(d);
	while ((entry = readdir(d)))
		n += entry->d_name[0] != '.';
	closedir(d);
	assert_int_equal(n, ELEMENTS(must_fail));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden),
		cmocka_unit_test(refused),
		cmocka_unit_test(every_bad_file_is_listed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
