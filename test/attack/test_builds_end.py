"""The end of a build: processes that do not want to, and limits that it runs into.

Each test names its defence. test/attack/mutate takes them out one at a time, and says which test does not notice.
"""
import os
import pathlib
import re
import resource
import signal
import subprocess
import time

import pytest

from attack_builds import (answers, assert_intact, attacker, builder_of, fixed, make_hostile, plain, start, until, wait_clean)
from conftest import ALICE, BOB, DAEMON, MODES, wait_for


def processes_of(uid):
    found = []
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                if os.stat(f"/proc/{p}").st_uid == uid:
                    found.append(p)
            except OSError:
                pass
    return found


@pytest.mark.parametrize("nested", ["", "nested-sandboxes = true\n"])
@pytest.mark.parametrize("how", ["succeeds", "fails", "cancelled", "supervisor", "fixed"])
def test_nobody_outlives_the_build(make_daemon, attacker, nested, how):
    """Daemons, stopped ones, traced ones whose tracer is stopped, a parent of a vfork, a process of a nested pid namespace; the
    build succeeds, fails, is cancelled, or loses its supervisor. Defence: the build's pid namespace ends with its first
    process (child_start()), which supervisor and core both can kill."""
    d = make_hostile(make_daemon, attacker, conf=nested, binds=["/shared=SHARED"])
    alive = d.shared / "alive"
    script = f"/attack outlive /shared/alive; echo hello > $out; echo now; {dict(succeeds='', fixed='', fails='exit 3').get(how, 'while :; do :; done')}"
    client = start(d, (fixed if how == "fixed" else plain)("outlive", script))
    text = until(client, "now")
    assert ("nested" in text) == bool(nested), text
    uid = os.stat(alive).st_uid if d.mode == "broker" else None
    if how == "cancelled":
        client.send_signal(signal.SIGKILL)
    if how == "supervisor":
        pid, _ = builder_of(d, client)
        os.kill(int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
    rest = client.communicate(timeout=30)[0]
    assert (client.returncode == 0) == (how in ("succeeds", "fixed")), rest
    wait_for(lambda: not processes_of(uid), d.daemon_log, seconds=5)
    size = alive.stat().st_size
    time.sleep(0.2)
    assert alive.stat().st_size == size and size > 0
    wait_clean(d)
    assert_intact(d)


@pytest.mark.parametrize("what", ["fds", "pipes", "inodes", "bytes"])
def test_what_runs_out(make_daemon, attacker, users, what):
    """A builder takes all there is of something, on a store of 24 MB with 1500 inodes; another user's build waits for it, the
    daemon goes on, and all is there again afterwards. Defence: each process's own limits; the scratch is deleted before the
    slot is free."""
    d = make_daemon("broker", start=False)
    if what in ("inodes", "bytes"):
        # The daemon alone sees a small file system there.
        pw = users[DAEMON]
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=24m,nr_inodes=1500,mode=0755,uid={pw.pw_uid},gid={pw.pw_gid}", "small", d.base], check=True)
    try:
        runs_out(d, attacker, what, users)
    finally:
        d.stop()
        if what in ("inodes", "bytes"):
            subprocess.run(["umount", d.base], check=True)


def runs_out(d, attacker, what, users):
    for x in (d.store, d.state, d.log, d.etc):
        x.mkdir(parents=True, exist_ok=True)
    for x in (d.base / "var", d.base / "var/log", d.store, d.state, d.log, d.etc):
        os.chown(x, users[DAEMON].pw_uid, users[DAEMON].pw_gid)
    for n, home in d.homes.items():
        home.mkdir(exist_ok=True)
        os.chown(home, users[n].pw_uid if n in users else 0, -1)
    d.write_conf(f"extra-sandbox-paths = /bin/busybox /attack={attacker}\n")
    d.start()
    good = d.nix_build(plain("good", "echo good > $out")).stdout.strip()
    for where in ("/tmp", "/build", "$NIX_STORE"):
        script = f"/attack exhaust {what} {where if what != 'bytes' else where + '/f'}"
        r = d.nix_build(plain("hog", script), check=False)
        assert r.returncode != 0, r.stderr
        word = {"fds": "EMFILE", "pipes": "EMFILE", "inodes": "ENOSPC", "bytes": "ENOSPC"}[what]
        assert f"{what}: {word}" in r.stderr, r.stderr
        wait_clean(d)
        # And everything works again.
        assert open(good).read() == "good\n"
        d.run("nix-store", "--verify-path", good)
        d.nix_build(plain(f"next{len(where)}", "echo next > $out"), user=BOB)
        if what in ("fds", "pipes"):
            break
    # While it is full, too: another user's request ends with a sentence, and the valid path is still served.
    if what in ("inodes", "bytes"):
        script = f"/attack exhaust {what} {'/tmp' if what == 'inodes' else '/tmp/f'}; while :; do :; done"
        hog = start(d, plain("hog2", script))
        full = lambda: (lambda v: v.f_bavail == 0 if what == "bytes" else v.f_favail < 64)(os.statvfs(d.base))  # others give some back
        wait_for(full, d.daemon_log)  # its log cannot be written any more either
        r = d.nix_build(plain("meanwhile", "echo > $out"), user=BOB, check=False)
        assert r.returncode == 0 or "space" in r.stderr, r.stderr
        d.run("nix-store", "--verify-path", good, user=BOB)
        hog.send_signal(signal.SIGINT)
        hog.wait(20)
        wait_clean(d)
        d.nix_build(plain("last", "echo > $out"), user=BOB)


def test_sparse(make_daemon, attacker):
    """An output of a terabyte that takes no space, and takes an hour to read: who started it goes, and its slot is free in
    seconds. Defence: the supervisor looks for the core while it reads (asked_to_stop() in build/outputs.c)."""
    d = make_hostile(make_daemon, attacker)
    client = start(d, plain("sparse", "/attack sparse $out 1000000000000; echo now; exit 0"))
    until(client, "now")
    time.sleep(0.5)
    client.send_signal(signal.SIGKILL)
    client.wait(20)
    wait_clean(d)
    assert_intact(d)


def test_no_core(make_daemon, attacker):
    """A builder that crashes writes no core, and cannot ask for the one limit, 0, at which the machine's handler would be started as
    root. Defence: RLIMIT_CORE in reset_process(), core_limit in confine/builder.c."""
    d = make_hostile(make_daemon, attacker)
    r = d.nix_build(plain("core", "/attack core; /bin/sh -c 'kill -SEGV $$'; /bin/busybox ls -la; echo > $out"), check=False)
    assert "core limit 1 " in r.stderr and not re.search(r" core(\.\d+)?$", r.stderr, re.M), r.stderr
