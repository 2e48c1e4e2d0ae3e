"""Builds through the daemon, in every id mode, with the distribution's nix."""
import os
import re
import signal
import subprocess
import time

import pytest

from conftest import ALICE, BOB, DAEMON, START_ID, SUBID_START, PRELUDE, wait_for


def test_one_build(daemon):
    out = daemon.nix_build('sh "one" "echo hello > $out"').stdout.strip()
    assert open(out).read() == "hello\n"
    info = os.stat(out)
    assert info.st_mode & 0o7777 == 0o444 and info.st_mtime == 1
    assert info.st_uid == daemon.users[DAEMON].pw_uid
    # Nothing is left of the build.
    spool = daemon.state / "airplant/spool"
    wait_for(lambda: not [d for d in os.listdir(spool) if d.startswith("b-")], daemon.daemon_log)


def test_chain_diamond_and_source(daemon):
    src = daemon.homes[ALICE] / "src"
    src.mkdir()
    (src / "a").write_text("from disk\n")
    os.chown(src, daemon.users[ALICE].pw_uid, 0)
    out = daemon.nix_build(f'''
      let base = sh "base" "read x < ${{{src}}}/a; echo $x > $out";
          left = sh "left" "read x < ${{base}}; echo left $x > $out";
          right = sh "right" "read x < ${{base}}; echo right $x > $out";
      in sh "top" "read l < ${{left}}; read r < ${{right}}; echo $l, $r > $out; echo ${{left}} >> $out"''').stdout.strip()
    text = open(out).read()
    assert text.startswith("left from disk, right from disk\n")
    refs = daemon.run("nix-store", "-q", "--references", out).stdout.split()
    assert [os.path.basename(r).split("-", 1)[1] for r in refs] == ["left"]


def test_uid_is_leased(daemon):
    """The builder sees 1000; the host sees a uid that no account owns (or the daemon's, in single)."""
    p = daemon.popen("nix-build", "--no-out-link", "-E",
                     PRELUDE + 'sh "slow" "echo $$ > $out; /bin/sh -c \'while read x; do :; done\' < /dev/zero & '
                               'i=0; while [ $i -lt 30 ]; do read -t 1 x < /dev/tty; i=$((i+1)); /bin/sh -c : ; done; '
                               'exec 3<>/build/f; read x <&3; while :; do :; done"')
    try:
        builder = {}

        def found():
            for pid, name in daemon.children().items():
                try:
                    exe = os.readlink(f"/proc/{pid}/exe")
                except OSError:
                    continue
                if exe.endswith("/sh") or "busybox" in exe:
                    builder[pid] = open(f"/proc/{pid}/status").read()
            return builder
        wait_for(found, daemon.daemon_log)
        pid, status = next(iter(builder.items()))
        uid = int(re.search(r"^Uid:\t(\d+)", status, re.M).group(1))
        if daemon.mode == "broker":
            assert START_ID <= uid < START_ID + 8388608
        elif daemon.mode == "subid":
            assert SUBID_START <= uid < SUBID_START + 128
        else:
            assert uid == daemon.users[DAEMON].pw_uid
        assert re.search(r"^CapEff:\t0+$", status, re.M) and re.search(r"^CapBnd:\t0+$", status, re.M)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.M) and re.search(r"^Seccomp:\t2$", status, re.M)
        assert open(f"/proc/{pid}/uid_map").read().split()[::2] == ["1000", "1"] or \
            open(f"/proc/{pid}/uid_map").read().split()[0] == "1000"
    finally:
        p.send_signal(signal.SIGINT)
        p.wait()
    # The client is gone, so the build is ended.
    wait_for(lambda: not any("sh" == n or "busybox" in n for n in daemon.children().values()), daemon.daemon_log)


def test_failing_build_shows_its_log(daemon):
    r = daemon.nix_build('sh "bad" "echo one; echo two >&2; exit 3"', check=False)
    assert r.returncode != 0
    assert "one" in r.stderr and "two" in r.stderr
    assert re.search(r"failed with exit code 3", r.stderr)


def test_missing_output(daemon):
    r = daemon.nix_build('sh "none" "true"', check=False)
    assert r.returncode != 0 and "failed to produce output path" in r.stderr
    assert not [f for f in os.listdir(daemon.store) if f.endswith("-none")]


def test_dependency_failure_and_keep_going(daemon):
    expr = '''let bad = sh "bad" "exit 1"; good = sh "good" "echo > $out"; in
              sh "top" "echo ${bad} ${good} > $out"'''
    r = daemon.nix_build(expr, check=False, args=["--keep-going"])
    assert r.returncode != 0 and "bad.drv" in r.stderr
    assert [f for f in os.listdir(daemon.store) if f.endswith("-good")]


def test_multiple_outputs(daemon):
    expr = '''shWith { name = "multi"; outputs = [ "out" "dev" ]; }
              "echo $dev > $out; echo dev > $dev"'''
    out = daemon.nix_build(expr).stdout.strip()
    dev = open(out).read().strip()
    assert dev.endswith("-multi-dev") and open(dev).read() == "dev\n"
    assert daemon.run("nix-store", "-q", "--references", out).stdout.split() == [dev]


def test_cycle_between_outputs(daemon):
    r = daemon.nix_build('''shWith { name = "cyc"; outputs = [ "out" "dev" ]; }
                            "echo $dev > $out; echo $out > $dev"''', check=False)
    assert r.returncode != 0 and "cycle" in r.stderr
    assert not [f for f in os.listdir(daemon.store) if re.search(r"-cyc(-dev)?$", f)]


