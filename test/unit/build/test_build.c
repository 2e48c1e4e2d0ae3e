/* The supervisor as its core sees it, in mode single (an ordinary user) and, as root, with a slot
 * as the broker maps it. Hostile builders included. Argument: the supervisor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <bzlib.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "hash/hash.h"
#include "peer.h"

static const char *program;

#define STORE "/nix/store/"
#define M     "\x1b[35;1m"
#define N     "\x1b[0m"

/* Every test runs once per mode that this user can play. */
typedef void (*scenario)(struct peer *p);

static void each_mode(scenario f)
{
	struct peer p;

	peer_init(&p, IDS_SINGLE, program);
	f(&p);
	peer_done(&p);
	if (geteuid() != 0) {
		print_message("[  NOTE    ] mode broker needs root: skipped\n");
		return;
	}
	peer_init(&p, IDS_BROKER, program);
	f(&p);
	peer_done(&p);
}

static void run(struct peer *p)
{
	peer_run(p);
	assert_true(p->got_end);
	assert_true(p->got_bye);
	if (!p->bye.clean)
		fail_msg("%s", p->bye.error);
	assert_int_equal(p->exit_status, 0);
}

static void expect(struct peer *p, const char *script, uint64_t status)
{
	peer_script(p, script);
	run(p);
	if (p->end.status != status)
		fail_msg("status %llu: %s\n%s", (unsigned long long)p->end.status, p->end.error,
			 p->log);
}

/* --- what a build gives ---------------------------------------------------- */

