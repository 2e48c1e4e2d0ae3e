"""Real software, built from source from the same .drv files by the stock daemon and by ours, in the same store directory one
after the other: the same paths, contents, rows of the database and logs. A part of Airplant's own sources here;
packages of Debian, fetched from its mirror, by  test/client/software  (minutes)."""
import os
import shutil
import sqlite3
import subprocess

import pytest

from conftest import ALICE, REPO
from test_activities import Stock

CONF = """sandbox = true
sandbox-paths = /bin=/usr/bin /usr /lib=/usr/lib /lib64=/usr/lib64 /etc/alternatives
build-users-group =
experimental-features = nix-command ca-derivations
"""
SETS = ["own"] + (["debian"] if os.environ.get("AIRPLANT_SOFTWARE") else [])

# RealisationsRefs is left out: it was dropped after 2.8, and ours is empty as 2.34's is.
ROWS = {
    "paths": "select path, hash, deriver, narSize, ultimate, sigs, ca from ValidPaths",
    "references": "select a.path, b.path from Refs join ValidPaths a on a.id = referrer join ValidPaths b on b.id = reference",
    "outputs": "select v.path, o.id, o.path from DerivationOutputs o join ValidPaths v on v.id = drv",
    "realisations": "select drvPath, outputName, v.path, signatures from Realisations join ValidPaths v on v.id = outputPath",
}


def rows(d):
    with sqlite3.connect(f"file:{d.state}/db/db.sqlite?mode=ro", uri=True) as db:
        return {what: sorted(db.execute(query).fetchall(), key=repr) for what, query in ROWS.items()}


def files(d):
    """What a NAR does not say, too: modes and times."""
    found = []
    for top, dirs, names in os.walk(d.store):
        if top == str(d.store):
            dirs[:] = [n for n in dirs if n[0] != "."]
            names = [n for n in names if n[0] != "."]
        for path in (os.path.join(top, n) for n in dirs + names):
            st = os.lstat(path)
            found.append((path, oct(st.st_mode), st.st_mtime_ns, 0 if os.path.isdir(path) else st.st_size))
    return sorted(found)


def build(d, name):
    """Everything of the set, by a user. What is known of it afterwards."""
    r = d.run("nix-build", "--no-out-link", "--arg", "src", d.base / "src", REPO / f"test/data/software/{name}.nix", timeout=1500)
    known = rows(d) | {"files": files(d), "said": sorted(r.stdout.split())}
    drvs = [p for p, *_ in known["paths"] if p.endswith(".drv")]
    known["logs"] = {p: (log.returncode, log.stdout) for p in drvs for log in [d.run("nix-store", "-l", p, check=False)]}
    # The stock daemon's builtin:fetchurl writes its progress there.
    known["logs"] = {p: (code, "".join(line for line in text.splitlines(True) if not line.startswith("@nix ")))
                     for p, (code, text) in known["logs"].items()}
    assert sum(code == 0 and len(text) > 5 for code, text in known["logs"].values()) > 1
    d.run("nix-store", "--verify", "--check-contents", user="root")
    return known


@pytest.mark.parametrize("name", SETS)
def test_same_software(make_daemon, name):
    d = make_daemon("broker", CONF, start=False)
    shutil.copytree(REPO / "src", d.base / "src", ignore=lambda top, names: [] if top != str(REPO / "src") else
                    [n for n in names if n not in ("base", "path", "hash")])
    subprocess.run(["chmod", "-R", "a+rX", d.base / "src"], check=True)
    stock = Stock(d)
    theirs = build(d, name)
    stock.stop()
    d.start()
    ours = build(d, name)
    # Where a derivation was resolved, 2.8 records the outputs that were asked for; ours all.
    extra = set(ours["realisations"]) - set(theirs["realisations"])
    assert {path for _, _, path, _ in extra} <= {path for _, _, path, _ in theirs["realisations"]}
    ours["realisations"] = sorted(set(ours["realisations"]) - extra, key=repr)
    for what in theirs:
        assert ours[what] == theirs[what], what
    outputs = [p for p, *_ in ours["paths"] if not p.endswith((".drv", "-src"))]
    floating = {p for _, _, p, _ in ours["realisations"]}
    assert len(outputs) >= 8 and len(floating) >= 3 and ours["references"]
