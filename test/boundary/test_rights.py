"""What a client may do: nothing, as everybody, as `may` says, as a trusted one. test/data/trust/rows has the gates: one
request a row, and who is refused it with which words.

The raw protocol is used, so that it is the daemon that refuses and not the client."""
import os
import pathlib

import pytest

from conftest import ALICE, BOB
from worker import Refused, Worker, frames, nar, store_path, string, strings, u64

ROWS = [line.split(" | ") for line in (pathlib.Path(__file__).parents[1] / "data/trust/rows").read_text().splitlines()
        if line and not line.startswith("#")]


def connect(d, user):
    """As that user: the kernel says who connects."""
    os.seteuid(d.users[user].pw_uid if user in d.users else 0)
    try:
        return Worker(d.socket, (1, 34), timeout=10)
    finally:
        os.seteuid(0)


def jobs(w, *overrides):
    w.log.clear()
    w.op(19, 0, 0, 0, 3, 2, *[0] * 7, u64(len(overrides)), *[string(x) for o in overrides for x in o])


def unsigned(d, w):
    """A path that is neither signed nor content-addressed, from a client that asks for no check."""
    path = store_path(str(d.store), "output:out", "0" * 64, f"unsigned{len(list(d.store.iterdir()))}")
    w.add_nar(path, nar(b"anything"), no_sigs=1)


def basic(d, out, mode=0):
    env = {"out": out, "name": "sent"}
    return (string(f"{d.store}/{'0' * 32}-sent.drv") + u64(1) + b"".join(map(string, ("out", out, "", ""))) + strings([]) +
            b"".join(map(string, ("x86_64-linux", "/bin/sh"))) + strings(["-c", "echo > $out"]) + u64(len(env)) +
            b"".join(string(x) for pair in sorted(env.items()) for x in pair) + u64(mode))


REQUESTS = {
    "add": lambda d, w: w.add_text("some-text", b"text"),
    "build": lambda d, w: w.op(9, strings([]), 0),
    "gc": lambda d, w: w.op(20, 2, strings([]), 0, 0, 0, 0, 0),
    "gc-dry": lambda d, w: w.op(20, 1, strings([]), 0, 0, 0, 0, 0),
    "optimise": lambda d, w: w.op(34),
    "import-unsigned": unsigned,
    "build-any": lambda d, w: w.op(36, basic(d, f"{d.store}/{'1' * 32}-sent")),
    "add-logs": lambda d, w: w.op(45, "0" * 32 + "-x.drv", frames(b"log")),
    "add-roots": lambda d, w: w.op(47, d.known, f"{d.state}/gcroots/{w.user}"),
    "ignore-liveness": lambda d, w: w.op(20, 3, strings([]), 1, 0, 0, 0, 0),
    "repair": lambda d, w: w.op(9, strings([d.known]), 1),
}


@pytest.fixture
def d(make_daemon):
    def make(may="", trusted="root"):
        d = make_daemon("single", conf=f"trusted-users = {trusted}\nallowed-users = root {ALICE} {BOB}\n", start=False)
        d.own_conf = f"may = {may}\n" if may else ""
        d.write_conf(f"trusted-users = {trusted}\nallowed-users = root {ALICE} {BOB}\n")
        d.start()
        with Worker(d.socket) as w:
            d.known = w.add_text("known", b"known")
        return d
    return make


def ask(d, w, user, name):
    """None, or the words of the refusal; the connection goes on either way."""
    w.user = user
    try:
        REQUESTS[name](d, w)
        said = None
    except Refused as e:
        said = str(e)
    w.close()
    with connect(d, user) as w:
        assert w.valid(d.known) == 1
    return said


@pytest.mark.parametrize("who", ["everybody", "trusted", "may", "may not"])
def test_gates(d, who):
    """Column by column: everybody, the trusted, one who has this right alone, one whom it was taken from."""
    if who in ("everybody", "trusted"):
        daemon = d(trusted=f"root {ALICE}" if who == "trusted" else "root")
    for name, everybody, words in ROWS:
        refused = (everybody == "no") if who in ("everybody", "may not") else name == "repair" and who == "may"
        if who == "may not":
            if everybody != "yes":
                continue
            refused = True
        if who.startswith("may"):
            if name in ("repair", "gc-dry"):
                continue
            daemon = d(may=f"{BOB} see-roots; {ALICE} {'not ' if who == 'may not' else ''}{name}")
        with connect(daemon, ALICE) as w:
            said = ask(daemon, w, ALICE, name)
        if refused:
            assert said and words in said, (who, name, said)
        elif name == "repair":
            assert words not in (said or ""), said
        else:
            assert said is None, (who, name, said)
        if who.startswith("may"):
            with connect(daemon, BOB) as w:  # nobody else has it
                said = ask(daemon, w, BOB, name)
            assert (said is not None) == (everybody == "no"), (name, said)
            daemon.stop()


def test_settings(d):
    """`set` gives one setting, and the warning says which is refused."""
    daemon = d(may=f"{ALICE} set system-features, add-substituter http://cache.example; {BOB} not gc")
    for user, sets in ((ALICE, True), (BOB, False)):
        with connect(daemon, user) as w:
            jobs(w, ("system-features", "rare"), ("substituters", "http://cache.example"), ("sandbox", "false"))
            told = "\n".join(w.log)
            assert ("'system-features'" in told) != sets
            assert ("untrusted substituter 'http://cache.example'" in told) != sets
            assert "'sandbox', because it is a restricted setting and you are not a trusted user" in told


def test_see_roots(d):
    daemon = d(may=f"{ALICE} see-roots")
    daemon.homes["root"].chmod(0o755)
    link = daemon.homes["root"] / "hidden"
    os.symlink(daemon.known, link)
    with Worker(daemon.socket) as w:
        w.op(12, str(link))
        w.u64()

    def roots(user):
        with connect(daemon, user) as w:
            w.op(14)
            return [(w.string(), w.string())[0] for _ in range(w.u64())]
    assert (str(link) in roots(ALICE), str(link) in roots(BOB)) == (True, False)


def test_a_wrong_setting_is_told(make_daemon):
    daemon = make_daemon("single", start=False)
    daemon.own_conf = "may = @users fly\n"
    daemon.write_conf()
    with pytest.raises(AssertionError, match="setting 'may' names the right 'fly', which does not exist"):
        daemon.start()