static void look_at_output(struct peer *p)
{
	char *path = arena_printf(&p->arena, "%s/" PEER_OUT, p->out);
	struct stat st;
	uid_t owner = geteuid() == 0 ? PEER_UID : geteuid();

	assert_int_equal(lstat(path, &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(st.st_uid, owner);
	assert_true(getxattr(path, "user.overlay.opaque", NULL, 0) < 0);
	path = arena_printf(&p->arena, "%s/" PEER_OUT "/x", p->out);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_uid, owner);
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	assert_int_equal(st.st_mtime, 1);
}

static void check_built(struct peer *p)
{
	p->inspect = look_at_output;
	expect(p, "mkdir $out && echo " STORE PEER_FILE " $out > $out/x && echo done", BUILT);
	assert_int_equal(p->end.outputs.n, 1);
	assert_string_equal(p->end.outputs.v[0].name, "out");
	assert_int_equal(p->end.outputs.v[0].refs.n, 2);
	assert_string_equal(p->end.outputs.v[0].refs.v[0], PEER_OUT);
	assert_string_equal(p->end.outputs.v[0].refs.v[1], PEER_FILE);
	assert_string_equal(p->log, "done\n");
	assert_int_equal(p->end.log_size, 5);
	assert_true(p->got_running);
	assert_int_equal(p->running.host_uid, p->mode == IDS_BROKER ? PEER_BASE
					      : geteuid() == 0	    ? PEER_UID
								    : geteuid());
}

static void test_built(void **state)
{
	(void)state;
	each_mode(check_built);
}

static void check_many_inputs(struct peer *p)
{
	peer_inputs(p, 150);
	p->inspect = look_at_output;
	expect(p,
	       "test $(ls /nix/store | wc -l) = 153 && mkdir $out $out/d && echo > $out/x && "
	       "! touch " STORE "00000000000000000000000001000000-input/x && "
	       "! touch " STORE PEER_FILE " && mv $out/d $out/e && cat " STORE PEER_LINK,
	       BUILT);
	assert_non_null(strstr(p->log, "Read-only file system"));
	assert_non_null(strstr(p->log, "content\n"));
}

static void test_many_inputs(void **state)
{
	(void)state;
	each_mode(check_many_inputs);
}

/* A configured path that lies in the store, or leads to it, is no way to write there. */
static void check_store_binds(struct peer *p)
{
	struct build_pair binds[] = {
		{ "/bound", arena_printf(&p->arena, "%s/" PEER_BUSYBOX, p->store) },
		{ "/above", p->top },
	};

	p->start.binds.v = binds;
	p->start.binds.n = 2;
	expect(p,
	       "! touch /bound/x && ! touch /above/store/x && ! chmod 4755 /bound/bin/busybox && "
	       "! mkdir /above/scratch/x && "
	       "while read a b c d t o rest; do [ $t = /bound ] && echo ${o%%,*}; done "
	       "< /proc/self/mountinfo; echo > $out",
	       BUILT);
	assert_non_null(strstr(p->log, "\nro\n"));
}

static void test_store_binds(void **state)
{
	(void)state;
	each_mode(check_store_binds);
}

/* --- the same in every mode ------------------------------------------------ */

static const char see[] =
	"id; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; env\n"
	"for d in / /dev /dev/pts /etc /nix /build /tmp /dev/shm; do echo $d; "
	"ls -ln $d | sed 's/[A-Z][a-z][a-z] *[0-9]* [0-9:]* //' | grep -v ' proc$'; done\n"
	"while read a b c d t o rest; do echo $t $o; done < /proc/self/mountinfo\n"
	"grep -E 'Cap|NoNew|Seccomp|Groups|^Uid|^Gid|Umask|Sig[BIC]' /proc/self/status\n"
	"cat /proc/self/personality /proc/self/cgroup /etc/passwd /etc/group /etc/hosts; uname -n\n"
	"ulimit -a | grep -v signals; ip addr; ps > /tmp/p; wc -l < /tmp/p; pwd; umask; test -t 2 "
	"&& echo tty; test "
	"-t 0\n"
	"mkdir /foo; mkdir /nix/foo; touch /etc/x; chmod 4755 /build; echo > " STORE PEER_FILE "\n"
	"touch /build/x /tmp/x /dev/shm/x; ls -ln /build/x /tmp/x | cut -c1-40\n"
	"mknod /tmp/n c 1 3; mount -t tmpfs x /tmp; chown 0 /build; su -c id; kill -9 1; echo end "
	"> $out";

static void test_same_in_both_modes(void **state)
{
	struct peer a, b;

	(void)state;
	if (geteuid() != 0)
		skip(); /* mode broker needs root */
	peer_init(&a, IDS_SINGLE, program);
	expect(&a, see, BUILT);
	peer_init(&b, IDS_BROKER, program);
	expect(&b, see, BUILT);
	assert_string_equal(a.log, b.log);
	assert_non_null(strstr(a.log, "uid=1000(nixbld) gid=100(nixbld)\n"));
	assert_non_null(strstr(a.log, "CapBnd:\t0000000000000000\n"));
	assert_non_null(strstr(a.log, "CapEff:\t0000000000000000\n"));
	assert_non_null(strstr(a.log, "NoNewPrivs:\t1\nSeccomp:\t2\n"));
	assert_non_null(strstr(a.log, "      1000          0          1\n"));
	assert_non_null(strstr(a.log, "can't create directory '/foo': Permission denied"));
	assert_non_null(strstr(a.log, "chmod: /build: Operation not permitted"));
	assert_memory_equal(a.end.outputs.v[0].nar_hash, b.end.outputs.v[0].nar_hash, 32);
	peer_done(&a);
	peer_done(&b);
}

static void check_files(struct peer *p)
{
	struct build_pair file = { ".attr-x", "one\ntwo" };

	p->start.files.v = &file;
	p->start.files.n = 1;
	expect(p, "ls -ln .attr-x | cut -c1-22; cat .attr-x; echo x >> .attr-x && cp .attr-x $out",
	       BUILT);
	assert_string_equal(p->log, "-rw-r--r--    1 1000  \none\ntwo");
}

static void test_files(void **state)
{
	(void)state;
	each_mode(check_files);
}

/* --- sentences ------------------------------------------------------------- */

static void check_failure(struct peer *p)
{
	expect(p, "echo one; printf 'gone\\rtwo\\n@nix {\"action\":\"x\"}\\nthree'; exit 7",
	       PERMANENT_FAILURE);
	assert_string_equal(p->end.error,
			    "Cannot build '" M STORE PEER_DRV N
			    "'.\nReason: \x1b[31;1mbuilder failed with "
			    "exit code 7" N ".\nOutput paths:\n  " M STORE PEER_OUT N
			    "\nLast 3 log lines:\n> one\n> two\n> three\nFor full logs, run:\n  "
			    "\x1b[1mnix-store -l " STORE PEER_DRV N);
}

static void check_signal(struct peer *p)
{
	p->start.fixed = 1;
	expect(p,
	       "kill -9 $$; /nix/store/" PEER_BUSYBOX "/bin/busybox sh -c 'kill -SEGV $$'; exit 1",
	       TRANSIENT_FAILURE);
}

static void check_missing(struct peer *p)
{
	expect(p, "true", OUTPUT_REJECTED);
	assert_string_equal(p->end.error, "builder for '" M STORE PEER_DRV N
					  "' failed to produce output path for output '" M "out" N
					  "' at " M "\"" STORE PEER_OUT "\"" N);
}

static void check_exec(struct peer *p)
{
	p->start.builder = "/nix/store/none";
	expect(p, "", PERMANENT_FAILURE);
	assert_string_equal(p->log,
			    "\x1b[31;1merror:" N " executing '" M "/nix/store/none" N
			    "': No such file or directory\n");
}

static void check_bind(struct peer *p)
{
	struct build_pair binds[] = { { "/optional", "/nonexistent/x?" },
				      { "/here", "/nonexistent/y" } };

	p->start.binds.v = binds;
	p->start.binds.n = 2;
	expect(p, "true", MISC_FAILURE);
	assert_string_equal(p->end.error,
			    "while setting up the build environment: getting attributes of "
			    "path " M "\"/nonexistent/y\"" N ": No such file or directory");
}

static void check_builtin(struct peer *p)
{
	p->start.builder = "builtin:none";
	expect(p, "", PERMANENT_FAILURE);
	assert_non_null(strstr(p->log, "unsupported builtin builder '" M "none" N "'"));
}

static void check_cycle(struct peer *p)
{
	p->start.outputs.n = 2;
	expect(p, "echo $dev > $out; echo $out > $dev", OUTPUT_REJECTED);
	assert_string_equal(p->end.error, "cycle detected in build of '" M STORE PEER_DRV N
					  "' in the references of output '" M "out" N
					  "' from output '" M "dev" N "'");
}

static void test_sentences(void **state)
{
	(void)state;
	each_mode(check_failure);
	each_mode(check_signal);
	each_mode(check_missing);
	each_mode(check_exec);
	each_mode(check_bind);
	each_mode(check_builtin);
	each_mode(check_cycle);
}

/* --- limits ---------------------------------------------------------------- */

static void check_timeout(struct peer *p)
{
	p->start.timeout_sec = 1;
	expect(p, "(while true; do sleep 1; done) & while true; do echo x; sleep 0.2; done",
	       TIMED_OUT);
	assert_string_equal(p->end.error, "timed out after " M "1" N " seconds");
	assert_true(p->ms < 3000);
}

static void check_silent(struct peer *p)
{
	p->start.max_silent_sec = 1;
	expect(p, "echo x; sleep 100", TIMED_OUT);
	assert_true(p->ms >= 1000 && p->ms < 3000);
}

static void check_talkative(struct peer *p)
{
	p->start.max_log_bytes = 10000;
	expect(p, "yes", LOG_LIMIT_EXCEEDED);
	assert_true(p->log_len <= 10000);
	assert_string_equal(p->end.error, M "building derivation '" STORE PEER_DRV "'" N
					    " killed after writing more than " M "10000" N
					    " bytes of log output");
}

static void check_cancel(struct peer *p)
{
	struct stat st;

	p->cancel_after_ms = 300;
	peer_script(p,
		    "trap '' TERM INT HUP; (sleep 1000 &); mkdir -p a/b/c; chmod 0 a; sleep 1000");
	peer_run(p);
	assert_true(p->ms < 3000);
	assert_int_equal(p->exit_status, 0);
	assert_true(p->hang_up || (p->got_bye && p->bye.clean));
	/* Nothing is left below the scratch. */
	assert_int_equal(stat(p->start.scratch, &st), 0);
	assert_int_equal(st.st_nlink, 2);
}

static void check_hang_up(struct peer *p)
{
	p->hang_up = true;
	check_cancel(p);
}

/* Killed without a chance to clean up: no process of the build may outlive the supervisor. */
static void check_killed(struct peer *p)
{
	char *beat = arena_printf(&p->arena, "%s/build/beat", p->start.scratch);
	struct stat before, after;

	p->kill = true;
	p->cancel_after_ms = 500;
	peer_script(p, "(trap '' HUP TERM; while true; do echo x >> beat; busybox usleep 1000; "
		       "done) & sleep 1000");
	peer_run(p);
	assert_false(p->got_bye);
	usleep(200000);
	assert_int_equal(stat(beat, &before), 0);
	assert_true(before.st_size > 0);
	usleep(200000);
	assert_int_equal(stat(beat, &after), 0);
	assert_int_equal(before.st_size, after.st_size);
}

static void test_limits(void **state)
{
	(void)state;
	each_mode(check_timeout);
	each_mode(check_silent);
	each_mode(check_talkative);
	each_mode(check_cancel);
	each_mode(check_hang_up);
	each_mode(check_killed);
}

/* --- fixed outputs --------------------------------------------------------- */

static void fixed(struct peer *p, const char *contents, bool recursive)
{
	struct hash h;

	hash_buffer(HASH_SHA256, contents, strlen(contents), &h);
	p->start.fixed = 1;
	p->start.outputs.v[0].ca = recursive ? "fixed:r:sha256" : "fixed:sha256";
	p->start.fixed_hash.v = arena_dup(&p->arena, h.bytes, 32);
	p->start.fixed_hash.n = 32;
}

static void check_fixed(struct peer *p)
{
	fixed(p, "abc", false);
	expect(p, "printf abc > $out", BUILT);
	assert_string_equal(p->end.outputs.v[0].ca,
			    "fixed:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s");
}

static unsigned long long inode;

static void look_at_inode(struct peer *p)
{
	struct stat st;

	assert_int_equal(lstat(arena_printf(&p->arena, "%s/" PEER_OUT, p->out), &st), 0);
	inode = st.st_ino;
}

/* The inode that the builder knew must not be the one that is registered. */
static void check_fresh_inode(struct peer *p)
{
	fixed(p, "abc", false);
	p->inspect = look_at_inode;
	expect(p, "printf abc > $out; stat -c %i $out", BUILT);
	assert_true(inode > 0 && strtoull(p->log, NULL, 10) > 0);
	assert_true(strtoull(p->log, NULL, 10) != inode);
}

static void look_at_real_path(struct peer *p)
{
	char *path = arena_printf(&p->arena, "%s/%s", p->out, p->end.real_path);
	struct stat st;

	assert_true(*p->end.real_path);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_size, 4);
}

