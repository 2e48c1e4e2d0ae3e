"""Where builds get their ids, seen from a client: when none is free, when the broker goes away."""
import os
import re
import signal

import pytest

from conftest import SLOT_IDS, wait_for


def slots(daemon):
    """The marks of the broker's slots, by first id: '-' is free, anything else is not."""
    ids = daemon.base / "ids"
    return {int(p.name[4:]): (p.read_text() or "-") for p in ids.iterdir()}


def test_all_slots_busy(make_daemon):
    """Six builds, two slots: four wait, say so, and are built."""
    d = make_daemon("broker", conf="max-jobs = 6\n", start=False)
    d.id_count = 2 * SLOT_IDS
    d.start()
    expr = "map (n: sh \"job${toString n}\" \"sleep 1; echo ${toString n} > $out\") [1 2 3 4 5 6]"
    r = d.nix_build(expr, args=["-j6"], timeout=60)
    assert len(r.stdout.split()) == 6
    waits = re.findall(r"waiting for a free build user ID for '[^']*-(job\d)\.drv'", r.stderr)
    assert len(waits) == len(set(waits)) == 4, r.stderr
    wait_for(lambda: set(slots(d).values()) == {"-"}, d.daemon_log)  # all were returned
    assert set(slots(d)) == {d.start_id, d.start_id + SLOT_IDS}


def test_broker_restarts_while_a_build_runs(make_daemon):
    """kill -9, a new one: it knows the build's slot, and gives the next build another."""
    d = make_daemon("broker")
    # The uid of a builder is seen in the machine's /proc.
    p = d.popen("nix-build", "--no-out-link", "-E", LONG)
    try:
        wait_for(lambda: len(uids(d)) == 1, d.daemon_log)
        first = uids(d)
        os.kill(d.broker.pid, signal.SIGKILL)
        d.broker.wait()
        d.start_broker()
        q = d.popen("nix-build", "--no-out-link", "-E", LONG.replace("long", "other"))
        wait_for(lambda: len(uids(d)) == 2, d.daemon_log)
        out, _ = p.communicate(timeout=30)
        assert p.returncode == 0, out
        out, _ = q.communicate(timeout=30)
        assert q.returncode == 0, out
        assert first < uids_seen
    finally:
        p.kill()


LONG = """derivation { name = "long"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "sleep 3; echo > $out" ]; }"""
uids_seen = set()


def uids(d):
    found = set()
    for pid in os.listdir("/proc"):
        try:
            uid = os.stat(f"/proc/{pid}").st_uid if pid.isdigit() else 0
        except OSError:
            continue
        if d.start_id <= uid < d.start_id + d.id_count:
            found.add(uid)
    uids_seen.update(found)
    return found


@pytest.mark.parametrize("settings,told", [
    ("start-id = 65536\n", True), ("id-count = 65536\n", True), ("", False)])
def test_settings_that_the_broker_does_not_share(make_daemon, settings, told):
    """nix.conf names a block, the broker was given another: builds go on, and the log says so."""
    d = make_daemon("broker", conf=settings, start=False)
    d.id_count = 4 * SLOT_IDS
    d.start()
    for name in ("a", "b"):
        d.nix_build(f'sh "{name}" "echo > $out"')
    assert d.tail().count("--start-id") == told
