"""Collecting garbage, with real clients."""
import os

import pytest

from conftest import ALICE, BOB


def add(daemon, name, content="x", user=ALICE):
    path = daemon.homes[user] / name
    path.write_text(content)
    os.chown(path, os.stat(daemon.homes[user]).st_uid, -1)
    return daemon.run("nix-store", "--add", str(path), user=user).stdout.strip()


def test_garbage_goes_and_roots_stay(daemon):
    dead = add(daemon, "dead")
    live = add(daemon, "live")
    os.symlink(live, daemon.state / "gcroots/live")
    r = daemon.run("nix-store", "--gc", user="root")
    assert f"deleting '{dead}'" in r.stderr and "1 store paths deleted" in r.stdout, r.stderr
    assert not os.path.exists(dead) and os.path.exists(live)
    assert daemon.run("nix-store", "--check-validity", dead, check=False).returncode == 1
    assert daemon.run("nix-store", "--check-validity", live).returncode == 0
