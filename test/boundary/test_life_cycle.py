"""The same builds by the same client on the stock daemon and on ours: what the client prints, and its exit code, line by line."""
import difflib
import itertools
import os
import pathlib
import re
import shlex
import subprocess

import pytest

import stock
from test_trust_settings import serve

CLIENT = shlex.split(os.environ.get("AIRPLANT_STOCK_CLIENT", ""))  # a word in front of nix-build and nix
RECORDED = pathlib.Path(__file__).parents[1] / "data/life-cycle"
UNORDERED = {"keep going", "dependency fails", "deep dependency fails", "references", "requisites"}  # in the order of hashes
SH = '''sh = name: attrs: script: derivation ({ inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ]; } // attrs);'''
LINES = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i + 1)); done"
RANDOM = "read -r x < /proc/sys/kernel/random/uuid; echo $x > $out"

# name: (expression, arguments)
CASES = {
    "works": ('sh "a" {} "echo hello; echo > $out"', []),
    "quiet": ('sh "quiet" {} "echo hello; echo > $out"', ["-Q"]),
    "verbose": ('sh "verbose" {} "echo hello; echo > $out"', ["-v"]),
    "timeout": ('sh "slow" {} "echo started; /bin/busybox sleep 30"', ["--timeout", "1"]),
    "silent": ('sh "silent" {} "echo started; /bin/busybox sleep 30"', ["--max-silent-time", "1"]),
    "log limit": (f'sh "chatty" {{}} "{LINES}; echo > $out"', ["--option", "max-build-log-size", "100"]),
    "fails": (f'sh "fails" {{}} "{LINES}; exit 3"', []),
    "fails, few lines": (f'sh "few" {{}} "{LINES}; exit 3"', ["--option", "log-lines", "3"]),
    "fails, no lines": (f'sh "none" {{}} "{LINES}; exit 3"', ["--option", "log-lines", "0"]),
    "fails without a word": ('sh "mute" {} "exit 1"', []),
    "no end of line": ('sh "nonl" {} "printf x; exit 1"', []),
    "killed": ('sh "killed" {} "kill -9 $$"', []),
    "killed inside": ('sh "inside" {} "/bin/busybox sh -c \'kill -9 $$\'; exit 137"', []),
    "no output": ('sh "nothing" {} "echo done"', []),
    "one of two outputs": ('sh "two" { outputs = [ "out" "dev" ]; } "echo > $out"', []),
    "no builder": ('sh "nobuilder" { builder = "/nonexistent"; } "x"', []),
    "wrong hash": ('sh "wrong" { outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; outputHashMode = "flat"; } "echo x > $out"', []),
    "wrong hash, tree": ('sh "tree" { outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; outputHashMode = "recursive"; } '
                         '"/bin/busybox mkdir $out"', []),
    "executable flat": ('sh "exec" { outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; outputHashMode = "flat"; } '
                        '"printf \\"\\" > $out; /bin/busybox chmod +x $out"', []),
    "dependency fails": ('let low = sh "low" {} "echo bad; exit 1"; in sh "high" { inherit low; } "echo > $out"', []),
    "deep dependency fails": ('let low = sh "low2" {} "echo bad; exit 1"; mid = sh "mid" { inherit low; } "echo > $out"; in '
                              'sh "high2" { inherit mid; } "echo > $out"', []),
    "keep going": ('let bad = sh "bad" {} "exit 1"; worse = sh "worse" {} "exit 2"; good = sh "good" {} "echo > $out"; in '
                   '[ (sh "on-bad" { inherit bad; } "echo > $out") worse good ]', ["--keep-going", "-j1"]),
    "stop at once": ('[ (sh "stops" {} "exit 1") ]', ["-j1"]),
    "keep failed": ('sh "kept" {} "echo x > file; exit 1"', ["--keep-failed"]),
    "platform": ('sh "platform" { system = "no-such"; } "echo > $out"', []),
    "features": ('sh "features" { requiredSystemFeatures = [ "a" "b" ]; } "echo > $out"', []),
    "no jobs": ('sh "nojobs" {} "echo > $out"', ["-j0"]),
    "references": ('let a = sh "ref" {} "echo > $out"; in sh "refers" { allowedReferences = []; inherit a; } "echo $a > $out"', []),
    "requisites": ('let a = sh "req" {} "echo > $out"; b = sh "req2" { inherit a; } "echo $a > $out"; in '
                   'sh "requires" { disallowedRequisites = [ a ]; inherit b; } "echo $b > $out"', []),
    "cycle": ('sh "cycle" { outputs = [ "a" "b" ]; } "echo $b > $a; echo $a > $b"', []),
    "bad mode": ('sh "mode" {} "echo > $out; /bin/busybox chmod 666 $out"', []),
    "socket": ('sh "fifo" {} "/bin/busybox mkfifo $out"', []),
    "dry run": ('sh "dry" {} "echo > $out"', ["--dry-run"]),
    "fallback": ('sh "fallback" {} "echo > $out"', ["--fallback"]),
    "messages": ('sh "phases" {} "echo \'@nix {\\"action\\":\\"setPhase\\",\\"phase\\":\\"one\\"}\'; echo \'@nix {broken\'; exit 1"', []),
    "control characters": ('sh "control" {} "printf \'a\\\\rb\\\\tc\\\\033[31mred\\\\n\'; exit 1"', []),
    "check same": ('sh "same" {} "echo > $out"', ["--check"]),
    "check differs": (f'sh "random" {{}} "{RANDOM}"', ["--check"]),
    "check keeps": (f'sh "random2" {{}} "{RANDOM}"', ["--check", "--keep-failed"]),
    "check and hook": (f'sh "random3" {{}} "{RANDOM}"', ["--check", "--option", "run-diff-hook", "true", "--option", "diff-hook", "BASE/diff"]),
    "check and failing hook": (f'sh "random4" {{}} "{RANDOM}"', ["--check", "--option", "run-diff-hook", "true", "--option", "diff-hook", "BASE/fails"]),
    "check of what is not there": ('sh "absent" {} "echo > $out"', ["--check"]),
    "post-build-hook": ('sh "hooked" {} "echo > $out"', ["--option", "post-build-hook", "BASE/post"]),
    "failing post-build-hook": ('sh "hooked2" {} "echo > $out"', ["--option", "post-build-hook", "BASE/fails"]),
    "missing post-build-hook": ('sh "hooked3" {} "echo > $out"', ["--option", "post-build-hook", "BASE/none"]),
}


