/* The operations over a socket pair, with a real database and the tests' core behind. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "client.h"
#include "hash/hash.h"
#include "store/db.h"

#define ABSENT "/nix/store/00000000000000000000000000000000-absent"

static struct fake_core core;

static int setup(void **state)
{
	char dir[] = "/tmp/airplant-session-XXXXXX";

	(void)state;
	core = (struct fake_core){ .trusted = true };
	if (!mkdtemp(dir))
		return -1;
	fake_core_init(&core, dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	db_closep(&core.keep);
	return rm_tree_at(AT_FDCWD, core.dir);
}

static size_t spool_entries(void)
{
	char path[300];
	size_t n = 0;

	(void)snprintf(path, sizeof(path), "%s/spool", core.dir);
	DIR *d = opendir(path);
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static void ask_path(struct client *c, enum wire_op op, const char *path)
{
	wire_put_u64(&c->out, op);
	wire_put_str(&c->out, path);
	client_send(c);
}

static void test_queries_of_nothing(void **state)
{
	struct client c;

	(void)state;
	client_start(&c, &core, 38);
	client_options(&c, NULL, NULL);
	ask_path(&c, OP_IS_VALID_PATH, ABSENT);
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 0);
	ask_path(&c, OP_QUERY_PATH_INFO, ABSENT);
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 0);
	ask_path(&c, OP_QUERY_REFERRERS, ABSENT);
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 0);
	ask_path(&c, OP_QUERY_DERIVATION_OUTPUT_MAP, ABSENT);
	assert_false(client_answer(&c));
	assert_string_equal(c.error, "path '" ABSENT "' is not valid");
	ask_path(&c, OP_NAR_FROM_PATH, ABSENT);
	assert_false(client_answer(&c));
	ask_path(&c, OP_QUERY_PATH_FROM_HASH_PART, "0000");
	assert_false(client_answer(&c));
	assert_string_equal(c.error, "invalid hash part");
	assert_true(client_end(&c)); /* all of these left the connection usable */
}

/* Paths and hashes were computed by the stock nix-store. */
static void test_add_methods(void **state)
{
	static const struct {
		const char *method, *path;
		bool nar;
	} rows[] = {
		{ "text:sha256", "/nix/store/y1yx1nbhxp1nc7rcn6s8mxjzz9qxxxni-hi", false },
		{ "fixed:sha256", "/nix/store/nnrf0rczkf9y41jzm3nimr4r8ha2ncx2-hi", false },
		{ "fixed:sha1", "/nix/store/v3nvql22wybcpm3p01i6rzz0a22a23rd-hi", false },
		{ "fixed:r:sha256", "/nix/store/r8cw59hd8m13jd5pcwh8lwjapvniawmf-hi", true },
		{ "fixed:r:md5", "/nix/store/gxr3hc06pdlvll61z1w8j3fw0dcy3ln6-hi", true },
	};
	struct buf nar = BUF_INIT(4096);
	struct client c;

	(void)state;
	file_nar(&nar, "hello\n");
	client_start(&c, &core, 38);
	for (int twice = 0; twice < 2; twice++) {
		for (size_t i = 0; i < ELEMENTS(rows); i++) {
			if (rows[i].nar)
				client_add(&c, "hi", rows[i].method, nar.data, nar.len);
			else
				client_add(&c, "hi", rows[i].method, "hello\n", 6);
			client_send(&c);
			assert_true(client_answer(&c));
			struct wire_info info = client_keyed_info(&c);
			assert_string_equal(info.path.base, rows[i].path + 11);
			assert_int_equal(info.nar_size, nar.len);
			uint8_t hash[32];
			sha256(nar.data, nar.len, hash);
			assert_memory_equal(info.nar_hash, hash, 32);
			assert_int_equal(strncmp(info.ca, rows[i].method, strlen(rows[i].method)),
					 0);
		}
	}
	assert_int_equal(spool_entries(), 0);
	ask_path(&c, OP_NAR_FROM_PATH, rows[0].path);
	assert_true(client_answer(&c));
	uint8_t back[4096];
	assert_int_equal(wire_bytes(&c.in, back, nar.len), 0);
	assert_memory_equal(back, nar.data, nar.len);
	ask_path(&c, OP_EXPORT_PATH, rows[0].path);
	wire_put_u64(&c.out, 0);
	client_send(&c);
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 1);
	assert_true(c.n_written > nar.len);
	assert_memory_equal(c.written, nar.data, nar.len);
	assert_true(client_end(&c));
	buf_done(&nar);
}

