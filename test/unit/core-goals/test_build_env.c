/* What the builder sees, against golden files made by the stock nix 2.8 (attrs.json, attrs.sh and
 * the environment), and what a derivation may not ask for. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/clock.h"
#include "core/build_env.h"
#include "core/output_check.h"

static const char store[] = "/tmp/golden/store";
static const char attrs_base[] = "1aww34l5l00pyy9bq7d16md32wvkjsdi-attrs.drv";
static const char env_base[] = "nxck7hf1gfkw4kql81avampsr0qh6vjv-env.drv";

struct fixture {
	struct arena a;
	struct drv drv;
	struct drv_opts opts;
	struct settings settings;
	struct strv none;
	struct build_env_input in;
	struct build_start out;
	struct err e;
};

static char *golden(const char *name)
{
	char path[4096], *text;

	snprintf(path, sizeof(path), "%s/golden/attrs/%s", TEST_DATA, name);
	assert_int_equal(read_file_at(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
	return text;
}

static const char *fake_env(const char *name)
{
	return !strcmp(name, "http_proxy") ? "http://proxy" : NULL;
}

static void fixture_init(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	f->a = ARENA_INIT(16 << 20);
	settings_init(&f->settings);
	f->settings.sandbox = SANDBOX_TRUE;
	f->settings.cores = 2;
	f->in = (struct build_env_input){ .store_dir = store,
					  .drv_base = env_base,
					  .drv = &f->drv,
					  .opts = &f->opts,
					  .settings = &f->settings,
					  .inputs = &f->none,
					  .scratch = "/scratch/b-1",
					  .n_processors = 5,
					  .get_env = fake_env };
}

static void fixture_done(struct fixture *f)
{
	drv_opts_done(&f->opts);
	settings_done(&f->settings);
	arena_done(&f->a);
	err_done(&f->e);
}

static void load(struct fixture *f, const char *base)
{
	_cleanup_free_ char *text = golden(base);
	struct store_path p;

	fixture_init(f);
	f->in.drv_base = base;
	assert_int_equal(store_path_parse_base(base, &p, NULL), 0);
	assert_int_equal(drv_parse(store, &p, text, strlen(text), &f->a, &f->drv, &f->e), 0);
	assert_int_equal(drv_opts_parse(&f->drv, &f->a, &f->opts, &f->e), 0);
}

/* A derivation with one output and the given variables. */
static int make(struct fixture *f, const char *const (*env)[2], size_t n)
{
	fixture_init(f);
	f->drv.name = (char *)"x";
	f->drv.platform = (char *)"x86_64-linux";
	f->drv.builder = (char *)"/bin/sh";
	f->drv.outputs.n = 1;
	f->drv.outputs.v = arena_array(&f->a, 1, sizeof(*f->drv.outputs.v));
	f->drv.outputs.v[0] = (struct drv_output){
		.name = (char *)"out",
		.path = (char *)"/tmp/golden/store/00000000000000000000000000000001-x",
		.algo = (char *)"",
	};
	f->drv.env.n = n;
	f->drv.env.v = arena_array(&f->a, n, sizeof(*f->drv.env.v));
	for (size_t i = 0; i < n; i++) {
		f->drv.env.v[i].name = (char *)env[i][0];
		f->drv.env.v[i].value = (char *)env[i][1];
	}
	return drv_opts_parse(&f->drv, &f->a, &f->opts, &f->e);
}

static const char *get(const struct build_pairs *p, const char *name)
{
	for (size_t i = 0; i < p->n; i++)
		if (!strcmp(p->v[i].name, name))
			return p->v[i].value;
	return NULL;
}

