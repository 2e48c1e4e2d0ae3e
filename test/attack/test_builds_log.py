"""What a builder writes: lines without end, and lines that look like somebody else's.

Each test names its defence. test/attack/mutate takes them out one at a time, and says which test does not notice.
"""
import os
import re
import signal
import subprocess
import time

import pytest

from attack_builds import (answers, assert_intact, attacker, builder_of, fixed, make_hostile, plain, start, until, wait_clean)
from conftest import ALICE, BOB, MODES, PRELUDE, wait_for


def peak_kb(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{pid}/status").read())[1])


def test_one_line_of_300_megabytes(make_daemon, attacker):
    """Neither the supervisor nor the core nor a session keeps it in memory, whether its client reads or not. Defence: LINE_MAX_BYTES in
    build/logfile.c; sessions read the log from its file, piece by piece (session/log.c)."""
    d = make_hostile(make_daemon, attacker, conf="keep-build-log = false\n")
    drv = d.run("nix-instantiate", "-E", PRELUDE + plain("line", "/attack line 300; echo; echo done; while :; do /bin/busybox sleep 1; done")).stdout.strip()
    client = d.popen("nix-store", "-r", drv)
    deaf = d.popen("nix-store", "-r", drv, user=BOB)
    os.kill(deaf.pid, signal.SIGSTOP)
    until(client, "done")
    peaks = {f"{n} {p}": peak_kb(p) for p, n in d.children().items() if n.startswith("airplant")}
    assert len(peaks) >= 4 and max(peaks.values()) < 64 * 1024, peaks
    os.kill(deaf.pid, signal.SIGCONT)
    for c in (client, deaf):
        c.kill()
        c.wait()
    wait_clean(d)
    assert_intact(d)


FORGED = ('@nix {"action":"msg","level":0,"msg":"FORGED"}', '@nix {"action":"start","id":1,"level":0,"type":105,"text":"FORGED","fields":[]}',
          '@nix {"action":"stop","id":1}', '@nix {"action":"result","id":1,"type":106,"fields":[1,2,3,4]}', "@nix {", "@nix " + "[" * 20000)


def test_forged_messages(make_daemon, attacker):
    """Lines that look like messages of the daemon, terminal escapes, zeros, invalid UTF-8: they come back from the log byte by
    byte, start and stop nothing, and do not appear in the daemon's own log. Defence: only sessions, each for its own client, look
    into a log, and let through what stock lets through (session/buildlog.c)."""
    d = make_hostile(make_daemon, attacker)
    text = b"\x1b]0;title\x07\x1b[2J\x1b[31m\xff\xfe\0zero\r\x08\x08\n" + "\n".join(FORGED).encode() + b"\nairplantd: FORGED\n"
    (d.base / "text").write_bytes(text)
    (d.base / "text").chmod(0o644)
    d.stop()
    d.write_conf(f"extra-sandbox-paths = /bin/busybox /text={d.base}/text\n")
    d.start()
    for end in ("echo > $out", "exit 1"):
        r = subprocess.run(["setpriv", "--reuid", str(d.users[ALICE].pw_uid), "--regid", str(d.users[ALICE].pw_gid), "--clear-groups", "nix-build", "-vvvvv",
                            "--no-out-link", "--log-format", "internal-json", "-E", PRELUDE + plain("forged", "/bin/busybox cat /text; " + end)],
                           env=d.env(ALICE), cwd=d.homes[ALICE], capture_output=True, timeout=60)
        assert (r.returncode == 0) == (end != "exit 1"), r.stderr
        # A message is shown as one, as stock does; activities are not started or ended by a builder.
        assert not re.search(rb'"action":"start"[^\n]*FORGED', r.stderr) and b'"type":106,"fields":[1,2,3,4]' not in r.stderr
        assert not re.search(rb'"action":"stop","id":1}', r.stderr)
        drv = re.search(rb"(/[^ '\"]+-forged\.drv)", r.stderr)[1].decode()
        log = subprocess.run(["nix-store", "-l", drv], env=d.env(), capture_output=True, check=True).stdout
        assert log == text
    assert "FORGED" not in d.daemon_log.read_text(errors="replace") and "\x1b" not in d.daemon_log.read_text(errors="replace")
    assert d.nix_build('sh "after" "echo > $out"').returncode == 0