static void test_many_at_once(void **state)
{
	struct client c;
	char name[20];

	(void)state;
	client_start(&c, &core, 34);
	for (int i = 0; i < 500; i++) {
		(void)snprintf(name, sizeof(name), "n%d", i);
		client_add(&c, name, "text:sha256", name, strlen(name));
	}
	client_add(&c, "n7", "text:sha256", "n7", 2); /* known, but perhaps on its way only */
	client_send(&c);
	for (int i = 0; i < 501; i++) {
		assert_true(client_answer(&c));
		struct wire_info info = client_keyed_info(&c);
		(void)snprintf(name, sizeof(name), "n%d", i == 500 ? 7 : i);
		assert_string_equal(info.path.base + 33, name);
		arena_done(&c.a);
		c.a = ARENA_INIT(64 << 20);
	}
	wire_put_u64(&c.out, OP_QUERY_ALL_VALID_PATHS);
	client_send(&c);
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 500);
	for (int i = 0; i < 500; i++)
		(void)client_str(&c);
	assert_int_equal(spool_entries(), 0);
	assert_true(client_end(&c));
}

static void test_big_flat_file(void **state)
{
	enum { LEN = 3 << 20 };
	char *data = malloc(LEN);
	struct client c;

	(void)state;
	memset(data, 'x', LEN);
	client_start(&c, &core, 38);
	client_add(&c, "big", "fixed:sha256", data, LEN);
	client_send(&c);
	assert_true(client_answer(&c));
	struct wire_info info = client_keyed_info(&c);
	assert_int_equal(info.nar_size, LEN + 112);
	assert_true(client_end(&c));
	free(data);
}

static void test_bad_adds(void **state)
{
	struct client c;

	(void)state;
	client_start(&c, &core, 38);
	client_add(&c, "x", "fixed:r:sha256", "this is no NAR at all", 21);
	client_send(&c);
	assert_false(client_answer(&c));
	client_add(&c, "x", "fixed:r:sha256", "", 0);
	client_send(&c);
	assert_false(client_answer(&c));
	client_add(&c, "x", "fixed:q:sha256", "abc", 3);
	client_send(&c);
	assert_false(client_answer(&c));
	client_add(&c, "a/b", "text:sha256", "abc", 3);
	client_send(&c);
	assert_false(client_answer(&c));
	assert_int_equal(spool_entries(), 0);
	ask_path(&c, OP_IS_VALID_PATH, ABSENT); /* still in step */
	assert_true(client_answer(&c));
	assert_true(client_end(&c));
}

static void test_core_refuses(void **state)
{
	struct client c;

	(void)state;
	core.refuse_add = "no room";
	client_start(&c, &core, 38);
	client_add(&c, "a", "text:sha256", "a", 1);
	client_add(&c, "b", "text:sha256", "b", 1);
	ask_path(&c, OP_IS_VALID_PATH, ABSENT);
	assert_false(client_answer(&c));
	assert_string_equal(c.error, "no room");
	assert_false(client_answer(&c));
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 0);
	assert_int_equal(spool_entries(), 0);
	assert_true(client_end(&c));
}

static void put_nar_info(struct client *c, const char *path, const struct buf *nar, unsigned spoil)
{
	uint8_t hash[32];
	char hex[65];

	sha256(nar->data, nar->len, hash);
	hash[0] ^= spoil == 1;
	base16_encode(hash, 32, hex);
	wire_put_str(&c->out, path);
	wire_put_str(&c->out, "");
	wire_put_str(&c->out, hex);
	wire_put_u64(&c->out, 0);
	wire_put_u64(&c->out, 0);
	wire_put_u64(&c->out, nar->len + (spoil == 2));
	wire_put_u64(&c->out, 0);
	wire_put_u64(&c->out, 0);
	wire_put_str(&c->out,
		     spoil == 3 ? "text:sha256:0000000000000000000000000000000000000000000000000000"
				: "");
}

static void put_add_nar(struct client *c, const char *path, const struct buf *nar, unsigned spoil)
{
	wire_put_u64(&c->out, OP_ADD_TO_STORE_NAR);
	put_nar_info(c, path, nar, spoil);
	wire_put_u64(&c->out, 0);
	wire_put_u64(&c->out, 1);
	if (wire_gate(c->version, GATE_NAR_FRAMED)) {
		wire_put_u64(&c->out, nar->len);
		wire_put_raw(&c->out, nar->data, nar->len);
		wire_put_u64(&c->out, 0);
	} else if (wire_gate(c->version, GATE_NAR_READ)) {
		c->pull = nar->data;
		c->pull_len = nar->len;
	} else {
		wire_put_raw(&c->out, nar->data, nar->len);
	}
	client_send(c);
}