static void environment_is_upstreams(void **state)
{
	static const char *const expected[][2] = {
		{ "HOME", "/root" },
		{ "NIX_BUILD_CORES", "2" },
		{ "NIX_BUILD_TOP", "/build" },
		{ "NIX_LOG_FD", "2" },
		{ "NIX_STORE", "own" },
		{ "PATH", "/path-not-set" },
		{ "PWD", "/build" },
		{ "TEMP", "/build" },
		{ "TEMPDIR", "/build" },
		{ "TERM", "xterm-256color" },
		{ "TMP", "/build" },
		{ "TMPDIR", "/build" },
		{ "bigPath", "/build/.attr-1lak0mvllw8rv9i9ygkglvhqsq19qi9ynl4bi7gbf69ab5nzw89a" },
		{ "builder", "/bin/sh" },
		{ "foo", "bar /tmp/golden/store/bsz2jcmh39r7hdh6p6l9g6s7ya7yk27j-env" },
		{ "name", "env" },
		{ "out", "/tmp/golden/store/bsz2jcmh39r7hdh6p6l9g6s7ya7yk27j-env" },
		{ "passAsFile", "big x" },
		{ "system", "x86_64-linux" },
		{ "xPath", "/build/.attr-10a83a91g1r50bdw8g4hn47m7j7m6angpabwc80l9c16nx11cw9d" },
	};
	struct fixture f;

	(void)state;
	load(&f, env_base);
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_int_equal(f.out.env.n, ELEMENTS(expected));
	for (size_t i = 0; i < ELEMENTS(expected); i++) {
		assert_string_equal(f.out.env.v[i].name, expected[i][0]);
		assert_string_equal(f.out.env.v[i].value, expected[i][1]);
	}
	assert_int_equal(f.out.files.n, 2);
	assert_string_equal(
		get(&f.out.files, ".attr-1lak0mvllw8rv9i9ygkglvhqsq19qi9ynl4bi7gbf69ab5nzw89a"),
		"contents");
	/* The placeholder among the arguments, too. */
	assert_string_equal(f.out.args.v[f.out.args.n - 1],
			    "/tmp/golden/store/bsz2jcmh39r7hdh6p6l9g6s7ya7yk27j-env");
	assert_int_equal(f.out.sandbox, SANDBOX_ON);
	assert_int_equal(f.out.fixed, 0);
	fixture_done(&f);
}

static void structured_attributes_are_upstreams(void **state)
{
	_cleanup_free_ char *json = golden("attrs.json"), *sh = golden("attrs.sh");
	struct fixture f;

	(void)state;
	load(&f, attrs_base);
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_string_equal(get(&f.out.files, ".attrs.json"), json);
	assert_string_equal(get(&f.out.files, ".attrs.sh"), sh);
	assert_string_equal(get(&f.out.env, "NIX_ATTRS_JSON_FILE"), "/build/.attrs.json");
	assert_string_equal(get(&f.out.env, "NIX_ATTRS_SH_FILE"), "/build/.attrs.sh");
	assert_null(get(&f.out.env, "out"));
	assert_null(get(&f.out.env, "__json"));
	fixture_done(&f);
}

static void structured_attributes_rule(void **state)
{
	static const char *const env[][2] = {
		{ "__json", "{\"__noChroot\":true,\"requiredSystemFeatures\":[\"kvm\",\"big\"],"
			    "\"outputChecks\":{\"out\":{\"maxSize\":5,\"allowedReferences\":[]}},"
			    "\"unsafeDiscardReferences\":{\"out\":true},"
			    "\"s\":\"\\u001b\\u0001\","
			    "\"exportReferencesGraph\":{\"g\":[[\"/a\"],\"/b\"]}}" }
	};
	static const char *const bad[] = { "",
					   "[",
					   "[]",
					   "{\"__noChroot\":\"yes\"}",
					   "{\"impureEnvVars\":[1]}",
					   "{\"outputChecks\":[]}",
					   "{\"outputChecks\":{\"out\":{\"maxSize\":-1}}}",
					   "{\"exportReferencesGraph\":{\"g\":{}}}",
					   "{\"a\":99999999999999999999}" };
	struct fixture f;

	(void)state;
	assert_int_equal(make(&f, env, 1), 0);
	assert_true(f.opts.no_chroot);
	assert_string_equal(f.opts.required_features.v[0], "big");
	assert_int_equal(f.opts.checks.v[0].max_size, 5);
	assert_true(f.opts.checks.v[0].allowed_references.present);
	assert_false(f.opts.checks.v[0].allowed_requisites.present);
	assert_string_equal(f.opts.unsafe_discard.v[0], "out");
	assert_int_equal(f.opts.graphs.v[0].paths.n, 2);
	f.settings.sandbox = SANDBOX_RELAXED;
	f.in.graphs = &(struct build_graph){ .name = (char *)"g" };
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_non_null(strstr(get(&f.out.files, ".attrs.json"), "\"s\":\"\\u001b\\u0001\""));
	assert_non_null(strstr(get(&f.out.files, ".attrs.json"), "\"g\":[],"));
	fixture_done(&f);
	for (size_t i = 0; i < ELEMENTS(bad); i++) {
		const char *const one[][2] = { { "__json", bad[i] } };

		assert_int_equal(make(&f, one, 1), OPTS_BAD);
		assert_non_null(f.e.msg);
		fixture_done(&f);
	}
}

