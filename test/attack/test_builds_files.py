"""What a builder leaves behind: set-user-ID files, links, names, depth, attributes, swapped outputs.

Each test names its defence. test/attack/mutate takes them out one at a time, and says which test does not notice.
"""
import os
import pathlib
import re
import shutil
import stat
import struct
import subprocess
import time
import zlib

import pytest

from attack_builds import (HELLO, answers, assert_intact, attacker, builder_of, fixed, make_hostile, plain, snapshot, start, stop_traced, until,
                           wait_clean)
from conftest import ALICE, BOB, MODES, PRELUDE, wait_for


def spool(d):
    return d.state / "airplant/spool"


def scratch(d):
    wait_for(lambda: list(spool(d).glob("b-*/build/ready")), d.daemon_log)
    return next(spool(d).glob("b-*/build/ready")).parents[1]


@pytest.mark.parametrize("system", ["x86_64-linux", "i686-linux"])
def test_no_set_user_id_file(make_daemon, attacker, system):
    """Every call that makes or changes a mode, by every entry of the kernel (x86-64, x32, int 0x80), by a mode behind a file
    descriptor, by /proc, and by a tracer that exchanges the arguments of a harmless call. Defence: make_suid in
    confine/builder.c; x32 is not there at all. openat2 hides its mode: see the next test."""
    d = make_hostile(make_daemon, attacker)
    r = d.nix_build(f'shWith {{ name = "modes"; system = "{system}"; }} "/attack modes f; echo > $out"')
    lines = re.findall(r"^(.*): (\w+) mode (\d+)$", r.stderr, re.M)
    assert len(lines) == 3 * (14 + 14 + 10 + 1), r.stderr
    wrong = [x for x in lines if int(x[2], 8) & 0o6000 and "openat2" not in x[0]]
    assert not wrong and all(x[1] in ("EPERM", "ENOSYS") for x in lines if "openat2" not in x[0])
    assert_intact(d)


@pytest.mark.parametrize("mode", MODES)
def test_what_openat2_leaves_is_of_no_use(make_daemon, attacker, mode):
    """A set-user-ID file that the filter cannot see: it loses the bit with its first byte (the kernel), nobody can reach it
    (the spool is 0700), and the output has no such bit (nar/tree_canon.c); nor has it when the build fails. Whoever has
    the build's own uid on the machine comes no nearer."""
    d = make_hostile(make_daemon, attacker, mode)
    client = start(d, plain("plant", "/attack plant $out; /attack plant kept; echo > ready; "
                            "while [ ! -e go ]; do /bin/busybox sleep 0.1; done; exit $(/bin/busybox cat go)"))
    where = scratch(d)
    planted = next(where.glob("store/*-plant"))
    assert planted.stat().st_mode & 0o6000 == 0o6000
    uid = planted.stat().st_uid
    # As if the kernel had left the bit.
    shutil.copyfile(attacker, planted)
    planted.chmod(0o6755)
    for who in {uid, *(d.users[n].pw_uid for n in (ALICE, BOB))} - {d.users["airplant-test"].pw_uid}:
        for what in (f"stat {planted}", f"ls {where}", f"ls {where}/build", f"ls {spool(d)}", f"exec {planted}"):
            # setpriv itself keeps capabilities until its exec: so a shell does it.
            r = subprocess.run(["setpriv", "--reuid", str(who), "--regid", str(who), "--clear-groups", "sh", "-c", what],
                               capture_output=True, text=True)
            assert r.returncode != 0 and "uid" not in r.stdout and "Permission denied" in r.stderr, r.stderr
    (where / "build/go").write_text("0")
    out = client.communicate(timeout=30)[0].split()[-1]
    assert client.returncode == 0 and stat.S_IMODE(os.stat(out).st_mode) == 0o555
    assert d.nix_build(plain("plant2", "/attack plant $out; exit 1"), check=False, args=["--keep-failed"]).returncode != 0
    wait_clean(d)
    assert_intact(d)


