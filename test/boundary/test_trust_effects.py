"""What a setting of a client's brings about, with the stock daemon and with ours: test/data/trust/effects has a row for each setting,
with the probe that shows it (or why there is none), and what is seen from an untrusted and from a trusted client."""
import base64
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import time

import stock
from conftest import wait_for
from test_trust_settings import as_alice, column, quoted, rows, serve
from worker import Refused, base32, nar, store_path, string, strings, u64

# Derivations of the probes: name -> (attributes, script). Each is built once in each store.
SH = {
    "cores": ("", "[ $NIX_BUILD_CORES = 3 ] && echo 3 > $out || echo other > $out"),
    "inside": ("", "[ -e /etc/debian_version ] && echo outside > $out || echo inside > $out"),
    "path": ("", "[ -e /probe ] && echo seen > $out || echo hidden > $out"),
    "top": ("", "echo $NIX_BUILD_TOP > $out"),
    "shm": ("", "s=large; while read -r a b c d e; do case $b,$d in /dev/shm,*size=1024k*) s=small;; esac; done < /proc/mounts; echo $s > $out"),
    "uname": ("", "case $(/bin/busybox uname -r) in 2.6.*) echo old;; *) echo new;; esac > $out"),
    "suid": ("", "echo > f; /bin/busybox chmod 4755 f && echo did > $out || echo refused > $out"),
    "privs": ("", "while read -r a b; do [ $a = NoNewPrivs: ] && echo $b; done < /proc/self/status > $out; :"),
    "system": ('system = "probe-linux";', "echo built > $out"),
    "features": ('requiredSystemFeatures = [ "probe" ];', "echo built > $out"),
    "slow": ("", "for i in 1 2 3 4 5 6 7 8 9; do echo x; /bin/busybox sleep 0.2; done; echo ended > $out"),
    "silent": ("", "/bin/busybox sleep 2; echo ended > $out"),
    "chatty": ("", "i=0; while [ $i -lt 100 ]; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i + 1)); done; echo ended > $out"),
    "fails": ("", "echo one; echo two; echo three; exit 1"),
    "twin": ("", "echo some contents that are found twice > $out"),
    "plain": ("", "echo built > $out"),
    "random": ("", "read -r x < /proc/sys/kernel/random/uuid; echo $x > $out"),
}



class Probe:
    """One row with one client: its connection, and a derivation of its own, so that nothing is there already."""

    def __init__(self, d, drv, pairs, is_stock):
        self.stock, self.d, self.drv, self.pairs, self.out, self.log = is_stock, d, drv, pairs, None, ""
        self.w = as_alice(d)
        self.set()

    def set(self):
        self.w.op(19, 0, 0, 0, 3, 2, *[0] * 7, u64(len(self.pairs)), *[string(x) for p in self.pairs for x in p])

    def build(self, mode=0):
        """(status, message); .out and .log"""
        self.w.log.clear()
        try:
            self.w.op(46, strings([self.drv + "!*"]), mode)
        except Refused as e:
            return "refused", str(e)
        assert self.w.u64() == 1
        self.w.string()
        status, text = self.w.u64(), re.sub(r"\x1b\[[0-9;]*m", "", self.w.string())
        [self.w.u64() for _ in range(4)]
        outputs = " ".join(self.w.string() for _ in range(2 * self.w.u64()))
        self.log = "\n".join(self.w.log)
        self.out = next((f"{self.d.store}/{m}" for m in re.findall(r'"outPath":"([^"]+)"', outputs)), None)
        return status, text

    def built(self):
        status, text = self.build()
        assert status == 0, text

    def word(self):
        status, text = self.build()
        return open(self.out).read().strip() if status == 0 else f"fails: {status}"

    def added(self, signed):
        """A path that is not content-addressed."""
        path, dump = store_path(str(self.d.store), "output:out", "0" * 64, "signed" + os.urandom(4).hex()), nar(b"signed")
        digest = base32(hashlib.sha256(dump).digest())
        try:
            self.w.add_nar(path, dump, sigs=[self.d.key.sign(f"1;{path};sha256:{digest};{len(dump)};")] if signed else [])
            return "added"
        except Refused:
            return "refused"

    def logged(self):
        self.build()
        drv = os.path.basename(self.drv)
        there = self.d.log / "drvs" / drv[:2]
        found = [n[len(drv) - 2:] or "plain" for n in os.listdir(there) if n.startswith(drv[2:])] if there.is_dir() else []
        return " ".join(found) or "none"

    def ran(self, *modes):
        mark = self.d.base / "ran"
        mark.unlink(missing_ok=True)
        for mode in modes:
            self.build(mode)
        return mark.read_text().strip() if mark.exists() else "not run"

    def kept(self):
        self.build()
        m = re.search("keeping build directory ['\"]([^'\"]+)", re.sub("\x1b\\[[0-9;]*m", "", self.log))
        return "not kept" if not m else "elsewhere" if m[1].startswith(f"{self.d.base}/elsewhere") else "kept"

    def dead(self, root_on_output):
        """One of derivation and output has a root: the other?"""
        self.built()
        link = self.d.state / "gcroots/probe"
        os.symlink(self.out if root_on_output else self.drv, link)
        self.w.close()  # what it used is held until its process is gone
        if self.stock:
            wait_for(lambda: len(self.d.children()) == 1, self.d.daemon_log)
        else:
            time.sleep(0.1)
        self.w = as_alice(self.d)
        self.set()
        self.w.op(20, 1, strings([]), 0, u64(2**64 - 1), 0, 0, 0)
        dead = self.w.strings()
        link.unlink()
        return "dead" if (self.drv if root_on_output else self.out) in dead else "alive"