static void no_chroot_needs_relaxed(void **state)
{
	static const char *const env[][2] = { { "__noChroot", "1" } };
	struct fixture f;

	(void)state;
	assert_int_equal(make(&f, env, 1), 0);
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), ENV_BAD);
	assert_string_equal(
		f.e.msg,
		"derivation '/tmp/golden/store/nxck7hf1gfkw4kql81avampsr0qh6vjv-env.drv' has "
		"'__noChroot' set, but that's not allowed when 'sandbox' is 'true'");
	f.settings.sandbox = SANDBOX_RELAXED;
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_int_equal(f.out.sandbox, SANDBOX_OFF);
	assert_string_equal(f.out.build_dir, "/scratch/b-1/build");
	assert_string_equal(get(&f.out.env, "TMPDIR"), "/scratch/b-1/build");
	/* As the daemon's own user: only if somebody who is trusted wants it. */
	f.in.own_uid = true;
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), ENV_BAD);
	assert_non_null(strstr(f.e.msg, "'trusted-users'"));
	f.opts.no_chroot = false;
	f.drv.kind = DRV_FIXED;
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_int_equal(f.out.sandbox, SANDBOX_ON);
	f.in.trusted = true;
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_int_equal(f.out.sandbox, SANDBOX_OFF);
	f.opts.no_chroot = true;
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_int_equal(f.out.sandbox, SANDBOX_OFF);
	fixture_done(&f);
}

static void only_fixed_outputs_see_the_outside(void **state)
{
	static const char *const env[][2] = { { "impureEnvVars", "http_proxy  no_proxy\n" } };
	struct fixture f;

	(void)state;
	assert_int_equal(make(&f, env, 1), 0);
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_null(get(&f.out.env, "http_proxy"));
	assert_null(get(&f.out.env, "NIX_OUTPUT_CHECKED"));
	f.drv.kind = DRV_FIXED;
	f.drv.fixed = (struct ca){ .method = CA_NAR, .hash = { .algo = HASH_SHA256 } };
	f.drv.outputs.v[0].algo = (char *)"r:sha256";
	f.drv.outputs.v[0].method = CA_NAR;
	f.drv.outputs.v[0].hash_algo = HASH_SHA256;
	f.settings.cores = 0;
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_string_equal(get(&f.out.env, "http_proxy"), "http://proxy");
	assert_string_equal(get(&f.out.env, "no_proxy"), "");
	assert_string_equal(get(&f.out.env, "NIX_OUTPUT_CHECKED"), "1");
	assert_string_equal(get(&f.out.env, "NIX_BUILD_CORES"), "5");
	assert_string_equal(f.out.outputs.v[0].ca, "fixed:r:sha256");
	assert_int_equal(f.out.fixed_hash.n, 32);
	fixture_done(&f);
}

