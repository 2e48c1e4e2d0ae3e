"""What a builder sees: the same in every id mode, and the same as under the stock implementation.

One probe derivation prints everything it can find out. Its text is cut into sections, which are
compared one by one; DIFFERENCES is the whole list of what may differ from the stock sandbox.
"""
import os
import re
import shutil
import subprocess

import pytest

from conftest import MODES, PRELUDE

CONF = "sandbox-paths = /bin/sh=/bin/busybox /bin/busybox\n"

PROBE = r'''
b=/bin/busybox
$b ls -l /proc/$$/fd > /build/fds
section() { echo "== $1"; shift; "$@" 2>&1; }
{
section env $b env
section id $b id
section uid_map $b cat /proc/self/uid_map
section gid_map $b cat /proc/self/gid_map
section setgroups $b cat /proc/self/setgroups
section status $b cat /proc/self/status
section stat $b cat /proc/$$/stat
section root $b ls -la /
section dev $b ls -la /dev
section etc $b ls -la /etc
section tmp $b ls -la /tmp
section build $b ls -la /build
section bin $b ls -la /bin
section store $b ls -la $NIX_STORE
section storedir $b stat -c "%a %u %g" $NIX_STORE
section passwd $b cat /etc/passwd
section group $b cat /etc/group
section hosts $b cat /etc/hosts
section hostname $b hostname
section domain $b cat /proc/sys/kernel/domainname
section machine $b uname -m
section personality $b cat /proc/$$/personality
section umask umask
section ulimit ulimit -a
section ulimit-hard ulimit -H -a
section fds $b cat /build/fds
section tty $b tty
section mounts $b cat /proc/self/mountinfo
section net $b cat /proc/net/dev
section route $b cat /proc/net/route
section processes $b ls /proc
section cgroup $b cat /proc/self/cgroup
section oom $b cat /proc/self/oom_score_adj
section resolv $b sh -c 'for f in resolv.conf nsswitch.conf services; do [ -e /etc/$f ] && echo $f; done' $b
section shm $b stat -c "%a %u %g" /dev/shm
section pts $b ls -la /dev/pts
section write-etc $b sh -c 'echo x >> /etc/passwd && echo yes || echo no'
section write-root $b sh -c 'echo x > /made && echo yes || echo no'
section write-store $b sh -c 'echo x > $NIX_STORE/other && echo yes || echo no'
section write-dev $b sh -c 'echo x > /dev/null && echo yes'
section loopback $b ifconfig lo
section mount $b sh -c '$0 mount -t tmpfs x /tmp && echo yes || echo no' $b
section mknod $b sh -c '$0 mknod /build/null c 1 3 && echo yes || echo no' $b
section setuid $b sh -c 'cd /build; : > f; $0 chmod u+s f && echo yes || echo no' $b
section chown $b sh -c 'cd /build; $0 chown 0 f && echo yes || echo no' $b
section userns $b sh -c '$0 unshare -U $0 id -u && echo yes || echo no' $b
section ptrace $b sh -c '$0 cat /proc/1/environ > /dev/null && echo yes || echo no' $b
section uts $b sh -c '$0 hostname other && echo yes || echo no' $b
} > $out
[ -z "$outputHash" ] || { $b cat $out; echo "== end"; echo hello > $out; }
'''


def nix_string(text):
    return "''" + text.replace("''", "'''").replace("${", "''${") + "''"


def probe_expr(attrs='name = "probe";'):
    return f"shWith {{ {attrs} }} {nix_string(PROBE)}"


def sections(text):
    out = {}
    for part in re.split(r"^== ", text, flags=re.M)[1:]:
        name, _, body = part.partition("\n")
        out[name] = normal(name, body)
    return out


def listing(body):
    """`ls -la` without sizes, dates and link counts."""
    lines = []
    for line in body.splitlines():
        if line.startswith("total"):
            continue
        f = line.split()
        if line[0] in "bc":
            lines.append(" ".join([f[0], f[2], f[3], f[4], f[5], *f[9:]]))
        else:
            lines.append(" ".join([f[0], f[2], f[3], *f[8:]]))
    return sorted(lines)


