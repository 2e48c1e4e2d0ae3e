"""Programs of the administrator's around a build: post-build-hook, pre-build-hook, diff-hook."""
import json
import os
import re
import time

import pytest

from conftest import ALICE, BOB, DAEMON, wait_for


def hook(d, name, text):
    path = d.base / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def stamp():
    return str(time.time_ns())


@pytest.fixture
def plain(make_daemon):
    return make_daemon("single", start=False)


def start(d, conf):
    d.write_conf(conf)
    return d.start()


@pytest.mark.parametrize("mode", ["single", "subid"])  # in the latter the core itself may use newuidmap
def test_post_build_hook_hears_of_every_build_once(make_daemon, mode):
    d = make_daemon(mode, start=False)
    out = d.base / "heard"
    h = hook(d, "post", f'echo "$DRV_PATH -> $OUT_PATHS" >> {out}\necho "user $(id -u)"; '
             'grep -E "^(CapEff|CapPrm|NoNewPrivs)" /proc/self/status; echo "NIX_REMOTE=$NIX_REMOTE"\n'
             'printf "no newline"\n')
    out.touch()
    os.chown(out, d.users[DAEMON].pw_uid, -1)
    start(d, f"post-build-hook = {h}\n")
    r = d.nix_build(f'let a = shWith {{ name = "two-{stamp()}"; outputs = [ "out" "dev" ]; }} '
                    '"echo a > $out; echo b > $dev"; in sh "top" "cat ${a.dev} > $out; echo ok"', args=["-vv"])
    top = r.stdout.split()[-1]
    lines = out.read_text().splitlines()
    assert len(lines) == 2
    first, second = [re.match(r"(\S+\.drv) -> (.*)", l).groups() for l in lines]
    assert len(first[1].split()) == 2 and "-dev" in first[1] and second[1] == top
    for expected in ("post-build-hook", f"user {d.users[DAEMON].pw_uid}", "no newline", "NIX_REMOTE=daemon",
                     "NoNewPrivs: 1", "CapEff: 0000000000000000", "CapPrm: 0000000000000000"):
        assert expected in re.sub(":[ \t]+", ": ", r.stderr), r.stderr
    d.nix_build('sh "third" "echo > $out"')
    assert len(out.read_text().splitlines()) == 3
    d.nix_build('sh "third" "echo > $out"')  # valid: no build, no hook
    assert len(out.read_text().splitlines()) == 3
    d.nix_build('sh "third" "echo > $out"', args=["--check"])
    assert len(out.read_text().splitlines()) == 4


def test_a_failing_post_build_hook_ends_the_request_and_not_the_build(plain):
    d = plain
    start(d, f"post-build-hook = {hook(d, 'post', 'echo seen by people; exit 3')}\n")
    expr = 'let a = sh "first" "echo a > $out"; in sh "second" "cat ${a} > $out"'
    r = d.nix_build(expr, check=False, args=["--keep-going"])
    assert r.returncode != 0
    assert f'program "{d.base}/post" failed with exit code 3' in r.stderr, r.stderr
    made = [p for p in os.listdir(d.store) if p.endswith("-first")]
    assert len(made) == 1 and not [p for p in os.listdir(d.store) if p.endswith("-second")]
    d.run("nix-store", "--check-validity", d.store / made[0])


def test_a_slow_hook_delays_nobody_else(plain):
    """max-jobs is 2: three builds with hooks that hang, and a fourth build without one goes through."""
    d = plain
    d.write_conf("max-jobs = 1\ntrusted-users = root\n")
    h = hook(d, "slow", "echo waiting; sleep 300")
    d.start()
    ps = [d.popen("nix-build", "--no-out-link", "--option", "post-build-hook", h, "-E",
                  f'derivation {{ name = "slow{i}"; system = builtins.currentSystem; builder = "/bin/sh"; '
                  'args = [ "-c" "echo > $out" ]; }', user="root") for i in range(3)]
    end = time.monotonic() + 20
    while time.monotonic() < end and sum("-slow" in n and not n.endswith((".drv", ".lock")) for n in os.listdir(d.store)) < 3:
        time.sleep(0.05)
    d.nix_build(f'sh "quick-{stamp()}" "echo > $out"', timeout=20)
    assert all(p.poll() is None for p in ps)
    sleeps = lambda: [pid for pid, name in d.children().items() if name == "sleep"]
    assert len(sleeps()) == 3
    for p in ps:  # nobody waits any more: the hooks are ended
        p.terminate()
        p.communicate()
    end = time.monotonic() + 10
    while sleeps() and time.monotonic() < end:
        time.sleep(0.05)
    assert not sleeps()


def test_only_trusted_clients_name_hooks(plain):
    d = plain.start()
    h = hook(d, "mine", f"touch {d.base}/ran")
    d.nix_build('sh "x" "echo > $out"', user=ALICE,
                args=["--option", "post-build-hook", h, "--option", "pre-build-hook", h])
    assert not (d.base / "ran").exists()


def test_pre_build_hook_adds_sandbox_paths(plain):
    d = plain
    (d.base / "extra").write_text("from the hook")
    h = hook(d, "pre", f'[ "${{1%.drv}}" != "$1" ] || exit 9\necho complaint >&2\n'
             f'printf "extra-sandbox-paths\\n/extra={d.base}/extra\\n\\n"\n')
    start(d, f"pre-build-hook = {h}\n")
    r = d.nix_build('sh "x" "read -r a < /extra || :; echo $a > $out"')
    assert open(r.stdout.strip()).read() == "from the hook\n"
    hook(d, "pre", "echo make-coffee")
    r = d.nix_build('sh "y" "echo > $out"', check=False)
    assert r.returncode != 0 and "unknown pre-build hook command 'make-coffee'" in r.stderr
    hook(d, "pre", "exit 4")
    r = d.nix_build('sh "z" "echo > $out"', check=False)
    assert f'program "{h}" failed with exit code 4' in r.stderr