static void sandbox_paths_are_split(void **state)
{
	struct fixture f;

	(void)state;
	assert_int_equal(make(&f, NULL, 0), 0);
	strv_done(&f.settings.sandbox_paths);
	assert_int_equal(strv_add(&f.settings.sandbox_paths, "/bin/sh=/opt/busybox"), 0);
	assert_int_equal(strv_add(&f.settings.sandbox_paths, "/etc/maybe?"), 0);
	f.in.sandbox_closure = &(struct strv){ .v = (char *[]){ (char *)"abc-def" }, .n = 1 };
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_int_equal(f.out.binds.n, 3);
	assert_string_equal(get(&f.out.binds, "/bin/sh"), "/opt/busybox");
	assert_string_equal(get(&f.out.binds, "/etc/maybe"), "/etc/maybe?");
	assert_string_equal(get(&f.out.binds, "/tmp/golden/store/abc-def"),
			    "/tmp/golden/store/abc-def");
	fixture_done(&f);
}

/* Everybody waits meanwhile. */
static void many_reference_graphs_are_read_at_once(void **state)
{
	enum { N = 100000 };
	_cleanup_buf_ struct buf text = BUF_INIT(16 << 20);
	struct fixture f;
	uint64_t start;

	(void)state;
	for (int i = 0; i <= N; i++)
		assert_int_equal(buf_printf(&text, "g%d p%d ", i % N, i), 0);
	assert_int_equal(buf_append_char(&text, 0), 0);
	const char *const env[][2] = { { "exportReferencesGraph", (char *)text.data } };

	start = now_usec();
	assert_int_equal(make(&f, env, 1), 0);
	assert_true(now_usec() - start < 3 * 1000 * 1000);
	assert_int_equal(f.opts.graphs.n, N);
	assert_string_equal(f.opts.graphs.v[0].name, "g0"); /* the last one counts */
	assert_string_equal(f.opts.graphs.v[0].paths.v[0], "p100000");
	fixture_done(&f);
}

static void reference_graphs_have_the_load_db_form(void **state)
{
	static const char *const env[][2] = { { "exportReferencesGraph", "graph /x other /y" } };
	static const char *const odd[][2] = { { "exportReferencesGraph", "graph" } };
	static const char *const climbing[][2] = { { "exportReferencesGraph", "../x /y" } };
	static const char *const hidden[][2] = { { "exportReferencesGraph", ".attrs /y" } };
	char *refs[] = { (char *)"11111111111111111111111111111111-b" };
	struct path_info paths[2] = { { .refs = { .v = refs, .n = 1 } }, {} };
	struct build_graph graphs[2] = { { .name = (char *)"graph", .paths = { paths, 2 } },
					 { .name = (char *)"other" } };
	struct fixture f;

	(void)state;
	snprintf(paths[0].path.base, sizeof(paths[0].path.base), "%s",
		 "00000000000000000000000000000000-a");
	snprintf(paths[1].path.base, sizeof(paths[1].path.base), "%s", refs[0]);
	assert_int_equal(make(&f, env, 1), 0);
	f.in.graphs = graphs;
	assert_int_equal(build_env_make(&f.in, &f.a, &f.out, &f.e), 0);
	assert_string_equal(get(&f.out.files, "graph"),
			    "/tmp/golden/store/00000000000000000000000000000000-a\n\n1\n"
			    "/tmp/golden/store/11111111111111111111111111111111-b\n"
			    "/tmp/golden/store/11111111111111111111111111111111-b\n\n0\n");
	assert_string_equal(get(&f.out.files, "other"), "");
	fixture_done(&f);
	assert_int_equal(make(&f, odd, 1), OPTS_BAD);
	assert_string_equal(f.e.msg, "odd number of tokens in 'exportReferencesGraph': 'graph'");
	fixture_done(&f);
	assert_int_equal(make(&f, climbing, 1), OPTS_BAD);
	assert_string_equal(f.e.msg, "invalid file name '../x' in 'exportReferencesGraph'");
	fixture_done(&f);
	assert_int_equal(make(&f, hidden, 1), OPTS_BAD);
	fixture_done(&f);
}

/* ---- output checks, over a database of two paths: lib -> libc ---- */

#define LIB  "22222222222222222222222222222222-lib"
#define LIBC "33333333333333333333333333333333-libc"
#define OUT  "00000000000000000000000000000001-x"