def normal(name, body):
    if name in ("root", "dev", "etc", "tmp", "build", "bin", "store", "pts"):
        return listing(body)
    if name == "status":
        keep = r"^(Umask|Uid|Gid|Groups|NSpgid|NSsid|Sig[IC]\w+|SigBlk|Cap\w+|NoNewPrivs|Seccomp|Speculation\w+):.*$"
        return [m.group(0) for m in re.finditer(keep, body, re.M)]
    if name == "stat":
        # pid comm state ppid pgrp session tty_nr tpgid: the builder leads its session
        f = body[body.rindex(")") + 2:].split()
        pid = body.split()[0]
        return {"leads group": f[2] == pid, "leads session": f[3] == pid, "has a terminal": f[4] != "0",
                "parent": f[1]}
    if name == "fds":
        fds = re.findall(r"(\d+) -> (\S+)", body)
        return sorted((n, re.sub(r"\[\d+\]|\d+$", "", t)) for n, t in fds if "/proc" not in t)
    if name == "mounts":
        rows = []
        for line in body.splitlines():
            left, right = line.split(" - ")
            f = left.split()
            rows.append((f[4], f[5], right.split()[0]))
        return sorted(rows)
    if name == "loopback":
        return re.findall(r"127\.0\.0\.1|\bUP\b", body)
    if name == "net":
        return sorted(line.split(":")[0].strip() for line in body.splitlines()[2:])
    if name == "processes":
        return sorted(x for x in body.split() if x.isdigit() and int(x) < 10)[:1]
    if name == "env":
        return sorted(line for line in body.splitlines() if line)
    if name == "ulimit" or name == "ulimit-hard":
        return [line for line in body.splitlines() if "pending" not in line]
    return body


def wipe(daemon):
    subprocess.run(["chmod", "-R", "u+w", str(daemon.store)], check=True)
    for entry in os.listdir(daemon.store):
        p = daemon.store / entry
        shutil.rmtree(p) if p.is_dir() and not p.is_symlink() else p.unlink()


def read_probe(r):
    """From the output, or from the log where the output is fixed."""
    assert r.returncode == 0, r.stderr
    text = open(r.stdout.strip()).read()
    if text == "hello\n":
        text = r.stderr[r.stderr.index("== env"):r.stderr.index("== end")]
    return sections(text)


def probe(daemon, attrs='name = "probe";'):
    return read_probe(daemon.nix_build(probe_expr(attrs)))


def stock_probe(daemon, attrs='name = "probe";'):
    """The stock implementation, as root with one build user, at the same store directory."""
    daemon.stop()
    wipe(daemon)
    state = daemon.base / "stock"
    etc = daemon.base / "stock-etc"
    etc.mkdir()
    (etc / "nix.conf").write_text("build-users-group = stockbuild\nsandbox = true\nsubstituters =\n" + CONF)
    passwd, group = daemon.base / "passwd", daemon.base / "group"
    passwd.write_text(open("/etc/passwd").read() + "stockbuild1:x:64200:64200::/var/empty:/usr/sbin/nologin\n")
    group.write_text(open("/etc/group").read() + "stockbuild:x:64200:stockbuild1\n")
    os.chown(daemon.store, 0, 0)
    env = daemon.env() | {"NIX_REMOTE": "", "NIX_STATE_DIR": str(state), "NIX_LOG_DIR": str(state / "log"),
                          "NIX_CONF_DIR": str(etc)}
    r = subprocess.run(["unshare", "-m", "sh", "-c",
                        f"mount --bind {passwd} /etc/passwd; mount --bind {group} /etc/group; exec \"$@\"", "sh",
                        "nix-build", "--no-out-link", "-E", PRELUDE + probe_expr(attrs)],
                       env=env, capture_output=True, text=True)
    return read_probe(r)


def differing(a, b):
    assert a.keys() == b.keys()
    only = lambda x, y: [i for i in x if i not in y] if isinstance(x, list) else x
    return {k: (only(a[k], b[k]), only(b[k], a[k])) for k in a if a[k] != b[k]}


HELLO = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"  # "hello\n"
KINDS = {
    "plain": 'name = "probe";',
    "fixed": f'name = "probe"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "{HELLO}"; '
             'impureEnvVars = [ "http_proxy" ];',
    "i686": 'name = "probe"; system = "i686-linux";',
}


