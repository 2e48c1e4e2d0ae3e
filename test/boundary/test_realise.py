"""Who may say what a derivation gives (ops 42 and 43)."""
import os

import pytest

from conftest import ALICE, DAEMON
from worker import Refused, Worker, strings, u64

KEY = "sha256:" + "12" * 32 + "!out"


def realisation(path, key=KEY):
    return '{"dependentRealisations":{},"id":"%s","outPath":"%s","signatures":[]}' % (key, os.path.basename(path))


def connect(daemon, user, minor):
    uid = daemon.users[user].pw_uid if user else 0
    os.seteuid(uid)
    try:
        return Worker(daemon.socket, (1, minor), timeout=10)
    finally:
        os.seteuid(0)


def query(worker, key=KEY):
    worker.op(43, key)
    return worker.strings()


@pytest.mark.parametrize("minor", [30, 38])
def test_registering_takes_trust(make_daemon, minor):
    daemon = make_daemon("single", "experimental-features = nix-command ca-derivations\n")
    with connect(daemon, None, minor) as root, connect(daemon, ALICE, minor) as alice:
        one, two = root.add_text("one", b"one"), alice.add_text("two", b"two")
        say = (lambda p: [realisation(p)]) if minor >= 31 else (lambda p: [KEY, os.path.basename(p)])
        with pytest.raises(Refused, match="lacks a signature by a trusted key"):
            alice.op(42, *say(two))
        assert query(alice) == []
        root.op(42, *say(one))
        root.op(42, *say(one))  # the same again is nothing new
        assert query(alice) == [realisation(one) if minor >= 31 else one]
        with pytest.raises(Refused, match="we already have another one locally"):
            root.op(42, *say(two))
        with pytest.raises(Refused, match="is not valid"):
            root.op(42, *say("0" * 32 + "-nothing"))
        for bad in ["", "x", "sha256:00!out", "sha1:" + "0" * 40 + "!out", KEY + "/x", KEY[:-4]]:
            with pytest.raises(Refused):
                alice.op(43, bad)
        assert alice.valid(one) == 1  # still in step


def test_without_the_feature_nothing_is_known(make_daemon):
    daemon = make_daemon("single")
    with connect(daemon, None, 38) as root:
        one = root.add_text("one", b"one")
        with pytest.raises(Refused, match="experimental Nix feature 'ca-derivations' is disabled"):
            root.op(42, realisation(one))
        assert query(root) == []


FLOATING = """let sh = name: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "echo floats > $out" ]; __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
in sh "floats" """


def test_by_the_derivation(make_daemon):
    """Clients from 2.35 on name the derivation instead of its hash (feature realisation-with-path-not-hash)."""
    daemon = make_daemon("single", "experimental-features = nix-command ca-derivations\n")
    drv = daemon.run("nix-instantiate", "-E", FLOATING).stdout.strip()
    with Worker(daemon.socket, greet=False) as root:
        root.greet(["realisation-with-path-not-hash"])

        def query(*what):
            root.op(43, *what)
            return [root.string(), root.strings()] if root.u64() else None
        assert query(drv, "out") is None
        assert query(f"{daemon.store}/{'0' * 32}-gone.drv", "out") is None
        one = root.add_text("one", b"one")
        with pytest.raises(Refused, match="is not valid"):
            root.op(42, f"{daemon.store}/{'0' * 32}-gone.drv", "out", one, strings([]))
        with pytest.raises(Refused):
            root.op(43, drv, "no/name")
        root.op(42, drv, "out", one, strings(["key:abcd"]))
        assert query(drv, "out") == [one, ["key:abcd"]]
        assert query(drv, "dev") is None
    # A client of the older kind sees the same under the hash, and finds it built.
    assert daemon.run("nix-store", "-r", drv).stdout.strip() == one
