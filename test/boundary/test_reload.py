"""Settings that change under open connections: these keep what they began with, but no right that was taken away."""
import signal
import time

import pytest

from conftest import ALICE, BOB, wait_for
from test_rights import REQUESTS, connect
from worker import Closed, Refused, strings


@pytest.fixture
def d(make_daemon):
    d = make_daemon("single", start=False)

    def settings(conf, may=""):
        d.own_conf = f"may = {may}\n" if may else ""
        d.write_conf(conf)
        if not d.procs:
            d.start()
            with connect(d, "root") as w:
                d.known = w.add_text("known", b"known")
            return
        n = d.daemon_log.read_text().count("settings reloaded")
        d.core.send_signal(signal.SIGHUP)
        wait_for(lambda: d.daemon_log.read_text().count("settings reloaded") > n, d.daemon_log)
    d.settings = settings
    return d


def asks(d, w, name):
    """None, or why not."""
    try:
        w.user = ALICE
        REQUESTS[name](d, w)
        return None
    except Refused as e:
        return str(e)


def top_of(d, w, name):
    drv = d.run("nix-instantiate", "-E", f'derivation {{ name = "{name}"; system = "x86_64-linux"; builder = "/bin/sh"; '
                'args = [ "-c" "echo $NIX_BUILD_TOP > $out" ]; }').stdout.strip()
    w.op(9, strings([drv + "!*"]), 0)
    w.u64()
    out = d.run("nix-store", "-q", "--outputs", drv).stdout.strip()
    return open(out).read().strip()


def test_a_connection_keeps_its_settings(d):
    d.settings("sandbox-build-dir = /first\n")
    with connect(d, ALICE) as old:
        d.settings("sandbox-build-dir = /second\n")
        with connect(d, ALICE) as between:
            d.settings("sandbox-build-dir = /third\n")
            with connect(d, ALICE) as new:
                assert [top_of(d, w, n) for w, n in ((old, "a"), (between, "b"), (new, "c"), (old, "d"))] == [
                    "/first", "/second", "/third", "/first"]


@pytest.mark.parametrize("how", ["trust", "may"])
def test_rights_that_are_taken_away_are_gone_at_once(d, how):
    with_right = (f"trusted-users = root {ALICE}\n", "") if how == "trust" else ("", f"{ALICE} import-unsigned")
    d.settings(*with_right)
    with connect(d, ALICE) as old:
        assert asks(d, old, "import-unsigned") is None
        d.settings("")
        end = time.monotonic() + 10  # who it is may have to be looked up
        while time.monotonic() < end and asks(d, old, "import-unsigned") is None:
            time.sleep(0.02)
        assert "lacks a signature by a trusted key" in asks(d, old, "import-unsigned")
        assert old.valid(d.known)
        d.settings(*with_right)  # back: who is connected gains nothing
        time.sleep(0.1)
        assert "lacks a signature by a trusted key" in asks(d, old, "import-unsigned")
        with connect(d, ALICE) as new:
            assert asks(d, new, "import-unsigned") is None


def test_who_may_not_connect_any_more_is_sent_away(d):
    d.settings("allowed-users = *\n")
    with connect(d, ALICE) as alice, connect(d, BOB) as bob:
        assert alice.valid(d.known) and bob.valid(d.known)
        d.settings(f"allowed-users = root {BOB}\n")
        with pytest.raises(Closed):
            alice.read(1)
        assert bob.valid(d.known)
        assert f"user {ALICE} is ended: the settings do not allow him to connect any more" in d.daemon_log.read_text()
