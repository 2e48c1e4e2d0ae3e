"""A stock daemon (2.34 and later) asks our tracer for runtime roots. Debian 12's nix is older: run
test/client/matrix for this one. test/boundary/test_roots.py reads the same bytes everywhere."""
import os
import re
import socket
import subprocess
import threading

import pytest

from conftest import ALICE, wait_for

FEATURES = "experimental-features = nix-command local-overlay-store\nbuild-users-group =\nsandbox = false\n"


def version():
    text = subprocess.run(["nix-store", "--version"], capture_output=True, text=True).stdout
    return tuple(map(int, re.search(r"(\d+)\.(\d+)", text).groups()))


pytestmark = pytest.mark.skipif(version() < (2, 34), reason="this nix knows no roots daemon: run test/client/matrix")


class Stock:
    def __init__(self, daemon):
        self.daemon = daemon
        (daemon.etc / "nix.conf").write_text(FEATURES)
        self.socket = daemon.state / "gc-roots-socket/socket"

    def run(self, *argv):
        env = self.daemon.env() | {"NIX_REMOTE": "local?use-roots-daemon=true"}
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)

    def add(self, name):
        source = self.daemon.base / name
        source.mkdir()
        (source / "file").write_text(name)
        return self.run("nix-store", "--add", str(source)).stdout.strip()

    def collect(self):
        r = self.run("nix-store", "--gc")
        return r.returncode == 0, r.stderr

    def serve(self, data):
        """Once, these bytes; as a tracer that ends there."""
        self.socket.parent.mkdir(exist_ok=True)
        self.socket.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket))
        listener.listen()

        def answer():
            with listener, listener.accept()[0] as c:
                c.sendall(data)

        threading.Thread(target=answer, daemon=True).start()


@pytest.fixture
def stock(make_daemon):
    return Stock(make_daemon("broker", start=False))


def test_collects_what_no_process_holds(stock):
    d = stock.daemon
    held, dead = stock.add("held"), stock.add("dead")
    for name in ("gcroots", "profiles"):
        (d.state / name).mkdir(exist_ok=True)
    d.start_roots("--upstream-user", "0")
    stock.socket.parent.mkdir(exist_ok=True)
    stock.socket.symlink_to(d.base / "roots/upstream")
    holder = subprocess.Popen(["setpriv", "--reuid", ALICE, "--regid", ALICE, "--clear-groups", "sleep", "600"], cwd=held)
    try:
        wait_for(lambda: os.readlink(f"/proc/{holder.pid}/cwd") == held, d.daemon_log)
        assert stock.collect()[0]
        assert os.path.exists(held) and not os.path.exists(dead)
    finally:
        holder.kill()
        holder.wait()
    assert stock.collect()[0] and not os.path.exists(held)


def test_deletes_nothing_on_an_answer_that_is_not_whole(stock):
    d = stock.daemon
    path = stock.add("path")
    (d.state / "gcroots").mkdir(exist_ok=True)
    store = str(d.store)
    answers = [f"{store}/", f"{store}/{path.rsplit('/')[-1]}\0{store}/",
               f"{store}/cannot look at /proc/1: Permission denied\0"]
    for answer in answers:
        stock.serve(answer.encode())
        ok, text = stock.collect()
        assert not ok and os.path.exists(path), text
    assert "cannot look at" in text
    # As the tracer ends a whole answer. And what is wrong with upstream's protocol: nothing at all is one.
    stock.serve(f"{store}/{'0' * 32}-end-of-roots\0".encode())
    ok, text = stock.collect()
    assert ok and not os.path.exists(path), text