static void check_mismatch(struct peer *p)
{
	fixed(p, "abc", false);
	p->inspect = look_at_real_path;
	expect(p, "printf abcd > $out", OUTPUT_REJECTED);
	assert_string_equal(
		p->end.error,
		"hash mismatch in fixed-output derivation '" M STORE PEER_DRV N
		"':\n  specified: " M "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=" N
		"\n     got:    " M "sha256-iNQmb9TmM40TuEX88olXnSCciXgjuSF9o+Fhk28DFYk=" N);
}

static void check_flat_dir(struct peer *p)
{
	fixed(p, "abc", false);
	expect(p, "mkdir $out", OUTPUT_REJECTED);
	assert_non_null(strstr(p->end.error, "should be a non-executable regular file since"));
}

static void check_fixed_refs(struct peer *p)
{
	fixed(p, STORE PEER_FILE, false);
	expect(p, "printf %s " STORE PEER_FILE " > $out", OUTPUT_REJECTED);
	assert_non_null(strstr(p->end.error, "is not allowed to refer to other store paths"));
}

static void test_fixed(void **state)
{
	(void)state;
	each_mode(check_fixed);
	each_mode(check_fresh_inode);
	each_mode(check_mismatch);
	each_mode(check_flat_dir);
	each_mode(check_fixed_refs);
}

