"""A builder lets somebody else hold its output open, and has it registered: CVE-2024-27297, CVE-2026-39860 and what is like them.

Each test names its defence. test/attack/mutate takes them out one at a time, and says which test does not notice.
"""
import contextlib
import os
import pathlib
import socket
import subprocess

import pytest

from attack_builds import HELLO, answers, assert_intact, attacker, fixed, make_hostile, plain, start, until
from conftest import BOB, MODES

KINDS = {"plain": plain, "fixed": fixed}
HOLDS = {  # what is held -> how it is sent, the output's script
    "writable": ("rw", "/attack send /shared/s $out rw x; echo hello > $out"),
    "mapped": ("map", "/attack send /shared/s $out rw x; echo hello > $out"),
    "readable": ("r", "echo hello > $out; /attack send /shared/s $out r x"),
    "directory": ("dir", "/bin/busybox mkdir $out; echo hello > $out/file; /attack send /shared/s $out dir x"),
}


def finish(d, holder, out):
    """The build is over: whoever holds a descriptor uses it now."""
    before = subprocess.run(["nix-hash", "--type", "sha256", out], capture_output=True, text=True, check=True).stdout
    (d.shared / "go").touch()
    text = holder.communicate(timeout=30)[0]
    assert "held" in text or "fchmod" in text or "mapped" in text, text
    after = subprocess.run(["nix-hash", "--type", "sha256", out], capture_output=True, text=True, check=True).stdout
    assert before == after, text
    assert d.run("nix-store", "--verify-path", out).returncode == 0
    return text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("held", HOLDS)
def test_another_build_holds_the_output(make_daemon, attacker, mode, held):
    """Two builds meet in a directory that the administrator put into the sandbox: one hands the other its output. What is
    registered is not what the other has. Defence: outputs that somebody can still write to are copied
    (build/outputs.c, nar/tree_canon.c)."""
    kind, script = HOLDS[held]
    d = make_hostile(make_daemon, attacker, mode, binds=["/shared=SHARED"])
    holder = start(d, plain("holder", f"/attack hold /shared/s /shared/go {kind}; echo > $out"), user=BOB)
    until(holder, "listening")
    out = d.nix_build(plain("leak", script)).stdout.strip()
    finish(d, holder, out)
    assert_intact(d)
