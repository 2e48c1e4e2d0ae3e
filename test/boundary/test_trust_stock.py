"""The same bytes to the stock daemon and to ours, as an untrusted and as a trusted client: who is refused, and in which words
(test_trust_settings.py has the settings). DIFFERENT says where the two differ on purpose, and why."""
import re

import pytest

import stock
from conftest import ALICE
from test_rights import REQUESTS, connect
from test_trust_settings import column, serve as settings_serve
from worker import Closed, Refused

# (request, trusted, version of the stock daemon): its words; ours
DIFFERENT = {
    # Nobody may over the stock daemon's socket; ours has no other door (ARCHITECTURE.md).
    ("ignore-liveness", True, "2.8"): ("you are not allowed to ignore liveness", None),
    ("ignore-liveness", True, "2.34"): ("you are not allowed to ignore liveness", None),
    # The path is sound; the stock daemon fails before it looks, having nowhere to get it from.
    ("repair", True, "2.8"): ("build of 'STORE/known' failed", None),
    ("repair", True, "2.34"): ("path 'STORE/known' is required, but there is no substituter that can build it", None),
    # In the words of 2.34.
    ("import-unsigned", False, "2.8"): ("cannot add path 'STORE/unsigned%s' because it lacks a valid signature",
                                        "cannot add path 'STORE/unsigned%s' because it lacks a signature by a trusted key"),
}


def plain(text):
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"/[^ ']*/store/[a-z0-9]{32}-", "STORE/", text).strip()
    return re.sub(r"unsigned\d+", "unsigned%s", text)


def answers(d):
    said = {}
    for name in REQUESTS:
        if name == "optimise" or (name, stock.version()) == ("add-roots", "2.8"):
            continue  # it may take the machine's time; 2.8 does not know the other
        with connect(d, ALICE) as w:
            w.version = (1, min(w.version[1], w.server & 255))
            w.user = ALICE
            try:
                REQUESTS[name](d, w)
                said[name] = None
            except (Refused, Closed) as e:
                said[name] = plain(str(e)).splitlines()[0]
    return said


def serve(make_daemon, trusted, ours):
    d = settings_serve(make_daemon, trusted, ours)
    said = answers(d)
    stock.stop(d)
    return said


@pytest.mark.parametrize("trusted", [False, True])
def test_same_answers(make_daemon, trusted):
    column(0)
    theirs = serve(make_daemon, trusted, False)
    ours = serve(make_daemon, trusted, True)
    for name in theirs:
        pair = DIFFERENT.get((name, trusted, stock.version()))
        if pair:
            assert (theirs[name], ours[name]) == pair, name
        elif theirs[name] is None or ours[name] is None:
            assert theirs[name] == ours[name], name
        else:
            assert ours[name].rstrip(".") == theirs[name].rstrip("."), name