@pytest.mark.parametrize("mode", ["broker", "single"])  # in single the builder owns what is in the store
def test_inputs_cannot_be_taken_along(make_daemon, attacker, mode):
    """Hard links of inputs, of files that sandbox-paths show, of other builds' and of the host's; changes of what they are.
    Defence: each is a mount of its own, read-only in the store (bind_inputs() in build/root.c)."""
    d = make_hostile(make_daemon, attacker, mode, binds=["/shared=SHARED", "/canary=SHARED/../canaries"])
    d.shared.chmod(0o755)  # or it could delete there what it likes
    (d.shared / "theirs").write_text("theirs\n")
    before = snapshot(d.shared)
    r = d.nix_build(f"shWith {{ name = \"links\"; honest = builtins.storePath {d.honest}; }} "
                    "''/attack link $honest l; /attack link /shared/theirs l2; /attack link /canary/c0 l3; /attack link /etc/passwd l4; "
                    "/attack link /bin/sh l5; [ ! -e l ] && echo > $out''")
    said = re.findall(r"^(link|link of fd|link of empty|rename|chmod|utime|write|chown|unlink): (\w+)$", r.stderr, re.M)
    assert len(said) == 5 * 9, r.stderr
    assert all(answer == "EXDEV" for word, answer in said if word.startswith(("link", "rename")))
    assert not [word for word, answer in said[:27] if answer == "ok"], r.stderr  # the rest is its own /etc
    assert snapshot(d.shared) == before
    assert_intact(d)


def test_outputs_that_lead_elsewhere(make_daemon, attacker):
    """An output that is, or has in it, a symlink to a canary, a fifo, a socket, or a file with a name outside of the output.
    Defence: nar/tree_canon.c never follows and refuses what is no file (status(), check_links())."""
    d = make_hostile(make_daemon, attacker, binds=["/shared=SHARED"])
    honest = d.honest
    for script, ok in ((f"/bin/busybox ln -s {d.canaries} $out", True),
                       (f"/bin/busybox mkdir $out; /bin/busybox ln -s {honest} {d.canaries}/c0 $out", True),
                       (f"echo > $out; /bin/busybox rm $out; /bin/busybox ln -s {honest} $out", True),
                       ("/bin/busybox mkfifo $out", False), ("/bin/busybox mkdir $out; /bin/busybox mkfifo $out/f", False),
                       ("(/attack hold $out /x rw & /bin/busybox sleep 0.3); true", False),
                       ("echo > ../tmp/k; echo > $out; /bin/busybox ln $out other", False),
                       ("/bin/busybox mkdir $out; echo > $out/a; /bin/busybox ln $out/a other", False),
                       ("echo > $out; /bin/busybox chmod 666 $out", False),
                       ("/bin/busybox mkdir $out; /bin/busybox chmod 777 $out", False),
                       ("/bin/busybox mkdir $out; echo > $out/f; /bin/busybox chmod 0 $out/f $out", True)):
        for kind in (plain, fixed) if not ok else (plain,):
            r = d.nix_build(kind(f"elsewhere-{zlib.crc32(script.encode())}", script), check=False)
            assert (r.returncode == 0) == ok, (script, r.stderr)
            if not ok:
                assert not list(d.store.glob(f"*-elsewhere-{zlib.crc32(script.encode())}")), script
    wait_clean(d)
    assert_intact(d)


@pytest.mark.parametrize("mode", ["broker", "single"])
def test_attributes_are_left_behind(make_daemon, attacker, mode):
    """Access lists and other attributes, which the filter refuses to builders: should one be there, it is not in the output.
    Defence: remove_xattrs() in nar/tree_canon.c."""
    d = make_hostile(make_daemon, attacker, mode)
    client = start(d, plain("acl", "/bin/busybox mkdir $out; echo > $out/f; /bin/busybox ln -s f $out/l; echo > ready; "
                            "while [ ! -e go ]; do /bin/busybox sleep 0.1; done"))
    where = scratch(d)
    out = next(where.glob("store/*-acl"))
    bob = d.users[BOB].pw_uid
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in (
        (1, 6, 0xffffffff), (2, 7, bob), (4, 5, 0xffffffff), (16, 7, 0xffffffff), (32, 5, 0xffffffff)))
    for f in (out, out / "f"):
        os.setxattr(f, "system.posix_acl_access", acl)
        os.setxattr(f, "user.hidden", b"x")
    os.setxattr(out, "system.posix_acl_default", acl)
    for f in (out, out / "f"):
        f.chmod(0o755 if f == out else 0o644)
    (where / "build/go").touch()
    made = pathlib.Path(client.communicate(timeout=30)[0].split()[-1])
    assert client.returncode == 0
    assert {f: os.listxattr(f) for f in (made, made / "f")} == {made: [], made / "f": []}
    assert stat.S_IMODE((made / "f").stat().st_mode) == 0o444 and (made / "f").stat().st_mtime == 1
    assert_intact(d)


