"""A client that asks for much and reads nothing of it keeps nobody's log from being checkpointed."""
import sqlite3
import time

import pytest

from test_rights import connect
from worker import Worker, u64

PATHS = 20000


@pytest.fixture
def d(make_daemon):
    d = make_daemon("single")
    with Worker(d.socket) as w:
        d.known = w.add_text("known", b"known")
    d.core.terminate()
    d.core.wait()
    with sqlite3.connect(d.state / "db/db.sqlite") as c:
        known, = c.execute("select id from ValidPaths where path = ?", (d.known,)).fetchone()
        for i in range(PATHS):
            name = f"{d.store}/{i:032d}-made-up"
            c.execute("insert into ValidPaths (path, hash, registrationTime, narSize) values (?, 'sha256:' || ?, 1, 1)", (name, "0" * 64))
            c.execute("insert into Refs (referrer, reference) values (last_insert_rowid(), ?)", (known,))
        c.execute("pragma user_version")
    c.close()
    d.start_core()
    return d


def log_is_free(d):
    c = sqlite3.connect(d.state / "db/db.sqlite", timeout=0)
    busy = c.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
    c.close()
    return not busy


@pytest.mark.parametrize("op", ["all", "referrers", "one by one"])
def test_the_log_can_be_checkpointed(d, op):
    with connect(d, "root") as slow, connect(d, "root") as other:
        if op == "all":
            slow.send(23)
        elif op == "referrers":
            slow.send(6, d.known)
        else:  # many questions at once
            slow.s.settimeout(0.5)
            try:
                slow.send(*[u64(26) + u64(len(d.known)) + d.known.encode() + bytes(-len(d.known) % 8)] * 20000)
            except TimeoutError:
                pass
        time.sleep(0.5)  # now it waits for us
        other.add_text("more", b"more")  # the log has something again
        for _ in range(100):
            if log_is_free(d):
                break
            time.sleep(0.02)
        else:
            pytest.fail("a session that waits for its client holds a snapshot")
        slow.s.settimeout(20)
        if op != "one by one":
            slow.finish()
            assert slow.u64() >= PATHS
