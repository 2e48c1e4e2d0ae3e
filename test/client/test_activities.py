"""What clients draw their bars from: the stream of activities, results and messages of the same builds, from the
stock daemon and from ours, as `--log-format internal-json` prints it (nix-output-monitor reads nothing else).

Both daemons run in mode `single` without a sandbox, one after the other, with the same store directory."""
import json
import os
import re
import shutil
import subprocess
import threading
import time

import pytest

from conftest import ALICE, DAEMON, PRELUDE, wait_for

TYPES = {0: "unknown", 100: "copyPath", 101: "fileTransfer", 102: "realise", 103: "copyPaths", 104: "builds", 105: "build",
         109: "queryPathInfo"}
RESULTS = {101: "buildLogLine", 104: "setPhase", 105: "progress", 106: "setExpected"}


class Stock:
    """The stock daemon, as root, on the same directories: they are wiped when it ends."""

    def __init__(self, d):
        self.d = d
        with open(d.daemon_log, "ab") as out:
            self.p = subprocess.Popen([shutil.which("nix-daemon")], env=d.env() | {"NIX_REMOTE": ""},
                                      stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        wait_for(d.answers, d.daemon_log, self.p)

    def stop(self):
        self.p.terminate()
        self.p.wait(10)
        self.d.socket.unlink(missing_ok=True)
        pw = self.d.users[DAEMON]
        for top in (self.d.store, self.d.state, self.d.log):
            shutil.rmtree(top)
            top.mkdir()
            os.chown(top, pw.pw_uid, pw.pw_gid)


def stream(d, expr, args=(), user=ALICE):
    """The events of one `nix build`, ids replaced by their order of appearance."""
    r = d.run("nix", "build", "--impure", "--no-link", "--log-format", "internal-json", "-v", *args, "--expr", PRELUDE + expr,
              user=user, check=False)
    return [json.loads(line[5:]) for line in r.stderr.splitlines() if line.startswith("@nix ")], r.returncode


def tidy(text):
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return re.sub(r"/[^ ']*/store/[a-z0-9]{32}-", "STORE/", text)


def story(events):
    """One line per event, without what differs from run to run."""
    out, names = [], {}
    for e in events:
        if e["action"] == "start":
            kind = TYPES.get(e["type"], str(e["type"]))
            names[e["id"]] = kind
            fields = [tidy(f) if isinstance(f, str) else f for f in e.get("fields", [])]
            out.append(f"start {kind} level {e['level']} '{tidy(e['text'])}' {fields}")
            if kind == "build":
                names[e["id"]] = f"build of {fields[0]}"
        elif e["action"] == "stop":
            out.append(f"stop {names.get(e['id'], 'nothing that was started')}")
        elif e["action"] == "result":
            kind = RESULTS.get(e["type"], str(e["type"]))
            fields = [tidy(f) if isinstance(f, str) else f for f in e["fields"]]
            out.append(f"result {names.get(e['id'])} {kind} {fields}")
        else:
            out.append(f"msg {e['level']} {tidy(e['msg'])}")
    return out


# What may differ, and why. Everything else must be the same, in the same order.
#
#   progress      ours tells how many builds are expected, running and done once per round of the daemon's loop; the
#                 stock daemon at each step, so that ours are some of its lines. The last one is the same.
#   stop of a     the stock daemon stops a build's activity after it has counted it and told its error, ours before
#   build
#   level 6, 7    activities for debugging ("querying info about missing paths"), which no bar shows
#   texts         errors are in the words of Nix 2.34; the oracle here may be older
def sequence(events):
    """Without progress; errors as their level, behind the stop of the build that failed."""
    out, told = [], []
    for line in story(e for e in events if e["action"] != "start" or e["level"] < 6):
        if line.startswith("result builds progress") or line.startswith("result copyPaths progress") or "setExpected" in line:
            continue
        if line == "stop nothing that was started":
            continue
        if line.startswith("msg"):
            told.append(" ".join(line.split()[:2]))
            continue
        out.append(line)
    return out, told


def counts(events, what):
    return [line for line in story(events) if line.startswith(f"result {what} ")]


def uncounted(lines):
    """Without the number of expected builds, which some later versions (2.34) count twice per build."""
    return [re.sub(r"\[(\d+), \d+,", r"[\1,", line) for line in lines]


def well_formed(events):
    """Each id is started once, used while it lives, and stopped in the end."""
    alive = set()
    for e in events:
        if e["action"] == "start":
            assert e["id"] not in alive
            alive.add(e["id"])
        elif e["action"] in ("stop", "result"):
            assert e["id"] in alive, e
            if e["action"] == "stop":
                alive.remove(e["id"])
    assert not alive


BUILDS = {
    "one": 'sh "one" "echo a line; echo another; printf half; echo > $out"',
    "chain": 'let low = sh "low" "echo from low; echo > $out"; in sh "high" "read a < ${low}; echo from high; echo > $out"',
    "failure": 'sh "bad" "echo said before; exit 3"',
    "failed dependency": 'let low = sh "lowbad" "echo low; exit 1"; in sh "high" "read a < ${low}; echo > $out"',
    "phases": r'''sh "phased" "echo '@nix { \"action\": \"setPhase\", \"phase\": \"buildPhase\" }'; echo in it;
        echo '@nix { \"action\": \"start\", \"id\": 1, \"level\": 3, \"type\": 101, \"text\": \"inner\", \"fields\": [\"u\"] }';
        echo '@nix { \"action\": \"result\", \"id\": 1, \"type\": 105, \"fields\": [ 3, 4, 0, 0 ] }';
        echo '@nix { \"action\": \"stop\", \"id\": 1 }'; echo '@nix { broken'; echo > $out"''',
}


@pytest.fixture
def both(make_daemon):
    """{(who, build): (events, exit code)} from both daemons; each build is asked for twice."""
    d = make_daemon("single", conf="sandbox = false\nbuild-users-group =\n", start=False)
    said = {}
    for who in ("stock", "ours"):
        stock = Stock(d) if who == "stock" else d.start() and None
        for name, expr in BUILDS.items():
            said[who, name] = stream(d, expr)
            said[who, name + ", again"] = stream(d, expr)
        if stock:
            stock.stop()
    return said


def test_same_stream_as_the_stock_daemon(both):
    for name in [n for who, n in both if who == "stock"]:
        (stock, code), (ours, our_code) = both["stock", name], both["ours", name]
        assert code == our_code, name
        well_formed(ours)
        assert sequence(ours) == sequence(stock), name
        for what in ("builds progress", "copyPaths progress", "realise setExpected"):
            theirs, mine = counts(stock, what), counts(ours, what)
            if what == "builds progress" and counts(both["stock", "one"][0], what)[-1].endswith("[1, 2, 0, 0]"):
                theirs, mine = uncounted(theirs), uncounted(mine)
            assert set(mine) <= set(theirs), (name, what)
            assert not mine or mine[-1] == theirs[-1], (name, what)
        if not name.endswith("again"):
            assert counts(ours, "builds progress"), name


def test_two_clients_see_the_same_build(make_daemon):
    """Each has the whole log and its own activities, also the one that comes late."""
    d = make_daemon("single")
    expr = 'sh "shared" "echo first; while ! [ -e /build/go ] && [ $((i = i + 1)) -lt 40 ]; do sleep 0.05; done; echo last; echo > $out"'
    results = [None, None]

    def ask(i):
        time.sleep(i)
        results[i] = stream(d, expr)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for events, code in results:
        assert code == 0
        well_formed(events)
        lines = [line.split(" ", 3)[3] for line in story(events) if "buildLogLine" in line]
        assert lines == ["STORE/shared.drv buildLogLine ['first']", "STORE/shared.drv buildLogLine ['last']"]
        assert counts(events, "builds progress")[-1] == "result builds progress [1, 1, 0, 0]"
    assert d.daemon_log.read_text().count(": built as uid") == 1