def test_names(make_daemon, attacker):
    """Newlines, invalid UTF-8, terminal escapes, 255 bytes: registered, dumped, verified and deleted as any others."""
    d = make_hostile(make_daemon, attacker)
    out = d.nix_build(plain("names", "/attack names $out")).stdout.strip()
    assert len(os.listdir(os.fsencode(out))) == 10
    theirs = subprocess.run(["nix-store", "--dump", out], capture_output=True, check=True).stdout
    copy = d.base / "copy"
    subprocess.run(["nix-store", "--restore", copy], input=theirs, check=True)
    assert sorted(os.listdir(os.fsencode(copy))) == sorted(os.listdir(os.fsencode(out)))
    assert_intact(d)
    d.run("nix-store", "--delete", out)
    assert not os.path.lexists(out)
    # A file of that name is made by the supervisor of the next.
    r = d.nix_build(plain("names2", "/attack names $out; exit 1"), check=False, args=["--keep-failed"])
    assert r.returncode != 0
    wait_clean(d)


@pytest.mark.parametrize("mode", ["broker", "single"])
def test_depth(make_daemon, attacker, mode):
    """Trees deeper than any path can say, the last directory closed: refused as outputs, deleted as leftovers, not kept. Defence:
    the limit of tree_walk_push(); base/rm_tree.c, which goes no deeper than two."""
    d = make_hostile(make_daemon, attacker, mode)
    r = d.nix_build(plain("deep", "/attack deep $out 300"), check=False)
    assert r.returncode != 0 and "depth" in r.stderr, r.stderr
    for end in ("exit 1", "echo > $out"):
        d.nix_build(plain("deep2", f"/attack deep d 400 x; /attack deep /tmp/d 300; /attack deep $NIX_STORE/d 300; {end}"),
                    check=False, args=["--keep-failed"])
    wait_clean(d)
    assert_intact(d)


TRAPS = "out work keep root build store tmp lower .attrs.sh .attrs.json .attrs .rm0 .rm1 .rm2 .rm3 .rm10 .rm100 log 0 1".split()


