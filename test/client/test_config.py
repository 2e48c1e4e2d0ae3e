"""`airplant config`: the settings as the daemon has them, with stock Nix (2.8) as the oracle for what it knows."""
import json
import os
import pathlib
import subprocess

import pytest


@pytest.fixture
def ask(request, tmp_path):
    tool = pathlib.Path(request.config.getoption("--build-dir")) / "src/cli/airplant"

    def run(text, *args, config=None, own=""):
        (tmp_path / "nix.conf").write_text(text)
        (tmp_path / "airplant.conf").write_text(own)
        env = {"NIX_CONF_DIR": str(tmp_path), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        if config is not None:
            env["NIX_CONFIG"] = config
        return subprocess.run([tool, "config", *args], text=True, capture_output=True, env=env)

    run.dir = tmp_path
    return run


def stock(ask, text):
    (ask.dir / "stock").mkdir(exist_ok=True)
    (ask.dir / "stock/nix.conf").write_text(text)
    r = subprocess.run(["nix", "--extra-experimental-features", "nix-command", "show-config", "--json"], text=True,
                       capture_output=True, env={"NIX_CONF_DIR": str(ask.dir / "stock"), "HOME": str(ask.dir),
                                                 "PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(ask.dir / "none")})
    assert r.returncode == 0, r.stderr
    return {n: v["value"] for n, v in json.loads(r.stdout).items()}


def as_text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:  # newer ones tell a setting that has no value
        return ""
    return " ".join(value) if isinstance(value, list) else str(value)


# Different on purpose: newer defaults, what the machine or the program decides, and the evaluator's words.
NOT_COMPARED = {"experimental-features", "system-features", "extra-platforms", "build-users-group", "sandbox",
                "sandbox-paths", "secret-key-files", "store", "netrc-file", "build-hook", "builders"}
DEFAULTS_SINCE_2_8 = {"connect-timeout", "cores", "log-lines", "max-free", "sandbox-fallback", "ignored-acls",
                      "start-id", "id-count"}  # the broker's, as far as ours knows


def both(ask, text):
    r = ask(text, "--json")
    assert r.returncode == 0, r.stderr
    ours = json.loads(r.stdout)
    theirs = stock(ask, text)
    names = sorted(n for n in ours if n in theirs and n not in NOT_COMPARED)
    return names, {n: ours[n]["value"] for n in names}, {n: as_text(theirs[n]) for n in names}


def test_defaults_equal_the_stock_ones(ask):
    names, ours, theirs = both(ask, "")
    assert len(names) > 25
    assert {n for n in names if ours[n] != theirs[n]} <= DEFAULTS_SINCE_2_8, [
        (n, ours[n], theirs[n]) for n in names if ours[n] != theirs[n]]


def test_values_are_read_as_the_stock_program_reads_them(ask):
    """One value of each kind for each setting that both know."""
    names, _, theirs = both(ask, "")
    kinds = stock(ask, "")
    text, sample = "", {}
    for n in names:
        v = kinds[n]
        if isinstance(v, bool):
            sample[n] = "false" if v else "true"
        elif isinstance(v, int):
            sample[n] = "7"  # units came after 2.8
        elif isinstance(v, list):
            sample[n] = "http://b/  file:///a" if "substituters" in n else "  b   a\tb # the rest of a line is not read"
        else:
            sample[n] = "/some/path"
        text += f"{n} = {sample[n]}\n"
    names, ours, theirs = both(ask, text)
    wrong = [(n, ours[n], theirs[n]) for n in names if ours[n] != theirs[n]]
    assert not wrong


def test_says_who_has_set_what(ask):
    (ask.dir / "more.conf").write_text("\ntimeout = 5\n")
    r = ask("cores = 3\ninclude more.conf\n!include gone.conf\nkeep-outputs = true\n", "--json",
            config="keep-outputs = false\nextra-platforms = a-b", own="durable = strict\n")
    c = json.loads(r.stdout)
    assert (c["cores"]["value"], c["cores"]["origin"]) == ("3", f"{ask.dir}/nix.conf:1")
    assert c["timeout"]["origin"] == f"{ask.dir}/more.conf:2"
    assert (c["keep-outputs"]["value"], c["keep-outputs"]["origin"]) == ("false", "NIX_CONFIG:1")
    assert (c["durable"]["value"], c["durable"]["origin"]) == ("strict", f"{ask.dir}/airplant.conf:1")
    assert c["max-jobs"] == {"value": "1", "origin": "default", "ignored": None}


def test_says_what_is_ignored_and_what_is_unknown(ask):
    r = ask("warn-dirty = false\nuse-sqlite-wal = false\nbulders = x\nbulders = y\n")
    assert r.returncode == 0
    assert "warn-dirty = false  # " in r.stdout and "ignored: it is the client's" in r.stdout
    assert "use-sqlite-wal = false" in r.stdout and "ignored: Airplant does not act on it" in r.stdout
    assert r.stderr == "warning: unknown setting 'bulders'; did you mean 'builders'?\n"


def test_exit_codes(ask):
    r = ask("", "build-cores")  # an alias
    assert (r.returncode, r.stdout) == (0, "cores = 0  # default\n")
    r = ask("", "max-jbs")
    assert r.returncode == 1 and "did you mean 'max-jobs'?" in r.stderr
    r = ask("keep-outputs = maybe\n")
    assert r.returncode == 2 and "Boolean setting 'keep-outputs' has invalid value 'maybe'" in r.stderr, r.stderr
    assert f"{ask.dir}/nix.conf:1" in r.stderr
    assert ask("", "--yaml").returncode == 2