#define P(i) "/nix/store/1111111111111111111111111111111" i "-p"

static void test_add_nar(void **state)
{
	static const unsigned minors[] = { 18, 21, 22, 23, 34, 38 };
	static const char *const paths[] = { P("1"), P("2"), P("3"), P("4"), P("5"), P("6") };
	struct buf nar = BUF_INIT(4096);

	(void)state;
	file_nar(&nar, "some contents that take more than one answer to a READ frame");
	for (size_t i = 0; i < ELEMENTS(minors); i++) {
		struct client c;
		client_start(&c, &core, minors[i]);
		for (int twice = 0; twice < 2; twice++) {
			put_add_nar(&c, paths[i], &nar, 0);
			assert_true(client_answer(&c));
		}
		assert_int_equal(c.n_reads > 0, minors[i] == 21 || minors[i] == 22);
		ask_path(&c, OP_IS_VALID_PATH, paths[i]);
		assert_true(client_answer(&c));
		assert_int_equal(client_u64(&c), 1);
		assert_true(client_end(&c));
	}
	buf_done(&nar);
}

static void test_add_nar_lies(void **state)
{
	static const char *const sentences[] = {
		"hash mismatch importing path '" P("7") "';\n  specified: ",
		"size mismatch importing path '" P("7") "';\n  specified: 121\n  "
							"got:       120",
		"ca hash mismatch importing path '" P("7") "'"
	};
	struct buf nar = BUF_INIT(4096);
	struct client c;

	(void)state;
	file_nar(&nar, "x");
	client_start(&c, &core, 38);
	for (unsigned i = 0; i < 3; i++) {
		put_add_nar(&c, P("7"), &nar, i + 1);
		assert_false(client_answer(&c));
		assert_int_equal(strncmp(c.error, sentences[i], strlen(sentences[i])), 0);
	}
	ask_path(&c, OP_IS_VALID_PATH, P("7"));
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 0);
	assert_int_equal(spool_entries(), 0);
	assert_true(client_end(&c));
	buf_done(&nar);
}

static void put_multiple(struct client *c, const struct buf *nar, size_t n, bool spoil_last)
{
	struct wire_out body = { .b = BUF_INIT(64 << 20), .store_dir = "/nix/store" };
	struct client inner = { .out = body };
	char path[80];

	wire_put_u64(&inner.out, n);
	for (size_t i = 0; i < n; i++) {
		(void)snprintf(path, sizeof(path), "/nix/store/2222222222222222222222222222%04zu-m",
			       i);
		put_nar_info(&inner, path, nar, spoil_last && i == n - 1 ? 1 : 0);
		wire_put_raw(&inner.out, nar->data, nar->len);
	}
	wire_put_u64(&c->out, OP_ADD_MULTIPLE_TO_STORE);
	wire_put_u64(&c->out, 0);
	wire_put_u64(&c->out, 1);
	for (size_t at = 0; at < inner.out.b.len;) { /* chunks that fit nothing */
		size_t len = inner.out.b.len - at < 1001 ? inner.out.b.len - at : 1001;
		wire_put_u64(&c->out, len);
		wire_put_raw(&c->out, inner.out.b.data + at, len);
		at += len;
	}
	wire_put_u64(&c->out, 0);
	buf_done(&inner.out.b);
	client_send(c);
}

static void test_add_multiple(void **state)
{
	struct buf nar = BUF_INIT(4096);
	struct client c;

	(void)state;
	file_nar(&nar, "many");
	client_start(&c, &core, 34);
	put_multiple(&c, &nar, 10, true);
	assert_false(client_answer(&c));
	put_multiple(&c, &nar, 1000, false);
	assert_true(client_answer(&c));
	put_multiple(&c, &nar, 1000, false);
	assert_true(client_answer(&c));
	put_multiple(&c, &nar, 0, false);
	assert_true(client_answer(&c));
	wire_put_u64(&c.out, OP_QUERY_ALL_VALID_PATHS);
	client_send(&c);
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 1000);
	for (int i = 0; i < 1000; i++)
		(void)client_str(&c);
	assert_int_equal(spool_entries(), 0);
	assert_true(client_end(&c));
	buf_done(&nar);
}