# name: (derivation, what is looked at)
PROBES = {name: (name, Probe.word) for name in SH} | {
    "lines of the error": ("fails", lambda p: str(len(re.findall("(?m)^ *> ", p.build()[1])))),
    "signatures": ("plain", lambda p: "signed" if p.built() or p.w.path_info(p.out)["sigs"] else "not signed"),
    "signed": ("plain", lambda p: p.added(True)),
    "unsigned": ("plain", lambda p: p.added(False)),
    "log": ("plain", Probe.logged),
    "build hook": ("plain", lambda p: p.ran(0)),
    "diff hook": ("random", lambda p: p.ran(0, 2)),
    "kept": ("fails", Probe.kept),
    "linked": ("plain", lambda p: "linked" if p.built() or os.stat(p.out).st_nlink > 1 else "not linked"),
    "output": ("plain", lambda p: p.dead(False)),
    "derivation": ("plain", lambda p: p.dead(True)),
}
# What has to be set besides.
BESIDES = {"build-dir": [("keep-failed", "true")], "diff-hook": [("run-diff-hook", "true")],}


class Key:
    def __init__(self, base):
        self.file = base / "key.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", self.file], check=True)
        der = subprocess.run(["openssl", "pkey", "-in", self.file, "-pubout", "-outform", "DER"], check=True, capture_output=True).stdout
        self.public = "probe-1:" + base64.b64encode(der[-32:]).decode()

    def sign(self, text):
        (self.file.parent / "text").write_text(text)
        sig = subprocess.run(["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", self.file, "-in", self.file.parent / "text"],
                             check=True, capture_output=True).stdout
        return "probe-1:" + base64.b64encode(sig).decode()


def prepare(d):
    for name, text in (("hookA", "echo A > BASE/ran"), ("hookB", "echo B > BASE/ran"), ("pre", "echo pre > BASE/ran")):
        (d.base / name).write_text("#!/bin/sh\n" + text.replace("BASE", str(d.base)) + "\n")
        (d.base / name).chmod(0o755)
    d.key = Key(d.base)
    d.run("nix-store", "--generate-binary-cache-key", "own-1", d.base / "secret", d.base / "public", user="root")
    (d.base / "secret").chmod(0o644)
    (d.base / "elsewhere").mkdir()
    (d.base / "elsewhere").chmod(0o755)
    shutil.chown(d.base / "elsewhere", d.base.owner())


def instantiate(d, table):
    """A derivation for each row, all at once."""
    def one(i, name):
        attrs, script = SH[name]
        return (f'(derivation ({{ name = "{name}-{i}"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" '
                f"''{script}'' ]; }} // {{ {attrs} }}))")
    expr = "[ " + " ".join(one(i, PROBES[r[2]][0]) for i, r in enumerate(table)) + " ]"
    out = d.run("nix-instantiate", "-E", expr, user="root", env={"NIX_REMOTE": "daemon"}).stdout.split()
    assert len(out) == len(table)
    return out


def effects(make_daemon, ours, table):
    """{(row's number, trusted): what was seen}"""
    seen = {}
    for trusted in (False, True):
        conf = ("sandbox = true\nsandbox-paths = /bin/sh=/bin/busybox /bin/busybox\nlog-lines = 2\n"
                f"diff-hook = BASE/hookA\nsystem-features = kvm\ntrusted-public-keys =\n")
        d = serve(make_daemon, trusted, ours, conf, prepare)
        drvs = instantiate(d, table)
        for i, (name, value, probe, *_) in enumerate(table):
            value = quoted(value).replace("BASE", str(d.base)).replace("KEY", d.key.public)
            p = Probe(d, drvs[i], sorted([(name, value), *BESIDES.get(name, [])]), not ours)
            seen[i, trusted] = PROBES[probe][1](p)
            p.w.close()
        stock.stop(d)
    return seen


def test_what_comes_of_it(make_daemon):
    table = [r for r in rows("effects") if not r[1].startswith("none: ")]
    at = column(3)
    theirs, ours = effects(make_daemon, False, table), effects(make_daemon, True, table)
    wrong = []
    for i, r in enumerate(table):
        for trusted in (False, True):
            own = r[7 + trusted] if r[7 + trusted] != "=" else r[5 + trusted]
            if theirs[i, trusted] != r[at + trusted]:
                wrong.append(("stock", r[0], trusted, theirs[i, trusted], r[at + trusted]))
            if ours[i, trusted] != own:
                wrong.append(("ours", r[0], trusted, ours[i, trusted], own))
            if own != r[5 + trusted]:
                assert r[9], f"{r[0]} differs from 2.34 without a reason"
    assert not wrong


def test_every_setting_has_its_row():
    table = pathlib.Path(__file__).parents[2] / "src/conf/table.c"
    assert set(re.findall(r'^\t\{ "([a-z0-9-]+)", CONF_', table.read_text(), re.M)) <= {r[0] for r in rows("effects")}