/* --- hostile builders ------------------------------------------------------ */

static void check_writable(struct peer *p)
{
	expect(p, "mkdir $out; chmod 777 $out", OUTPUT_REJECTED);
	assert_string_equal(p->end.error,
			    "suspicious ownership or permission on " M "\"" STORE PEER_OUT "\"" N
			    " for output '" M "out" N "'; rejecting this build output");
}

static void check_hard_link_out(struct peer *p)
{
	expect(p, "echo x > /nix/store/.x; mkdir $out; ln /nix/store/.x $out/x", OUTPUT_REJECTED);
}

static void check_fifo(struct peer *p)
{
	expect(p, "mkdir $out; mkfifo $out/x", OUTPUT_REJECTED);
}

static void check_traps(struct peer *p)
{
	/* Names our own code might use, symlinks out of everything, unreadable and deep
	 * directories. */
	expect(p,
	       "for d in out work build tmp store root; do for t in /tmp /nix/store /build; do "
	       "ln -s /etc $t/$d; done; done\n"
	       "mkdir -p /tmp/a/b; chmod 0 /tmp/a/b; chmod 0 /tmp/a\n"
	       "cd /build; i=0; while [ $i -lt 200 ]; do mkdir dddddddddddddddddddddddddddddd; cd "
	       "dddddddddddddddddddddddddddddd; i=$((i+1)); done; cd /\n"
	       "chmod 755 / && mkdir /x && rmdir /x; mv /nix/store/.x /nix/store/.y; mkdir $out",
	       BUILT);
}