HELLO_SHA256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # "hello\n"


def test_fixed_output(daemon):
    good = '''shWith { name = "fod"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "%s"; }
              "echo hello > $out"''' % HELLO_SHA256
    out = daemon.nix_build(good).stdout.strip()
    assert open(out).read() == "hello\n"
    assert daemon.run("nix-store", "--verify-path", out).returncode == 0
    bad = good.replace("echo hello", "echo other").replace('"fod"', '"fod2"')
    r = daemon.nix_build(bad, check=False)
    assert r.returncode != 0 and "hash mismatch in fixed-output derivation" in r.stderr
    assert "specified:" in r.stderr and "got:" in r.stderr


@pytest.mark.parametrize("algo", ["md5", "sha1", "sha256", "sha512"])
def test_fixed_recursive(make_daemon, algo):
    daemon = make_daemon("single")
    src = daemon.homes[ALICE] / "tree"
    src.mkdir(mode=0o755)
    (src / "x").write_text("x\n")
    os.chown(src, daemon.users[ALICE].pw_uid, 0)
    digest = daemon.run("nix-hash", "--type", algo, src).stdout.strip()
    out = daemon.nix_build('''shWith { name = "tree"; outputHashMode = "recursive"; outputHashAlgo = "%s";
                              outputHash = "%s"; } "mkdir $out; echo x > $out/x"''' % (algo, digest),
                           check=False)
    if "mkdir: not found" in out.stderr:
        pytest.fail("the sandbox shell has no mkdir")
    assert out.returncode == 0, out.stderr


def test_pass_as_file_and_environment(daemon):
    out = daemon.nix_build('''shWith { name = "env"; passAsFile = [ "text" ]; text = "in a file"; odd = "a\\nb'\\"c"; }
        "read x < $textPath; { echo $x; echo $odd; echo $PATH $HOME $NIX_STORE $NIX_BUILD_TOP $PWD $TMPDIR; } > $out"''')
    text = open(out.stdout.strip()).read().splitlines()
    assert text[0] == "in a file"
    assert text[-1] == f"/path-not-set /homeless-shelter {daemon.store} /build /build /build"


def test_two_clients_one_build(make_daemon):
    """The same derivation asked for twice at the same time is built once; both get the whole log."""
    daemon = make_daemon("broker", start=False)
    gate = daemon.base / "gate"
    gate.mkdir()
    daemon.write_conf(f"sandbox-paths = /bin/sh=/bin/busybox /gate={gate}\n")
    daemon.start()
    expr = PRELUDE + 'sh "shared" "echo line-one; while ! [ -e /gate/open ]; do :; done; echo line-two; echo $$ > $out"'
    a = daemon.popen("nix-build", "--no-out-link", "-E", expr, user=ALICE)
    ta = until(a, "line-one")
    b = daemon.popen("nix-build", "--no-out-link", "-E", expr, user=BOB)
    tb = until(b, "line-one")
    (gate / "open").touch()
    ta, tb = ta + a.communicate(timeout=60)[0], tb + b.communicate(timeout=60)[0]
    assert a.returncode == 0 and b.returncode == 0, ta + tb
    for text in (ta, tb):
        assert "line-one" in text and "line-two" in text, ta + "\n---\n" + tb
    assert daemon.tail().count("-shared.drv") < 6
    log = daemon.run("nix-store", "-l", re.search(r"(/\S+-shared)\s*$", ta).group(1)).stdout
    assert log == "line-one\nline-two\n"


def until(client, line):
    """What the client prints up to `line`."""
    text = ""
    for got in client.stdout:
        text += got
        if line in got:
            return text
    raise AssertionError(text)


def test_read_log_and_nix_log(daemon):
    out = daemon.nix_build('sh "logged" "echo to the log; echo > $out"').stdout.strip()
    assert daemon.run("nix-store", "--read-log", out).stdout == "to the log\n"
    assert daemon.run("nix", "log", out).stdout == "to the log\n"


def test_parallel_slots(make_daemon):
    daemon = make_daemon("broker", "max-jobs = 2\n")
    expr = "[ " + " ".join(f'(sh "p{i}" "echo {i} > $out")' for i in range(40)) + " ]"
    r = daemon.nix_build(expr)
    assert len(r.stdout.split()) == 40


def test_setuid_is_refused(daemon):
    out = daemon.nix_build('''sh "suid" "echo x > /build/f; chmod 4755 /build/f && echo worked > $out || echo refused > $out"''')
    assert open(out.stdout.strip()).read() == "refused\n"


def test_sandbox_hides_the_host(daemon):
    secret = daemon.base / "secret"
    secret.write_text("host")
    out = daemon.nix_build(f'''sh "look" "{{ [ -e {secret} ] && echo seen; [ -e /etc/shadow ] && echo shadow; \
        echo /nix*; for i in /proc/[0-9]*; do echo $i; done; }} > $out 2>&1"''').stdout.strip()
    text = open(out).read()
    assert "seen" not in text and "shadow" not in text
    assert len(re.findall(r"^/proc/\d+$", text, re.M)) <= 2


def test_unbuildable_system(daemon):
    r = daemon.run("nix-build", "--no-out-link", "-E",
                   'derivation { name = "x"; system = "armv7l-linux"; builder = "/bin/sh"; }', check=False)
    assert r.returncode != 0 and "armv7l-linux" in r.stderr