@pytest.mark.parametrize("kind", KINDS)
def test_same_in_every_mode(make_daemon, kind):
    seen = {}
    for mode in MODES:
        daemon = make_daemon(mode, CONF)
        text = probe(daemon, KINDS[kind])
        daemon.stop()
        # The two stores have different names, so hashes do, too.
        base = re.escape(str(daemon.base)) + "|" + re.escape(daemon.base.name)
        seen[mode] = eval(re.sub(base, "BASE", re.sub(r"[0-9a-z]{32}-probe", "HASH-probe", repr(text))))
    first = seen.pop(MODES[0])
    for mode, other in seen.items():
        assert differing(first, other) == {}, mode


def mount_kind(row):
    """A mount without the flags that only ours has."""
    point, flags, fs = row
    return point, sorted(set(flags.split(",")) - {"nosuid", "nodev", "noexec"})


# Section -> what of it must be equal to the stock sandbox, and why not all of it.
DIFFERENCES = {
    # Ours shows ids of the build's own outer namespace; stock shows the host's number of the build user.
    "uid_map": lambda s: s.split()[::2],
    "gid_map": lambda s: s.split()[::2],
    # Ours empties the bounding set as well.
    "status": lambda s: [x for x in s if not x.startswith("CapBnd")],
    # Stock lets builders make user namespaces; here 'nested-sandboxes' does, see SECURITY.md.
    "userns": lambda s: None,
    # The host's cgroups are hidden here by a cgroup namespace; stock shows where its client happened to run.
    "cgroup": lambda s: len(s.splitlines()),
    # The terminal's name is dangling in both; how the kernel spells that depends on where it was opened.
    "fds": lambda s: [(n, "/" if t.startswith("/") and n in ("2", "10") else t) for n, t in s],
    # Ours: no setuid or device files where nothing needs them, parts of /proc covered, an own mount for /tmp, and the root is a
    # tmpfs. kvm is there when its device is accessible to the daemon, not to root.
    "mounts": lambda s: [mount_kind(r) for r in s if r[0] not in ("/", "/tmp", "/dev/kvm")
                         and not r[0].startswith("/proc/")],
    # No root makes the files around the builder, so the builder's id owns them; they are
    # not writable (the write-* sections are equal) and a few lose their w bits for that.
    **dict.fromkeys(("root", "dev", "etc", "tmp", "build", "bin", "store", "pts"), lambda s: sorted(
        " ".join([line[0], *line.split()[3:]]) for line in s if not line.endswith((" ..", " kvm")))),
    "shm": lambda s: s.split()[0],
    "storedir": lambda s: (s.split()[0], s.split()[2]),
}


# Stock shares the host's network with them. Its 2.8 has no certificates for them, later ones do; the list
# of name servers is the host's own file there.
FIXED = {
    "net": lambda s: None,
    "route": lambda s: None,
    "mounts": lambda s: [r for r in DIFFERENCES["mounts"](s) if r[0] not in (
        "/etc/ssl/certs/ca-certificates.crt", "/etc/resolv.conf")],
    "etc": lambda s: [line for line in DIFFERENCES["etc"](s) if not line.endswith(" ssl")],
}


@pytest.mark.parametrize("kind", KINDS)
def test_same_as_the_stock_sandbox(make_daemon, kind):
    version = re.search(r"(\d+)\.(\d+)", subprocess.run(["nix", "--version"], capture_output=True, text=True).stdout)
    if (int(version[1]), int(version[2])) != (2, 8):
        pytest.skip("the stock sandbox that is compared with is that of 2.8")
    daemon = make_daemon("broker", CONF)
    ours = probe(daemon, KINDS[kind])
    stock = stock_probe(daemon, KINDS[kind])
    known = DIFFERENCES | (FIXED if kind == "fixed" else {})
    same = lambda text: {k: known.get(k, lambda x: x)(v) for k, v in text.items()}
    assert differing(same(ours), same(stock)) == {}


MACHINE = r'''
b=/bin/busybox
$b cat /proc/self/mountinfo > $out
for f in kallsyms kcore keys key-users kmsg timer_list; do
	[ ! -e /proc/$f ] || echo "$f has $($b head -c 9 /proc/$f | $b wc -c) bytes"; done >> $out
for f in $($b find /proc/sys /proc/irq /proc/fs -type f); do { true >> $f; } 2>/dev/null && echo "$f is open"; done >> $out
echo "looked at $($b find /proc/sys -type f | $b wc -l) files" >> $out
'''


