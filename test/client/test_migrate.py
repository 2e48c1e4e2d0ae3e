"""Stores of older versions, and tables of realisations that others made: migrated as the stock tools do it, and theirs again."""
import os
import shutil
import sqlite3
import subprocess

import pytest

from conftest import DAEMON, PRELUDE
from test_ca import CLIENT, FLOATING
from test_store import rows

CONF = "build-users-group =\ntrusted-users = root\nexperimental-features = nix-command ca-derivations\n"
COLUMNS = "id, path, hash, registrationTime, deriver, narSize"
# Nix 1.3 to 1.11. What later ones made of it came by these steps, in this order.
SCHEMA_7 = """
create table if not exists ValidPaths (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null,
    registrationTime integer not null,
    deriver          text,
    narSize          integer
);

create table if not exists Refs (
    referrer  integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);

create index if not exists IndexReferrer on Refs(referrer);
create index if not exists IndexReference on Refs(reference);

create trigger if not exists DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;

create table if not exists DerivationOutputs (
    drv  integer not null,
    id   text not null, -- symbolic output id, usually "out"
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);

create index if not exists IndexDerivationOutputs on DerivationOutputs(path);

create table if not exists FailedPaths (
    path text primary key not null,
    time integer not null
);
"""
STEPS = {8: "alter table ValidPaths add column ultimate integer; alter table ValidPaths add column sigs text;",
         9: "drop table FailedPaths;"}


@pytest.fixture
def d(make_daemon):
    return make_daemon("single", CONF)


def stock(d, *argv, state=None, check=True):
    """Root's own tools, without a daemon."""
    env = d.env() | {"NIX_REMOTE": "", "NIX_CONFIG": "sandbox = false"} | ({"NIX_STATE_DIR": str(state)} if state else {})
    r = subprocess.run(list(map(str, argv)), env=env, capture_output=True, text=True, timeout=60)
    assert not check or r.returncode == 0, r.stderr
    return r


def ours_again(d):
    """What root made in the database's directory is given back."""
    subprocess.run(["chown", "-R", f"{DAEMON}:", str(d.state), str(d.store), str(d.log)], check=True)
    d.start()


def make_older(db_dir, version):
    """The same rows, in a database of that version."""
    new, old = sqlite3.connect(db_dir / "db.sqlite"), sqlite3.connect(db_dir / "old.sqlite")
    with old:
        old.executescript(SCHEMA_7)
        for table, columns in (("ValidPaths", COLUMNS), ("Refs", "*"), ("DerivationOutputs", "*")):
            for row in new.execute(f"select {columns} from {table}"):
                old.execute(f"insert into {table} values ({', '.join('?' * len(row))})", row)
        old.execute("insert into FailedPaths values ('/nix/store/failed', 1)")
        for v in range(8, version + 1):
            old.executescript(STEPS[v])
    new.close(), old.close()
    for f in db_dir.glob("db.sqlite*"):
        f.unlink()
    os.rename(db_dir / "old.sqlite", db_dir / "db.sqlite")
    (db_dir / "schema").write_text(str(version))


def everything(db_dir):
    r = rows(db_dir / "db.sqlite")
    with sqlite3.connect(f"file:{db_dir}/db.sqlite?mode=ro", uri=True) as c:
        r["ids"] = c.execute("select id, path, registrationTime from ValidPaths order by id").fetchall()
    r["tables"] = [t for t in r["tables"] if "realisation" not in t and "schemamigrations" not in t]
    return r


@pytest.mark.parametrize("version", [7, 8, 9])
def test_as_the_stock_tools_do_it(d, version):
    expr = 'let a = sh "a" "echo a > $out"; in sh "b" "echo ${a} > $out"'
    out = d.nix_build(expr).stdout.strip()
    d.stop()
    make_older(d.state / "db", version)
    other = d.base / "other"
    (other / "db").mkdir(parents=True)
    for f in ("db.sqlite", "schema"):
        shutil.copy(d.state / "db" / f, other / "db")
    stock(d, "nix-store", "--check-validity", out, state=other)
    ours_again(d)
    assert d.run("nix-store", "-qR", out).stdout.split()[-1] == out
    assert (d.state / "db/schema").read_text() == (other / "db/schema").read_text() == "10"
    assert everything(d.state / "db") == everything(other / "db")
    # Used, by us and then by the stock tools.
    more = d.nix_build('sh "c" "echo c > $out"').stdout.strip()
    assert d.nix_build(expr).stdout.strip() == out
    d.run("nix-store", "--verify", "--check-contents", user="root")
    d.stop()
    stock(d, "nix-store", "--verify", "--check-contents")
    stock(d, "nix-store", "--check-validity", out, more)
    stock(d, "nix-store", "--delete", more)