def test_traps(make_daemon, attacker):
    """CVE-2026-39860: a trap (symlink to a canary, directory, fifo, hard link) at every name that the supervisor uses below the
    scratch, as strace has seen it, in every directory a builder can write to. Defence: what is made after the builder
    lies where no builder comes (<scratch>/out), and names are taken with RENAME_NOREPLACE."""
    d = make_hostile(make_daemon, attacker)
    # One honest build under strace, for the names.
    d.stop()
    trace = d.base / "trace"
    trace.mkdir()
    trace.chmod(0o777)
    d.wrap = ["strace", "-f", "-qq", "-e", "trace=%file", "-e", "signal=none", "-o", str(trace / "calls")]
    d.start()
    d.nix_build(plain("look", "/bin/busybox mkdir -p a/b c; echo x > a/b/f; echo x > c/f; /bin/busybox mkdir -p $out/x/y; exit 0"))
    d.nix_build(plain("look2", "/bin/busybox mkdir -p a/b; echo x > a/b/f; exit 1"), check=False, args=["--keep-failed"])
    wait_clean(d)
    stop_traced(d)
    d.wrap = []
    text = (trace / "calls").read_text(errors="replace")
    seen = {n for n in re.findall(r'"(?:[^"\\\n]*/)?([^"/\\\n]+)"', text)}
    assert {"out", "store", "keep"} <= seen and any(n.startswith(".rm") for n in seen), sorted(seen)
    names = sorted(n for n in seen | set(TRAPS) if re.fullmatch(r"[A-Za-z0-9._?+=-]+", n) and n not in (".", "..", d.base.name) and not n.endswith("-look"))
    (d.base / "names").write_text("\n".join(names) + "\n")
    (d.base / "names").chmod(0o644)
    d.write_conf(f"extra-sandbox-paths = /bin/busybox /attack={attacker} /names={d.base}/names\n")
    d.start()
    b = "/bin/busybox"
    kinds = {"link": f"{b} ln -s {d.canaries} $t/$n", "file": f"{b} ln -s {d.canaries}/c0 $t/$n", "dir": f"{b} mkdir -p $t/$n/$n; echo > $t/$n/f; {b} chmod 0 $t/$n",
             "fifo": f"{b} mkfifo $t/$n", "hard": f"{b} ln base $t/$n", "dangling": f"{b} ln -s /nowhere $t/$n"}
    for kind, make in kinds.items():
        for end, args in (("exit 0", []), ("exit 1", ["--keep-failed"])):
            r = d.nix_build(plain(f"trap-{kind}", f"echo > base; for t in . /tmp $NIX_STORE; do while read n; do {make}; done < /names; done 2>/dev/null; "
                                  f"{b} mkdir -p $out/sub; echo fine > $out/f; {b} chmod 0 $out/sub; {end}"), check=False, args=args)
            assert (r.returncode == 0) == (end == "exit 0"), r.stderr
            if r.returncode == 0:
                out = pathlib.Path(r.stdout.strip())
                assert sorted(os.listdir(out)) == ["f", "sub"] and (out / "f").read_text() == "fine\n"
    wait_clean(d)
    assert_intact(d)


NAMES = {
    "passAsFile": 'shWith { name = "n"; passAsFile = [ "../../x" "a/b" ]; "../../x" = "evil"; "a/b" = "evil"; } "echo > $out"',
    "graph": 'shWith { name = "n"; exportReferencesGraph = [ "../../x" ./. ]; } "echo > $out"',
    "graph-dots": 'shWith { name = "n"; exportReferencesGraph = [ ".." ./. ]; } "echo > $out"',
    "equals": 'shWith { name = "n"; "LD_PRELOAD=x" = "y"; "new\\nline=z" = "w"; } "echo > $out"',
    "empty": 'shWith { name = "n"; "" = "y"; } "echo > $out"',
    "structured": 'shWith { name = "n"; __structuredAttrs = true; "../x" = "a"; "a b; touch /build/evil" = "c"; "x\\ny" = [ "$(touch evil)" "`touch evil`" "\'; touch evil; \'" ]; '
                  'l = [ "$(touch evil)" "\'; touch evil; \'" ]; s = "\'\\n$(touch evil)"; m = { "]; touch evil; [" = "$(touch evil)"; "ok" = "\'"; }; outputs = [ "out" ]; } '
                  '". ./.attrs.sh || true; [ ! -e evil ] || exit 7; o=$NIX_STORE/$(/bin/busybox sed -n \'s|.*/\\\\([0-9a-z]*-n\\\\)\\".*|\\\\1|p\' .attrs.json | /bin/busybox head -n 1); echo > $o"',
}


@pytest.mark.parametrize("what", NAMES)
def test_hostile_attribute_names(make_daemon, attacker, what):
    """Names of attributes that become names of files, variables and words of a shell. Defence: root_scratch() in build/root.c
    and graph_name_ok() in core/drv_opts.c; pass_file_name(); the quoting of core/attrs_print.c."""
    d = make_hostile(make_daemon, attacker, "single")
    (d.homes[ALICE] / "x").write_text("x")
    r = d.nix_build(NAMES[what], check=False, cwd=str(d.homes[ALICE]))
    if what.startswith("graph"):
        assert r.returncode != 0 and "invalid file name" in r.stderr, r.stderr
    else:
        assert "evil" not in r.stderr.replace("touch evil", "") and r.returncode != 7, r.stderr
    wait_clean(d)
    assert_intact(d)
