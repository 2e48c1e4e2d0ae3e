"""Clients of whom a directory server has to be asked: one that hangs, crashes or fails for some of them
(a module of NSS, nss_hangs.c, in a mount namespace whose nsswitch.conf names it)."""
import os
import select
import signal
import socket
import struct
import subprocess
import time

import pytest

from conftest import ALICE, REPO, wait_for

HANGS, CRASHES, FAILS, NAMELESS = range(3000000001, 3000000005)
# The module is found in the daemon's own environment, which its helpers get.
WRAP = 'mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf && d=$1 && shift && exec env LD_LIBRARY_PATH="$d" "$@"'


@pytest.fixture
def directory(make_daemon):
    d = make_daemon("single", start=False)
    nss = d.base / "nss"
    nss.mkdir()
    (nss / "nsswitch.conf").write_text("passwd: files hangs\ngroup: files\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", nss / "libnss_hangs.so.2", REPO / "test/client/nss_hangs.c"], check=True)
    nss.chmod(0o755)
    d.wrap = ["unshare", "--mount", "--propagation", "private", "sh", "-c", WRAP, "sh", str(nss)]
    return d


def connect(d, uid):
    """A connection as this uid: the kernel says who made the socket connect."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    os.setresuid(-1, uid, 0)
    try:
        s.connect(str(d.socket))
    finally:
        os.setresuid(-1, 0, 0)
    s.sendall(struct.pack("<Q", 0x6e697863))
    return s


def hello(s):
    """The daemon's first word and its version, and what it says when it refuses."""
    first = s.recv(16, socket.MSG_WAITALL)
    assert first[:4] == struct.pack("<I", 0x6478696f), first
    if struct.unpack("<Q", first[8:])[0] != 0x122:
        return None  # a session, which waits for our version
    return s.recv(65536).decode(errors="replace")


def helpers(d):
    return [p for p, name in d.children().items() if name == "airplant-names"]


def test_who_hangs_delays_nobody(directory):
    d = directory.start()
    d.run("nix-store", "--version")
    with connect(d, HANGS) as stuck, connect(d, HANGS) as stuck_too:
        start = time.monotonic()
        for uid in (NAMELESS, 0, 65534):
            with connect(d, uid) as s:
                assert hello(s) is None
        d.run("nix-store", "--dump-db", user=ALICE)
        assert time.monotonic() - start < 5
        # The one that asks for him is killed, and its successor.
        while not select.select([stuck], [], [], 0.1)[0]:
            for p in helpers(d):
                os.kill(p, signal.SIGKILL)
        for s in (stuck, stuck_too):
            assert f"cannot find out who uid {HANGS} is" in hello(s)
        assert time.monotonic() - start < 10  # not for want of time
    d.run("nix-store", "--dump-db", user=ALICE)


def test_who_is_not_known_is_refused(directory):
    """Neither a crash nor a failure makes a user one without a name, whom other rights may be given."""
    directory.write_conf("allowed-users = *\n")
    d = directory.start()
    for _ in range(2):
        for uid in (CRASHES, FAILS):
            with connect(d, uid) as s:
                assert f"cannot find out who uid {uid} is" in hello(s)
    with connect(d, NAMELESS) as s:
        assert hello(s) is None
    assert d.core.poll() is None


def test_helpers_go_with_the_core(directory):
    d = directory.start()
    wait_for(lambda: helpers(d), d.daemon_log)
    with connect(d, HANGS):
        wait_for(lambda: len(helpers(d)) > 1 or d.run("nix-store", "--dump-db").returncode, d.daemon_log)
        pids = helpers(d)
        d.core.kill()
        d.core.wait()
        wait_for(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids), d.daemon_log)