int db_path_info(struct db *db, const struct store_path *p, struct arena *a, struct path_info *ret)
{
	(void)db;
	*ret = (struct path_info){ .path = *p, .nar_size = 100 };
	if (!strcmp(p->base, LIB))
		return strv_add_arena(&ret->refs, a, arena_strdup(a, LIBC));
	return strcmp(p->base, LIBC) ? DB_ABSENT : 0;
}

static int check(const char *const (*env)[2], struct err *e)
{
	char *refs[] = { (char *)OUT, (char *)LIB };
	struct output_made made = { .name = "out",
				    .info = { .nar_size = 1000, .refs = { .v = refs, .n = 2 } } };
	struct fixture f;
	int r;

	snprintf(made.info.path.base, sizeof(made.info.path.base), "%s", OUT);
	assert_int_equal(make(&f, env, 1), 0);
	r = output_check(NULL, store, env_base, &f.opts, &made, 1, e);
	fixture_done(&f);
	return r;
}

static void outputs_keep_the_rules(void **state)
{
	static const struct {
		const char *name, *value, *error;
	} cases[] = {
		{ "allowedReferences", "out /tmp/golden/store/" LIB, NULL },
		{ "allowedReferences", "out",
		  "output '/tmp/golden/store/" OUT
		  "' is not allowed to refer to the following paths:\n  /tmp/golden/store/" LIB },
		{ "allowedReferences", "/tmp/golden/store/" LIB,
		  "output '/tmp/golden/store/" OUT
		  "' is not allowed to refer to the following paths:\n  /tmp/golden/store/" OUT },
		{ "allowedRequisites", "/tmp/golden/store/" LIB,
		  "output '/tmp/golden/store/" OUT
		  "' is not allowed to refer to the following paths:\n  /tmp/golden/store/" LIBC },
		{ "allowedRequisites", "/tmp/golden/store/" LIB " /tmp/golden/store/" LIBC, NULL },
		{ "disallowedReferences", "/tmp/golden/store/" LIBC, NULL },
		{ "disallowedRequisites", "/tmp/golden/store/" LIBC,
		  "output '/tmp/golden/store/" OUT
		  "' is not allowed to refer to the following paths:\n  /tmp/golden/store/" LIBC },
		{ "disallowedReferences", "dev",
		  "derivation '/tmp/golden/store/nxck7hf1gfkw4kql81avampsr0qh6vjv-env.drv' output "
		  "check "
		  "for 'out' contains output name 'dev', but this is not a valid output of this "
		  "derivation. (Valid outputs are [out].)" },
		{ "__json",
		  "{\"outputChecks\":{\"out\":{\"maxSize\":1000,\"maxClosureSize\":1200}}}", NULL },
		{ "__json", "{\"outputChecks\":{\"out\":{\"maxSize\":999}}}",
		  "path '/tmp/golden/store/" OUT
		  "' is too large at 1000 bytes; limit is 999 bytes" },
		{ "__json", "{\"outputChecks\":{\"out\":{\"maxClosureSize\":1199}}}",
		  "closure of path '/tmp/golden/store/" OUT
		  "' is too large at 1200 bytes; limit is 1199 bytes" },
		{ "__json", "{\"outputChecks\":{\"dev\":{\"maxSize\":1}}}", NULL },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		const char *const env[][2] = { { cases[i].name, cases[i].value } };
		struct err e = {};
		int r = check(env, &e);

		assert_int_equal(r, cases[i].error ? OUTPUT_REJECT : 0);
		if (cases[i].error)
			assert_string_equal(e.msg, cases[i].error);
		err_done(&e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(environment_is_upstreams),
		cmocka_unit_test(structured_attributes_are_upstreams),
		cmocka_unit_test(structured_attributes_rule),
		cmocka_unit_test(no_chroot_needs_relaxed),
		cmocka_unit_test(only_fixed_outputs_see_the_outside),
		cmocka_unit_test(sandbox_paths_are_split),
		cmocka_unit_test(many_reference_graphs_are_read_at_once),
		cmocka_unit_test(reference_graphs_have_the_load_db_form),
		cmocka_unit_test(outputs_keep_the_rules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