def changing(d):
    """A builder whose output differs each time: it reads a file that the hook of each build sees."""
    (d.base / "seed").write_text(stamp())
    return 'sh "changes" "cat /seed > $out"'


@pytest.mark.parametrize("client", [ALICE, "root"])
def test_check_keeps_what_differs(make_daemon, client):
    d = make_daemon("broker", start=False)
    d.write_conf(f"extra-sandbox-paths = /seed={d.base}/seed\n")
    expr = changing(d)
    d.start()
    out = d.nix_build(expr, user=client).stdout.strip()
    assert d.nix_build(expr, user=client, args=["--check"]).returncode == 0
    old = open(out).read()
    changing(d)
    r = d.nix_build(expr, user=client, check=False, args=["--check"])
    assert r.returncode != 0 and f'may not be deterministic: output "{out}" differs' in r.stderr, r.stderr
    assert "differs from" not in r.stderr and not os.path.exists(out + ".check")
    for _ in range(2):  # the second time there is one in the way
        r = d.nix_build(expr, user=client, check=False, args=["--check", "--keep-failed"])
        assert r.returncode != 0 and f'output "{out}" differs from "{out}.check"' in r.stderr, r.stderr
        assert "note: keeping build directory" in r.stderr
        assert open(out).read() == old and open(out + ".check").read() == (d.base / "seed").read_text()
        assert oct(os.stat(out + ".check").st_mode & 0o7777) == "0o444"


def test_diff_hook_sees_both(plain):
    d = plain
    h = hook(d, "diff", 'echo "diff of $1 and $2 for $3"; cat $1 $2; echo complaint >&2; [ ! -e $0.fail ]')
    expr = changing(d)
    start(d, f"extra-sandbox-paths = /seed={d.base}/seed\ndiff-hook = {h}\n")
    out = d.nix_build(expr).stdout.strip()
    old = open(out).read()
    changing(d)
    r = d.nix_build(expr, check=False, args=["--check"])
    assert "differs" in r.stderr and "diff of" not in r.stderr  # run-diff-hook is off
    d.stop()
    start(d, f"extra-sandbox-paths = /seed={d.base}/seed\ndiff-hook = {h}\nrun-diff-hook = true\n")
    r = d.nix_build(expr, check=False, args=["--check"])
    drv = d.run("nix-store", "-q", "--deriver", out).stdout.strip()
    assert r.returncode != 0, r.stderr
    assert f"diff of {out} and {out}.check for {drv}\n{old}{(d.base / 'seed').read_text()}" in r.stderr, r.stderr
    (d.base / "diff.fail").touch()
    r = d.nix_build(expr, check=False, args=["--check"])
    assert r.returncode != 0
    assert f'diff hook execution failed: diff-hook program "{h}" failed with exit code 1' in r.stderr, r.stderr


def test_a_check_of_one_output_needs_no_other(make_daemon):
    d = make_daemon("broker")
    expr = 'shWith { name = "multi"; outputs = [ "out" "doc" ]; } "echo a > $out; echo b > $doc"'
    out = d.nix_build(f'({expr}).out').stdout.split()[0]
    doc = d.nix_build(f'({expr}).doc').stdout.split()[0]
    d.run("nix-store", "--delete", doc)
    d.nix_build(f'({expr}).out', args=["--check"])
    assert not os.path.exists(doc)
    r = d.nix_build(f'({expr}).doc', args=["--check"], check=False)
    assert "are not valid, so checking is not possible" in r.stderr


def sleepers(d, seconds):
    """Processes of the machine that sleep for just so long."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/cmdline", "rb").read() == f"sleep\0{seconds}\0".encode():
                found.append(int(pid))
        except OSError:
            pass
    return found


HANGS = "setsid sleep {0} > /dev/null 2>&1 &\n(setsid sleep {0} &)\nsleep {0}\n"


def test_a_hook_has_a_time_limit_and_is_ended_whole(plain):
    """Also what it has started and what is in a session of its own. Here without cgroups; see test_cgroup.py."""
    d = plain
    number = 100000 + os.getpid()
    d.own_conf = "hook-timeout = 1\n"
    start(d, f"post-build-hook = {hook(d, 'post', HANGS.format(number))}\n")
    r = d.nix_build('sh "x" "echo > $out"', check=False, timeout=60)
    assert r.returncode != 0 and f'program "{d.base}/post" timed out after 1 seconds (hook-timeout)' in r.stderr, r.stderr
    wait_for(lambda: not sleepers(d, number), d.daemon_log)
    hook(d, "post", f"setsid sleep {number} > /dev/null 2>&1 &\n")
    d.nix_build('sh "y" "echo > $out"')
    (pid,) = sleepers(d, number)  # left behind on purpose: as upstream, it goes on
    os.kill(pid, 9)


def test_too_much_output_is_told(plain):
    d = plain
    h = hook(d, "post", "head -c 70000000 /dev/zero | tr '\\0' x | fold -w 1000")
    start(d, f"post-build-hook = {h}\n")
    r = d.nix_build('sh "x" "echo > $out"', args=["--log-format", "internal-json"])
    assert "[what it prints beyond 64 MiB is not shown]" in r.stderr
    assert 64 << 20 < len(r.stderr) < 90 << 20
