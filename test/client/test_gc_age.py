"""What was used not long ago stays (keep-recent); limits take the oldest first (max-freed, keep-size)."""
import os
import pathlib
import sqlite3
import sys
import time

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "boundary"))
from worker import Worker, strings  # noqa: E402

COLLECT, TEMP_ROOT, DEAD, DELETE = 20, 11, 1, 2
ALL = (1 << 64) - 1
DAY = 24 * 3600


def start(make_daemon, conf="", own=""):
    d = make_daemon("single", conf, start=False)
    d.own_conf = own
    d.write_conf(conf)
    return d.start()


def stopped(daemon, ages, forget=True):
    """Sets back when paths were registered (days), and forgets their use."""
    daemon.stop()
    db = sqlite3.connect(daemon.state / "db/db.sqlite")
    for path, days in ages.items():
        db.execute("update ValidPaths set registrationTime = ? where path = ?", (int(time.time() - days * DAY), path))
    db.commit()
    db.close()
    if forget:
        (daemon.state / "airplant/used-by").unlink()
    daemon.start()


def collect(daemon, action=DELETE, max_freed=ALL):
    with Worker(daemon.socket) as w:
        w.op(COLLECT, action, strings([]), 0, max_freed, 0, 0, 0)
        return set(w.strings())


def add(daemon, names, refs=()):
    with Worker(daemon.socket) as w:
        return [w.add_text(n, n.encode() * 100, refs) for n in names]


def test_recent_paths_stay(make_daemon):
    daemon = start(make_daemon, own="keep-recent = 7d\n")
    old, new, used, below, named = add(daemon, ["old", "new", "used", "below", "named"])
    above, = add(daemon, ["above"], [below])
    days = {old: 8, new: 6, used: 30, below: 30, above: 1, named: 1}
    stopped(daemon, days)
    with Worker(daemon.socket) as w:
        w.op(TEMP_ROOT, used)
        assert w.u64() == 1 and w.valid(used)
    assert collect(daemon, DEAD) == {old}
    assert collect(daemon) == {old}
    daemon.stop()  # stamps outlive the daemon, and a record that was cut off
    with open(daemon.state / "airplant/used-by", "ab") as f:
        assert f.tell() > 0 and f.tell() % 40 == 0
        f.write(b"x" * 20)
    daemon.start()
    with Worker(daemon.socket) as w:
        w.op(TEMP_ROOT, new)
        w.u64()
    assert collect(daemon) == set()
    # Whoever names a path means it.
    daemon.run("nix-store", "--delete", named)
    assert not os.path.exists(named)
    stopped(daemon, days)
    assert collect(daemon) == {used}


def test_inputs_of_builds_are_used(make_daemon):
    daemon = start(make_daemon, own="keep-recent = 7d\n")
    expr = 'let a = sh "a" "echo a > $out"; in sh "{}" "read x < ${{a}}; echo > $out"'
    daemon.nix_build(expr.format("b"))
    paths = {str(p): 30 for p in daemon.store.iterdir() if p.name != ".links"}
    stopped(daemon, paths)
    daemon.nix_build(expr.format("c"))
    gone = {os.path.basename(p)[33:] for p in collect(daemon)}
    assert gone == {"b", "b.drv"}, gone


def test_the_oldest_first(make_daemon):
    daemon = start(make_daemon)
    paths = add(daemon, [f"n{i}" for i in range(6)])
    top, = add(daemon, ["top"], [paths[3]])
    ages = [10, 60, 20, 90, 30, 40]  # days; the oldest is referred to by the youngest
    stopped(daemon, dict(zip(paths, ages)) | {top: 5})
    # With nothing said, all may go; with a limit, these in turn.
    for i in (1, 5, 4, 2, 0):
        assert collect(daemon, max_freed=1) == {paths[i]}
    assert collect(daemon, max_freed=1) == {top}
    assert collect(daemon, max_freed=1) == {paths[3]}


@pytest.mark.parametrize("keep, n", [(10 ** 6, 0), (1500, 2), (1, 4)])
def test_a_size_that_is_kept(make_daemon, keep, n):
    daemon = start(make_daemon, own=f"keep-size = {keep}\n")
    paths = add(daemon, ["aaaa", "bbbb", "cccc", "dddd"])  # 512 bytes each as archives
    sizes = []
    with Worker(daemon.socket) as w:
        sizes = [w.path_info(p)["size"] for p in paths]
    assert len(set(sizes)) == 1 and 500 <= sizes[0] <= 520, sizes
    stopped(daemon, {p: 10 + i for i, p in enumerate(paths)})
    assert collect(daemon) == set(paths[len(paths) - n:])


def test_a_wrong_age(make_daemon):
    daemon = make_daemon("single", start=False)
    daemon.own_conf = "keep-recent = soon\n"
    daemon.write_conf()
    with pytest.raises(AssertionError):
        daemon.start()
    assert "a number of days is wanted" in daemon.tail()