static void test_import(void **state)
{
	struct wire_out x = { .b = BUF_INIT(1 << 20), .store_dir = "/nix/store" };
	struct buf nar = BUF_INIT(4096);
	struct client c;

	(void)state;
	file_nar(&nar, "imported");
	for (int i = 0; i < 2; i++) {
		wire_put_u64(&x, 1);
		wire_put_raw(&x, nar.data, nar.len);
		wire_put_u64(&x, WIRE_MAGIC_EXPORT);
		wire_put_str(&x, i ? P("9") : P("8"));
		wire_put_u64(&x, i ? 1 : 0);
		if (i)
			wire_put_str(&x, P("8"));
		wire_put_str(&x, "");
		wire_put_u64(&x, 0);
	}
	wire_put_u64(&x, 0);
	client_start(&c, &core, 21);
	wire_put_u64(&c.out, OP_IMPORT_PATHS);
	c.pull = x.b.data;
	c.pull_len = x.b.len;
	client_send(&c);
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 2);
	assert_string_equal(client_str(&c), P("8"));
	assert_string_equal(client_str(&c), P("9"));
	ask_path(&c, OP_QUERY_REFERRERS, P("8"));
	assert_true(client_answer(&c));
	assert_int_equal(client_u64(&c), 1);
	assert_string_equal(client_str(&c), P("9"));
	assert_true(client_end(&c));
	buf_done(&nar);
	buf_done(&x.b);
}

static void put_build(struct client *c, enum wire_op op, uint64_t mode)
{
	wire_put_u64(&c->out, op);
	wire_put_u64(&c->out, 1);
	wire_put_str(&c->out, "/nix/store/00000000000000000000000000000000-x.drv!out");
	wire_put_u64(&c->out, mode);
	client_send(c);
}

static void test_build_log(void **state)
{
	struct client c;

	(void)state;
	core.build_log = "first\n@nix {\"action\":\"setPhase\",\"phase\":\"buildPhase\"}\n"
			 "10%\r20%\rdone\n@nix {broken\nlonger\rab\nlast without end";
	client_start(&c, &core, 38);
	client_options(&c, NULL, NULL);
	put_build(&c, OP_BUILD_PATHS, 0);
	assert_true(client_answer(&c));
	assert_string_equal(
		c.log,
		"start:building '/nix/store/00000000000000000000000000000000-x.drv'\nline:first\n"
		"phase:buildPhase\nline:done\n"
		"bad JSON log message from the derivation builder: @nix {broken\nline:@nix "
		"{broken\n"
		"line:ab\nline:last without end\n");
	assert_int_equal(client_u64(&c), 1);
	put_build(&c, OP_BUILD_PATHS_WITH_RESULTS, 2);
	assert_true(client_answer(&c));
	assert_non_null(strstr(c.log, "start:checking outputs of "));
	assert_int_equal(client_u64(&c), 1);
	assert_string_equal(client_str(&c),
			    "/nix/store/00000000000000000000000000000000-x.drv!out");
	assert_int_equal(client_u64(&c), 0); /* Built */
	assert_string_equal(client_str(&c), "");
	assert_int_equal(client_u64(&c), 1);   /* times built */
	assert_int_equal(client_u64(&c), 0);   /* deterministic */
	assert_int_equal(client_u64(&c), 100); /* start, stop */
	assert_int_equal(client_u64(&c), 200);
	assert_int_equal(client_u64(&c), 1); /* cpuUser, cpuSystem */
	assert_int_equal(client_u64(&c), 5);
	assert_int_equal(client_u64(&c), 1);
	assert_int_equal(client_u64(&c), 0);
	assert_int_equal(client_u64(&c), 1); /* outputs */
	assert_non_null(strstr(client_str(&c), "!out"));
	assert_non_null(
		strstr(client_str(&c), "\"outPath\":\"11111111111111111111111111111111-x\""));
	assert_true(client_end(&c));
}

static void test_build_failure(void **state)
{
	struct client c;

	(void)state;
	core.build_error = "builder for 'x' failed";
	client_start(&c, &core, 18);
	put_build(&c, OP_BUILD_PATHS, 0);
	assert_false(client_answer(&c));
	assert_string_equal(c.error, "builder for 'x' failed");
	assert_true(client_end(&c));
	core.trusted = false;
	client_start(&c, &core, 38);
	put_build(&c, OP_BUILD_PATHS, 1);
	assert_false(client_answer(&c));
	assert_string_equal(c.error,
			    "repairing is not allowed because you are not in 'trusted-users'");
	put_build(&c, OP_BUILD_PATHS, 3);
	assert_false(client_answer(&c));
	assert_string_equal(c.error, "Invalid build mode");
	assert_true(client_at_end(&c));
	assert_true(client_end(&c));
}

/* The session must leave by itself when its client does: waiting for it would hang this test. */
static void test_client_leaves_its_build(void **state)
{
	struct client c;

	(void)state;
	core.build_hangs = true;
	client_start(&c, &core, 38);
	put_build(&c, OP_BUILD_PATHS, 0);
	usleep(50 * 1000);
	assert_true(client_end(&c));
}

