"""The same bytes to the stock daemon and to ours, as an untrusted and as a trusted client: who is refused, in which words, and
which settings are warned about. DIFFERENT says where the two differ on purpose, and why."""
import re
import shutil
import subprocess

import pytest

from conftest import ALICE, wait_for
from test_rights import REQUESTS, connect
from worker import Closed, Refused, Worker, string, u64

# (request, trusted): (stock, ours)
DIFFERENT = {
    # Nobody may over the stock daemon's socket; ours has no other door (ARCHITECTURE.md).
    ("ignore-liveness", True): ("you are not allowed to ignore liveness", None),
    # The path is sound; the stock daemon fails before it looks, having nowhere to get it from.
    ("repair", True): ("build of 'STORE/known' failed", None),
    # In the words of 2.34.
    ("import-unsigned", False): ("cannot add path 'STORE/unsigned%s' because it lacks a valid signature",
                                 "cannot add path 'STORE/unsigned%s' because it lacks a signature by a trusted key"),
}
# What Nix 2.34 lets an untrusted client set, and 2.8 does not, or the other way round.
NEWER, OLDER = {"max-silent-time", "build-poll-interval"}, {"repeat"}
SETTINGS = [("timeout", "5"), ("max-silent-time", "5"), ("build-poll-interval", "5"), ("connect-timeout", "5"), ("builders", ""),
            ("builders", "ssh://x"), ("sandbox", "false"), ("substituters", "http://evil.example"), ("trusted-public-keys", "k:AAAA"),
            ("trusted-users", "*"), ("allowed-users", "*"), ("secret-key-files", "/etc/shadow"), ("require-sigs", "false"), ("cores", "3"),
            ("max-jobs", "7"), ("extra-sandbox-paths", "/root"), ("build-hook", "/bin/sh"), ("post-build-hook", "/bin/sh"),
            ("system-features", "x"), ("netrc-file", "/etc/shadow"), ("min-free", "1"), ("repeat", "1"), ("no-such-setting", "1")]


def plain(text):
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"/[^ ']*/store/[a-z0-9]{32}-", "STORE/", text).strip()
    return re.sub(r"unsigned\d+", "unsigned%s", text)


def answers(d):
    said = {}
    for name in REQUESTS:
        if name in ("add-roots", "optimise"):
            continue  # 2.8 does not know the first; the second may take the machine's time
        with connect(d, ALICE) as w:
            w.version = (1, min(w.version[1], w.server & 255))
            w.user = ALICE
            try:
                REQUESTS[name](d, w)
                said[name] = None
            except (Refused, Closed) as e:
                said[name] = plain(str(e)).splitlines()[0]
    warned = set()
    for setting in SETTINGS:
        with connect(d, ALICE) as w:
            # Verbosity 6: 2.8 tells it for debugging, later ones and ours as a warning.
            w.op(19, 0, 0, 0, 6, 2, *[0] * 7, u64(1), *map(string, setting))
            w.valid(d.known)  # it may come with the next answer
            if [line for line in w.log if "a restricted setting" in line or "untrusted substituter" in line]:
                warned.add(setting)
    return said, warned


def serve(d, trusted, ours):
    d.write_conf(f"trusted-users = root{' ' + ALICE if trusted else ''}\nsandbox = false\nbuild-users-group =\n")
    if ours:
        d.start()
    else:
        with open(d.daemon_log, "ab") as out:
            d.procs.append(subprocess.Popen([shutil.which("nix-daemon")], env=d.env() | {"NIX_REMOTE": ""},
                                            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT))
        wait_for(d.answers, d.daemon_log, d.procs[-1])
    with Worker(d.socket, (1, 34)) as w:
        d.known = w.add_text("known", b"known")
    said = answers(d)
    d.stop()
    d.socket.unlink(missing_ok=True)
    return said


@pytest.mark.parametrize("trusted", [False, True])
def test_same_answers(make_daemon, trusted):
    stock, stock_warned = serve(make_daemon("single", start=False), trusted, False)
    ours, warned = serve(make_daemon("single", start=False), trusted, True)
    for name in stock:
        pair = DIFFERENT.get((name, trusted))
        if pair:
            assert (stock[name], ours[name]) == pair, name
        elif stock[name] is None or ours[name] is None:
            assert stock[name] == ours[name], name
        else:
            assert ours[name].rstrip(".") == stock[name].rstrip("."), name
    skip = {s for s in SETTINGS if s[0] in NEWER | OLDER}
    assert sorted(warned - skip) == sorted(stock_warned - skip)
    if trusted:
        assert not warned