@pytest.mark.parametrize("kind", ["plain", "i686"])
def test_mounts_and_machine(daemon, kind):
    """No mount has setuid or device files, but for the devices; nothing is told of the machine or can be set."""
    daemon.stop()
    (daemon.base / "extra").mkdir()
    daemon.write_conf(CONF + f"extra-sandbox-paths = /extra={daemon.base}/extra /tty=/dev/tty\n")
    daemon.start()
    lines = open(daemon.nix_build(f"shWith {{ {KINDS[kind]} }} {nix_string(MACHINE)}").stdout.strip()).read().splitlines()
    mounts = {f[4]: f[5].split(",") for f in (line.split() for line in lines) if len(f) > 6 and "-" in f}
    assert {"/", "/build", "/dev/null", "/dev/pts", "/dev/shm", "/proc", "/proc/sys", "/extra", "/tty"} <= mounts.keys()
    assert not [m for m, flags in mounts.items() if "nosuid" not in flags]
    devices = {"/tty", "/dev/pts"} | {m for m in mounts if m.startswith("/dev/") and m != "/dev/shm"}
    hidden = {m for m in mounts if m.startswith("/proc/") and m != "/proc/sys"}  # they are the null device
    assert {m for m, flags in mounts.items() if "nodev" not in flags} == devices | hidden
    assert "ro" in mounts["/proc/sys"] and not [x for x in lines if x.endswith(" is open")]
    assert len([x for x in lines if re.search(r" has \d+ bytes$", x)]) >= 3
    assert not [x for x in lines if re.search(r" has [1-9]\d* bytes$", x)]
    assert int(re.search(r"looked at (\d+) files", lines[-1])[1]) > 100


def test_nested_sandboxes(daemon):
    """A sandbox in the sandbox, as stock allows it: refused, or where the setting says so, working."""
    script = "busybox=/bin/busybox; $busybox unshare -rmpf $busybox sh -c 'mount -t tmpfs x /tmp && echo {}' > $out || echo no > $out"
    for setting, expected in (("", "no\n"), ("nested-sandboxes = true\n", "inside\n")):
        daemon.stop()
        daemon.write_conf(CONF + setting)
        daemon.start()
        word = script.format("inside" if setting else "outside")
        built = daemon.nix_build(f'sh "nested" {nix_string(word)}').stdout.strip()
        assert open(built).read() == expected


def test_what_matters(daemon):
    """The few facts that must hold by themselves, whatever stock does."""
    daemon.stop()
    daemon.write_conf(CONF)
    daemon.start()
    s = probe(daemon)
    assert s["machine"] == "x86_64\n" and s["umask"] == "0022\n" and s["hostname"] == "localhost\n"
    assert s["id"] == "uid=1000(nixbld) gid=100(nixbld)\n"
    assert s["net"] == ["lo"] and s["loopback"] == ["127.0.0.1", "UP"] and s["processes"] == ["1"]
    assert s["stat"] == {"leads group": True, "leads session": True, "has a terminal": False, "parent": "0"}
    for refused in ("write-etc", "write-root", "mount", "mknod", "setuid", "chown", "uts"):
        assert s[refused].splitlines()[-1] == "no", (refused, s[refused])
    assert {x for x in s["status"] if x.startswith("Cap")} == {
        f"Cap{n}:\t" + "0" * 16 for n in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    assert {"NoNewPrivs:\t1", "Seccomp:\t2", "Groups:\t "} <= set(s["status"])
    assert [n for n, _ in s["fds"]] == ["0", "1", "10", "2"]  # 10 is the shell's own copy


def test_thirty_two_bit(daemon):
    daemon.stop()
    daemon.write_conf(CONF)
    daemon.start()
    s = probe(daemon, KINDS["i686"])
    assert s["machine"] == "i686\n" and int(s["personality"], 16) & 0xff == 8


def test_fixed_output_sees_no_network_of_the_host(daemon):
    """What it sees instead: test_network.py."""
    daemon.stop()
    daemon.write_conf(CONF)
    daemon.start()
    s = probe(daemon, KINDS["fixed"])
    assert s["net"] in (["lo"], ["eth0", "lo"]) and s["loopback"] == ["127.0.0.1", "UP"]
    assert "resolv.conf" in s["resolv"] and "nsswitch.conf" in s["resolv"]
