"""Every system call of every entry, asked of a builder's filter and compared with a table for people.

The tables, test/data/syscalls/*, name all that is not allowed; the two answers are those to arguments
of all zeros and of all ones. A change of src/confine/builder.c shows there, and is to be reviewed there.
"""
import pathlib
import re
import subprocess

import pytest

from conftest import REPO

TABLES = REPO / "test/data/syscalls"


@pytest.fixture(scope="session")
def sweep(tmp_path_factory):
    program = tmp_path_factory.mktemp("sweep") / "sweep"
    subprocess.run(["gcc", "-O1", "-static", "-mno-red-zone", "-o", program, REPO / "test/client/sweep.c"], check=True)
    return program


def expected(table):
    rows = {}
    for line in (TABLES / table).read_text().splitlines():
        m = re.match(r"(\w+) +(\d+)(?:-(\d+))? +\S+ +(\w+) +(\w+)$", line)
        if not m:
            assert not line or line.startswith("#"), line
            continue
        for number in range(int(m[2]), int(m[3] or m[2]) + 1):
            rows[m[1], number] = (m[4], m[5])
    return rows


@pytest.mark.parametrize("table, conf, system", [
    ("builder", "", "x86_64-linux"), ("builder-i686", "", "i686-linux"),
    ("builder-nested", "nested-sandboxes = true\n", "x86_64-linux")])
def test_every_call(make_daemon, sweep, table, conf, system):
    daemon = make_daemon("broker", start=False)
    inside = daemon.base / "sweep"
    inside.write_bytes(sweep.read_bytes())
    inside.chmod(0o755)
    daemon.write_conf(f"extra-sandbox-paths = /sweep={inside}\n{conf}")
    daemon.start()
    out = daemon.nix_build(f'shWith {{ name = "sweep"; system = "{system}"; }} "/sweep > $out"').stdout.strip()
    got = {}
    for line in open(out):
        entry, number, zeros, ones = line.split()
        got[entry, int(number)] = (zeros, ones)
    want = expected(table)
    wrong = sorted(k for k in got.keys() | want.keys() if got.get(k) != want.get(k))
    assert not wrong, "\n".join(f"{e} {n}: the table says {want.get((e, n), 'allow')}, the filter "
                                f"{got.get((e, n), 'allow')}" for e, n in wrong)
    assert len(got) > 520  # x32 alone