# Different on purpose, made equal on both sides.
EQUAL = [
    (r"/?BASE/store/H-[a-z0-9]*\.drv\.chroot(/root)?", ""),  # where the stock daemon builds is nobody's business
    (r'output path ["\'].*["\'] should be', "output path P should be"),  # there a temporary copy
    (r"(?m)^error: .* has an unsupported type$", "error: unsupported type"),  # here with the output's and the derivation's name
    (r"(bad JSON log message from the derivation builder: ).*", r"\1"),  # there the parser's words, here the line
    (r'keeping build directory (.).*\1', "keeping build directory P"),  # here with the derivation's name
    (r"error: build of (.*, .*) failed", lambda m: f"error: build of {', '.join(sorted(m[1].split(', ')))} failed"),  # in the order of hashes
]


def plain(text, d):
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n").replace(str(d.base), "BASE")
    text = re.sub(r"[0-9a-df-np-sv-z]{32}-", "H-", text)
    for a, b in EQUAL:
        text = re.sub(a, b, text)
    return text


def prepare(d):
    for name, text in (("diff", "echo the difference of $1"), ("post", "echo posted $OUT_PATHS; echo err >&2"), ("fails", "echo said; exit 7")):
        (d.base / name).write_text("#!/bin/sh\n" + text + "\n")
        (d.base / name).chmod(0o755)


def outputs(make_daemon, ours):
    """{case: lines}: exit code, standard output, "--", what the client says."""
    conf = ("sandbox = true\nsandbox-paths = /bin/sh=/bin/busybox /bin/busybox\nsystem-features =\nextra-platforms =\nsubstituters =\n"
            "trusted-substituters =\nlog-lines = 25\n")
    d, said = serve(make_daemon, False, ours, conf, prepare), {}
    for name, (expr, args) in CASES.items():
        argv = [*CLIENT, "nix-build", "--no-out-link", "-E", f"let {SH} in {expr}"]
        if "--check" in args and name != "check of what is not there":
            d.run(*argv, user="root")
        r = d.run(*argv, *[a.replace("BASE", str(d.base)) for a in args], user="root", check=False)
        lines = plain(r.stderr, d).splitlines()
        if name == "log limit":  # how much is seen of it there is a matter of chance
            lines = [l for l in lines if not l.startswith("line ")]
        said[name] = [f"exit {r.returncode}", *plain(r.stdout, d).splitlines(), "--", *(sorted(lines) if name in UNORDERED else lines)]
    stock.stop(d)
    return said


def client_version():
    return re.search(r"(\d+\.\d+)", subprocess.run([*CLIENT, "nix", "--version"], capture_output=True, text=True).stdout)[1]


def as_text(said):
    return "".join(f"== {name}\n" + "".join(f"{l}\n" for l in lines) for name, lines in said.items())


def differences(theirs, ours):
    return "\n".join(f"== {name}\n" + "\n".join(difflib.unified_diff(theirs[name], ours[name], "stock", "ours", lineterm="", n=2))
                     for name in theirs if theirs[name] != ours[name])


def test_like_2_34(make_daemon):
    """As its daemon, which is here (test/client/matrix sid), or as what it was recorded to say to this client."""
    ours = outputs(make_daemon, True)
    if stock.version() == "2.34":
        theirs = outputs(make_daemon, False)
        if os.environ.get("AIRPLANT_RECORD"):
            RECORDED.write_text(as_text(theirs))
    elif client_version() == "2.8":
        theirs = {part.splitlines()[0]: part.splitlines()[1:] for part in RECORDED.read_text().split("== ")[1:]}
    else:
        pytest.skip(f"nothing is recorded of client {client_version()}")
    assert not differences(theirs, ours), differences(theirs, ours)


def test_like_2_8(make_daemon):
    """Its words were others, and "Cannot build" came later: the same exit codes, standard output, and what the builder printed."""
    if stock.version() != "2.8":
        pytest.skip(f"the stock daemon here is {stock.version()}")
    theirs, ours = outputs(make_daemon, False), outputs(make_daemon, True)
    for name in theirs:
        if name == "no builder":  # garbled there
            theirs[name], ours[name] = theirs[name][:1], ours[name][:1]

    def common(said):
        return {n: list(itertools.takewhile(lambda l: not re.match("error:|these|this|  |building|post-build-hook|executing", l), lines))
                for n, lines in said.items()}
    assert not differences(common(theirs), common(ours)), differences(common(theirs), common(ours))
