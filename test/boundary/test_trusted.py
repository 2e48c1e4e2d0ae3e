"""Logs and links that only trusted clients may ask for (operations 45 and 47)."""
import os

import pytest

from conftest import ALICE
from worker import Closed, Refused, Worker, frames


@pytest.fixture
def daemon(make_daemon):
    return make_daemon()


@pytest.fixture
def trusted(daemon):
    """Root is trusted; the tests run as root."""
    with Worker(daemon.socket) as w:
        w.options()
        yield w


def untrusted(daemon, number, *parts):
    r = daemon.run("/usr/bin/python3", "-c", f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
from worker import *
w = Worker({str(daemon.socket)!r})
try: w.op({number}, *{parts!r})
except Refused as e: print(e)
w.op(1, {str(daemon.store / ('0' * 32 + '-x'))!r}); print("in step", w.u64())""", check=False)
    return r.stdout + r.stderr


DRV = "0" * 32 + "-made-elsewhere.drv"


def test_log(daemon, trusted):
    text = b"line one\n" + b"\x1b[1m\t~\0" * 100000
    trusted.op(45, DRV, frames(text))
    assert trusted.u64() == 1
    kept = daemon.log / "drvs" / DRV[:2] / DRV[2:]
    assert kept.read_bytes() == text
    assert daemon.run("nix-store", "--read-log", daemon.store / DRV, user="root").stdout.startswith("line one\n")
    trusted.op(45, DRV, frames(b"another"))
    assert trusted.u64() == 1 and kept.read_bytes() == text, "the first one stays"


def test_log_of_an_untrusted_client(daemon):
    said = untrusted(daemon, 45, DRV, frames(b"forged"))
    assert "you are not privileged to add logs" in said and "in step 0" in said
    assert not list(daemon.log.rglob("*made-elsewhere*"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "x", "0" * 32 + "-a/b"])
def test_log_of_no_store_path(daemon, name):
    with pytest.raises((Refused, Closed)):
        with Worker(daemon.socket) as w:
            w.op(45, name, frames(b"x"))


def test_a_real_client_finds_it(daemon):
    daemon.nix_build('sh "logged" "echo said here; echo > $out"')
    [log] = [p for p in daemon.log.rglob("*logged.drv*")]
    drv = f"{daemon.store}/{log.parent.name}{log.name.removesuffix('.bz2')}"
    log.rename(daemon.base / "aside.bz2")
    with Worker(daemon.socket) as w:
        w.op(45, os.path.basename(drv), frames(b"said here\n"))
    assert "said here" in daemon.run("nix", "log", drv).stdout


def test_perm_root(daemon, trusted):
    out = daemon.nix_build('sh "kept" "echo > $out"').stdout.strip()
    link = daemon.state / "gcroots/kept"
    trusted.op(47, out, str(link))
    assert trusted.string() == str(link) and os.readlink(link) == out
    trusted.op(47, out, f"{daemon.state}//gcroots/./kept")  # again, spelled otherwise
    assert trusted.string() == str(link)
    assert str(link) in daemon.run("nix-store", "-q", "--roots", out, user="root").stdout


@pytest.mark.parametrize("where", ["{base}/home-root/link", "{store}/link", "{state}/db/link", "{state}/gcroots/../db/link",
                                   "{state}/gcroots", "{state}/gcroots/", "{state}/gcroots/none/link", "{state}/gcroots/away/link",
                                   "relative"])
def test_perm_root_elsewhere(daemon, trusted, where):
    """`away` leads out of gcroots: links are not followed."""
    os.symlink(daemon.base, daemon.state / "gcroots/away")
    out = daemon.nix_build('sh "kept" "echo > $out"').stdout.strip()
    with pytest.raises(Refused):
        trusted.op(47, out, where.format(base=daemon.base, store=daemon.store, state=daemon.state))
    assert not [p for p in (*daemon.base.glob("*"), *daemon.state.glob("db/*"), *daemon.store.glob("*")) if p.name == "link"]


def test_perm_root_takes_nobodys_place(daemon, trusted):
    out = daemon.nix_build('sh "kept" "echo > $out"').stdout.strip()
    link = daemon.state / "gcroots/mine"
    os.symlink("/etc/passwd", link)
    with pytest.raises(Refused, match="already exists"):
        trusted.op(47, out, str(link))
    assert os.readlink(link) == "/etc/passwd"


def test_perm_root_of_an_untrusted_client(daemon):
    out = daemon.nix_build('sh "kept" "echo > $out"').stdout.strip()
    said = untrusted(daemon, 47, out, f"{daemon.state}/gcroots/kept")
    assert "not privileged to create perm roots" in said and "in step 0" in said
    assert not os.path.lexists(daemon.state / "gcroots/kept")


def test_alice_reads_the_log(daemon, trusted):
    trusted.op(45, DRV, frames(b"for everybody\n"))
    assert daemon.run("nix-store", "--read-log", daemon.store / DRV, user=ALICE).stdout == "for everybody\n"