/* Nothing may be left that keeps the supervisor from ending. */
static void check_left_behind(struct peer *p)
{
	expect(p,
	       "mkdir $out; setsid sleep 1000 & (setsid sleep 1000 >/dev/null 2>&1 </dev/null &) ; "
	       "exit 0",
	       BUILT);
	assert_true(p->ms < 3000);
}

static void look_at_kept(struct peer *p)
{
	char *path = arena_printf(&p->arena, "%s/keep/d/x", p->start.scratch);
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_uid, geteuid() == 0 ? PEER_UID : geteuid());
}

static void check_keep_failed(struct peer *p)
{
	p->start.keep_failed = 1;
	char *keep = arena_printf(&p->arena, "%s/keep", p->start.scratch);

	assert_int_equal(mkdir(keep, 0700), 0); /* as the core does */
	assert_true(geteuid() != 0 || chown(keep, PEER_UID, PEER_UID) == 0);
	p->inspect = look_at_kept;
	expect(p, "mkdir d; echo > d/x; ln -s /etc e; chmod 500 d; exit 1", PERMANENT_FAILURE);
}

static void test_hostile(void **state)
{
	(void)state;
	each_mode(check_writable);
	each_mode(check_hard_link_out);
	each_mode(check_fifo);
	each_mode(check_traps);
	each_mode(check_left_behind);
	each_mode(check_keep_failed);
}

/* --- without a sandbox; builtins; logs ------------------------------------- */