def test_newer_schema_is_refused(d):
    d.stop()
    (d.state / "db/schema").write_text("11")
    with pytest.raises(AssertionError, match="current Nix store schema is version 11, but I only support 10"):
        d.start()
    assert (d.state / "db/schema").read_text() == "11"
    assert "is version 11, but I only support 10" in stock(d, "nix-store", "--check-validity", d.store, check=False).stderr


def test_full_disk(d):
    """No half of a migration; with space it is done."""
    out = d.nix_build('sh "a" "echo a > $out"').stdout.strip()
    d.stop()
    db = d.state / "db"
    make_older(db, 7)
    kept = d.base / "kept"
    shutil.copytree(db, kept)
    before = rows_7(db)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(db)], check=True)
    try:
        for f in kept.iterdir():
            if f.name != "reserved":
                shutil.copy(f, db)
        subprocess.run(["chown", "-R", f"{DAEMON}:", str(db)], check=True)
        with open(db / "filler", "wb", buffering=0) as f, pytest.raises(OSError):
            while True:
                f.write(b"x" * 4096)
        with pytest.raises(AssertionError, match="full|disk I/O error|No space"):
            d.start()
        d.stop()
        assert (db / "schema").read_text() == "7" and rows_7(db) == before
        (db / "filler").unlink()
        d.start()
        assert d.run("nix-store", "--check-validity", out).returncode == 0
        assert (db / "schema").read_text() == "10"
    finally:
        d.stop()
        subprocess.run(["umount", str(db)], check=True)


def rows_7(db):
    c = sqlite3.connect(f"file:{db}/db.sqlite?immutable=1", uri=True)
    try:
        return sorted(c.execute(f"select {COLUMNS} from ValidPaths")), c.execute("select count(*) from FailedPaths").fetchone()
    finally:
        c.close()


def floating(name, text):
    return f'(shWith {{ name = "{name}"; {FLOATING} }} "{text}")'


def realisations(d):
    with sqlite3.connect(f"file:{d.state}/db/db.sqlite?mode=ro", uri=True) as c:
        return sorted(c.execute("select drvPath, outputName, path from Realisations join ValidPaths v on v.id = outputPath"))


def test_realisations_both_ways(d):
    """Each side finds what the other has realised, and deletes it."""
    def by_stock(expr):
        return stock(d, "nix-build", "--no-out-link", *CLIENT, "-E", PRELUDE + expr)

    def by_us(expr):
        return d.nix_build(expr, args=CLIENT)

    d.stop()
    for f in (d.state / "db").iterdir():
        f.unlink()  # the stock tools make the tables
    first, second = floating("one", "echo 1 > $out"), floating("two", "echo ${%s} > $out" % floating("one", "echo 1 > $out"))
    a = by_stock(first)
    assert "building" in a.stderr
    ours_again(d)
    b = by_us(first)
    assert b.stdout == a.stdout and "building" not in b.stderr
    c = by_us(second)
    assert "building" in c.stderr
    d.stop()
    recorded = realisations(d)
    again = by_stock(second)
    assert again.stdout == c.stdout and "building" not in again.stderr
    third = by_stock(floating("three", "echo ${%s} > $out" % second))
    assert set(recorded) <= set(realisations(d)) and len(realisations(d)) > len(recorded)
    ours_again(d)
    assert by_us(floating("three", "echo ${%s} > $out" % second)).stdout == third.stdout
    d.run("nix-store", "--gc", user="root")
    assert realisations(d) == []
    d.stop()
    by_stock(first)
    stock(d, "nix-store", "--gc")
    assert realisations(d) == []
