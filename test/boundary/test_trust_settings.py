"""Every setting, sent by an untrusted and by a trusted client to the stock daemon and to ours, with the same bytes.

test/data/trust/settings says for each name and value what a client hears, test/data/trust/effects what it brings about. Where ours
differs from the stock daemon the row says why; a row without a reason that differs fails."""
import pathlib
import re

import pytest

import stock
from conftest import ALICE
from test_rights import connect
from worker import Refused, Worker, string, u64

DATA = pathlib.Path(__file__).parents[1] / "data/trust"


def said(text):
    """What was said, as the table has it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
    text = re.sub(r"^(warning: )?(error: )?", "", text)
    if re.match(r"ignoring the client-specified setting '.*', because it is a restricted setting and you are not a trusted user$", text):
        return "restricted"
    if text.startswith("ignoring untrusted substituter '"):
        return "untrusted substituter"
    return text.splitlines()[0]


def hears(w, name, value):
    """Verbosity 6: 2.8 tells some of it for debugging."""
    w.log.clear()
    w.op(19, 0, 0, 0, 6, 2, *[0] * 7, u64(1), string(name), string(value))
    w.op(1, w.known)  # what it says later comes with the next answer
    w.u64()
    noise = r"^(acquir|releas|locking|querying|performing|Ignoring the client-specified experimental)"
    return "; ".join(said(l) for l in w.log if not re.search(noise, said(l))) or "-"


def rows(name):
    lines = (DATA / name).read_text().splitlines()
    return [[c.strip() for c in line.split("|")] for line in lines if line and not line.startswith("#")]


def serve(make_daemon, trusted, ours, conf="", prepare=None):
    d = make_daemon("single", start=False)
    if prepare:
        prepare(d)
    d.write_conf(f"trusted-users = root{' ' + ALICE if trusted else ''}\nsandbox = false\nbuild-users-group =\nbuilders =\nsubstituters = http://here.example/\ntrusted-substituters = http://allowed.example\n" + stock.no_build_hook() + conf.replace("BASE", str(d.base)))
    if ours:
        d.start()
    else:
        stock.start(d)
    with Worker(d.socket, (1, 34)) as w:
        d.known = w.add_text("known", b"known")
    return d


def as_alice(d):
    w = connect(d, ALICE)
    w.s.settimeout(90)  # a collection looks at each process of the machine
    w.version = (1, min(34, w.server & 255))
    w.known = d.known
    return w


def heard(make_daemon, ours, probes):
    """{(name, value, trusted): what was said}"""
    out = {}
    for trusted in (False, True):
        d = serve(make_daemon, trusted, ours)
        w = as_alice(d)
        for name, value in probes:
            if "substituters" in name:  # what was set before would count
                w.close()
                w = as_alice(d)
            try:
                out[name, value, trusted] = hears(w, name, value)
            except Refused as e:
                out[name, value, trusted] = "refused: " + said(str(e))
            assert w.valid(d.known) == 1, name  # the connection is usable
        w.close()
        stock.stop(d)
    return out


def column(first):
    """The untrusted client's column of the stock daemon that is here."""
    if stock.version() not in ("2.8", "2.34"):
        pytest.skip(f"the table has 2.8 and 2.34: this is {stock.version()}")
    return first if stock.version() == "2.8" else first + 2


def quoted(value):
    return value.strip('"')


def test_what_a_client_hears(make_daemon):
    table = rows("settings")
    probes = [(r[0], quoted(r[1])) for r in table]
    assert len(probes) == len(set(probes))
    at = column(2)
    theirs, ours = heard(make_daemon, False, probes), heard(make_daemon, True, probes)
    wrong = []
    for r in table:
        for trusted in (False, True):
            key = (r[0], quoted(r[1]), trusted)
            own = r[6 + trusted] if r[6 + trusted] != "=" else r[4 + trusted]
            if theirs[key] != r[at + trusted]:
                wrong.append(("stock", key, theirs[key], r[at + trusted]))
            if ours[key] != own:
                wrong.append(("ours", key, ours[key], own))
            if own != r[4 + trusted]:
                assert r[8], f"{key} differs from 2.34 without a reason"
    assert not wrong


def test_every_setting_has_its_row():
    table = (pathlib.Path(__file__).parents[2] / "src/conf/table.c").read_text()
    known = set(re.findall(r'^\t\{ "([a-z0-9-]+)", CONF_', table, re.M))
    assert known == {r[0] for r in rows("settings")} & known