static void test_restricted_settings(void **state)
{
	struct client c;

	(void)state;
	core.trusted = false;
	client_start(&c, &core, 38);
	client_options(&c, "sandbox", "false");
	assert_string_equal(
		c.log, "\033[35;1mwarning:\033[0m ignoring the client-specified setting 'sandbox', "
		       "because it is a restricted setting and you are not a trusted user\n");
	client_options(&c, "timeout", "5");
	assert_string_equal(c.log, "");
	assert_true(client_end(&c));
	core.trusted = true;
	client_start(&c, &core, 38);
	client_options(&c, "sandbox", "false");
	assert_string_equal(c.log, "");
	assert_true(client_end(&c));
}

static void test_unknown(void **state)
{
	struct client c;

	(void)state;
	client_start(&c, &core, 38);
	wire_put_u64(&c.out, OP_ADD_BUILD_LOG);
	wire_put_str(&c.out, "x.drv");
	wire_put_u64(&c.out, 3);
	wire_put_raw(&c.out, "log", 3);
	wire_put_u64(&c.out, 0);
	wire_put_u64(&c.out, 99);
	client_send(&c);
	assert_false(client_answer(&c));
	assert_string_equal(c.error, "'x.drv' is not the name of a store path");
	assert_false(client_answer(&c));
	assert_string_equal(c.error, "invalid operation 99");
	assert_true(client_at_end(&c));
	assert_true(client_end(&c));
}

static void test_bad_paths_close(void **state)
{
	static const char *const paths[] = { "/etc/passwd", "", "/nix/store", "/nix/store/../x",
					     "/nix/store/00000000000000000000000000000000-a/b" };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(paths); i++) {
		struct client c;
		client_start(&c, &core, 38);
		ask_path(&c, OP_NAR_FROM_PATH, paths[i]);
		assert_false(client_answer(&c));
		assert_true(client_at_end(&c));
		assert_true(client_end(&c));
	}
}

/* Whatever a client sends and wherever it stops, the session ends by itself, in peace. */
static void test_cut_anywhere(void **state)
{
	struct wire_out all = { .b = BUF_INIT(1 << 20), .store_dir = "/nix/store" };
	struct buf nar = BUF_INIT(4096);
	struct client maker = { .out = all, .version = WIRE_VERSION };

	(void)state;
	file_nar(&nar, "x");
	wire_put_u64(&maker.out, WIRE_MAGIC_CLIENT);
	wire_put_u64(&maker.out, WIRE_VERSION);
	for (int i = 0; i < 3; i++)
		wire_put_u64(&maker.out, 0);
	client_add(&maker, "x", "fixed:r:sha256", nar.data, nar.len);
	client_add(&maker, "y", "text:sha256", "abc", 3);
	for (size_t cut = 0; cut < maker.out.b.len; cut += 13) {
		struct client c;
		client_start(&c, &core, 0);
		assert_int_equal(write_full(c.fd, maker.out.b.data, cut), 0);
		assert_true(client_end(&c));
	}
	assert_int_equal(spool_entries(), 0);
	buf_done(&maker.out.b);
	buf_done(&nar);
}

/* The receive timeout passes between requests and in the middle of one: neither ends anything. */
static void test_slow_client(void **state)
{
	struct client c;

	(void)state;
	core.idle_msec = 10;
	client_start(&c, &core, 38);
	for (int i = 0; i < 3; i++) {
		usleep(40 * 1000);
		wire_put_u64(&c.out, OP_QUERY_PATH_INFO);
		wire_put_u64(&c.out, strlen(ABSENT));
		client_send(&c);
		usleep(40 * 1000);
		wire_put_raw(&c.out, ABSENT, strlen(ABSENT));
		wire_put_raw(&c.out, "\0\0\0\0\0\0\0", -strlen(ABSENT) & 7);
		client_send(&c);
		assert_true(client_answer(&c));
		assert_int_equal(client_u64(&c), 0);
	}
	assert_true(client_end(&c));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_queries_of_nothing),
		T(test_slow_client),
		T(test_add_methods),
		T(test_many_at_once),
		T(test_big_flat_file),
		T(test_bad_adds),
		T(test_core_refuses),
		T(test_add_nar),
		T(test_add_nar_lies),
		T(test_add_multiple),
		T(test_import),
		T(test_build_log),
		T(test_build_failure),
		T(test_client_leaves_its_build),
		T(test_restricted_settings),
		T(test_unknown),
		T(test_bad_paths_close),
		T(test_cut_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