static void check_no_sandbox(struct peer *p)
{
	p->start.sandbox = SANDBOX_OFF;
	p->start.store_dir = p->store;
	p->start.build_dir = arena_printf(&p->arena, "%s/build", p->start.scratch);
	p->start.builder = arena_printf(&p->arena, "%s/%s/bin/sh", p->store, PEER_BUSYBOX);
	p->start.env.n = 0;
	peer_env(p, "PATH", arena_printf(&p->arena, "%s/%s/bin", p->store, PEER_BUSYBOX));
	peer_env(p, "out", arena_printf(&p->arena, "%s/%s", p->store, PEER_OUT));
	peer_env(p, "box", arena_printf(&p->arena, "%s/%s", p->store, PEER_BUSYBOX));
	p->inspect = look_at_output;
	expect(p, "mkdir $out; cat /proc/self/uid_map; echo $box > $out/x; touch $box/x; true",
	       BUILT);
	assert_int_equal(p->end.outputs.v[0].refs.n, 1);
	struct stat st;

	assert_int_equal(lstat(arena_printf(&p->arena, "%s/" PEER_BUSYBOX "/x", p->store), &st),
			 -1);
}

static void test_no_sandbox(void **state)
{
	(void)state;
	each_mode(check_no_sandbox);
}

static void look_at_env(struct peer *p)
{
	char to[256] = "", *path = arena_printf(&p->arena, "%s/" PEER_OUT "/bin", p->out);

	assert_true(readlink(path, to, sizeof(to) - 1) > 0);
	assert_string_equal(to, STORE PEER_BUSYBOX "/bin");
	path = arena_printf(&p->arena, "%s/" PEER_OUT "/manifest.nix", p->out);
	assert_true(readlink(path, to, sizeof(to) - 1) > 0);
}

static void check_buildenv(struct peer *p)
{
	p->start.builder = "builtin:buildenv";
	peer_env(p, "derivations", "true 5 1 " STORE PEER_BUSYBOX " true 5 1 " STORE PEER_FILE);
	peer_env(p, "manifest", STORE PEER_FILE);
	p->inspect = look_at_env;
	expect(p, "", BUILT);
	assert_non_null(strstr(p->log, "not including"));
}

static void check_buildenv_attr(struct peer *p)
{
	p->start.builder = "builtin:buildenv";
	expect(p, "", PERMANENT_FAILURE);
	assert_string_equal(p->log,
			    "\x1b[31;1merror:" N " attribute '" M "derivations" N "' missing\n");
}

static void check_builtin_not_kept(struct peer *p)
{
	p->start.keep_failed = 1;
	check_buildenv_attr(p);
}

static void test_buildenv(void **state)
{
	(void)state;
	each_mode(check_buildenv);
	each_mode(check_builtin_not_kept);
	each_mode(check_buildenv_attr);
}

static void check_log(struct peer *p)
{
	unsigned int len = 1 << 20;
	char *plain = malloc(len);

	expect(p, "seq 1 20000; touch $out", BUILT);
	assert_non_null(plain);
	assert_int_equal(
		BZ2_bzBuffToBuffDecompress(plain, &len, p->zlog, (unsigned int)p->zlog_len, 0, 0),
		BZ_OK);
	assert_int_equal(len, p->log_len);
	assert_memory_equal(plain, p->log, len);
	assert_int_equal(len, 108894);
	free(plain);
}

static void check_empty_log(struct peer *p)
{
	unsigned int len = 16;
	char plain[16];

	expect(p, "touch $out", BUILT);
	assert_int_equal(p->log_len, 0);
	assert_int_equal(
		BZ2_bzBuffToBuffDecompress(plain, &len, p->zlog, (unsigned int)p->zlog_len, 0, 0),
		BZ_OK);
	assert_int_equal(len, 0);
}

static void test_log(void **state)
{
	(void)state;
	each_mode(check_log);
	each_mode(check_empty_log);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_built),	    cmocka_unit_test(test_many_inputs),
		cmocka_unit_test(test_store_binds), cmocka_unit_test(test_same_in_both_modes),
		cmocka_unit_test(test_files),	    cmocka_unit_test(test_sentences),
		cmocka_unit_test(test_limits),	    cmocka_unit_test(test_fixed),
		cmocka_unit_test(test_hostile),	    cmocka_unit_test(test_no_sandbox),
		cmocka_unit_test(test_buildenv),    cmocka_unit_test(test_log),
	};

	if (argc < 2)
		return 2;
	program = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
