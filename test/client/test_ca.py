"""Derivations of the newer kinds: floating content addresses, resolving, impure ones."""
import os
import re

import pytest

CONF = "experimental-features = nix-command ca-derivations impure-derivations\n"
CLIENT = ["--option", "experimental-features", "nix-command ca-derivations impure-derivations"]
FLOATING = '__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";'


@pytest.fixture(params=["broker", "single"])
def daemon(request, make_daemon):
    return make_daemon(request.param, CONF)


def build(daemon, expr, **kw):
    return daemon.nix_build(expr, args=CLIENT + kw.pop("args", []), **kw)


def rows(daemon, query):
    import sqlite3
    db = sqlite3.connect(f"file:{daemon.state}/db/db.sqlite?mode=ro", uri=True)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def floating(name, script, outputs='[ "out" ]'):
    return f'(shWith {{ name = "{name}"; {FLOATING} outputs = {outputs}; }} "{script}")'


def test_path_follows_from_contents(daemon):
    a = build(daemon, floating("same", "echo one > /dev/null; echo contents > $out")).stdout.strip()
    b = build(daemon, floating("same", "echo two > /dev/null; echo contents > $out")).stdout.strip()
    assert a == b and open(a).read() == "contents\n"
    ca = rows(daemon, f"select ca, ultimate from ValidPaths where path = '{a}'")
    assert ca[0][0].startswith("fixed:r:sha256:") and ca[0][1] == 1
    assert [r[0] for r in rows(daemon, "select outputName from Realisations")] == ["out", "out"]
    assert rows(daemon, "select 1 from SchemaMigrations where migration = '20220326-ca-derivations'")


def test_references_are_rewritten(daemon):
    """An output that names itself and its siblings names their final paths."""
    out = build(daemon, floating(
        "self", "mkdir $out; echo $out $dev > $out/me; ln -s $out/me $out/link; echo $dev > $dev",
        '[ "out" "dev" ]')).stdout.strip()
    me, dev = open(out + "/me").read().split()
    assert me == out and os.readlink(out + "/link") == out + "/me"
    assert open(dev).read().strip() == dev
    refs = daemon.run("nix-store", "-q", "--references", out).stdout.split()
    assert sorted(refs) == sorted([out, dev])
    assert os.stat(out + "/me").st_mode & 0o7777 == 0o444 and os.stat(out).st_mode & 0o7777 == 0o555
    assert daemon.run("nix-store", "--verify-path", out, dev).returncode == 0


def test_early_cutoff(daemon):
    """A dependant is not built again when its input comes out the same."""
    def top(seed, kind):
        base = floating("base", f"echo seed {seed} > /dev/null; echo base > $out")
        script = '"read x < ${base}; echo top $x ${base} > $out"'
        return f'let base = {base}; in ' + (
            f'shWith {{ name = "top"; {FLOATING} }} {script}' if kind == "floating"
            else f'sh "top" {script}')
    for kind in ["floating", "deferred"]:
        first = build(daemon, top(1, kind)).stdout.strip()
        second = build(daemon, top(2, kind))
        assert second.stdout.strip() == first
        assert open(first).read().startswith("top base ")
        assert re.search(r"building '.*-base\.drv'", second.stderr) or kind == "deferred"
        assert not re.search(r"building '.*-top\.drv'", second.stderr)


def test_each_method(daemon):
    for mode, name, want in [("flat", "f", "fixed:sha1:"), ("recursive", "r", "fixed:r:sha1:")]:
        out = build(daemon, f'''shWith {{ name = "{name}"; __contentAddressed = true;
                    outputHashMode = "{mode}"; outputHashAlgo = "sha1"; }} "echo x > $out"''').stdout.strip()
        assert rows(daemon, f"select ca from ValidPaths where path = '{out}'")[0][0].startswith(want)
    r = build(daemon, f'''shWith {{ name = "dir"; __contentAddressed = true; outputHashMode = "flat";
              outputHashAlgo = "sha256"; }} "mkdir $out"''', check=False)
    assert r.returncode != 0 and "should be a non-executable regular file" in r.stderr


def test_failures_of_a_resolved_derivation_are_told(daemon):
    r = build(daemon, f'let base = {floating("base", "echo > $out")}; in sh "top" "echo ${{base}}; exit 7"',
              check=False)
    assert r.returncode != 0 and "exit code 7" in r.stderr
    assert "build of resolved derivation" in r.stderr


def test_without_the_feature(make_daemon):
    daemon = make_daemon("single")
    r = build(daemon, floating("x", "echo > $out"), check=False)
    assert r.returncode != 0 and "experimental Nix feature 'ca-derivations' is disabled" in r.stderr
    assert not rows(daemon, "select 1 from sqlite_master where name = 'Realisations'")


def test_impure_is_built_each_time(daemon):
    impure = 'shWith { name = "impure"; __impure = true; } "read x < /proc/sys/kernel/random/uuid; echo $x > $out"'
    top = f'let i = {impure}; in shWith {{ name = "top"; __impure = true; }} "read x < ${{i}}; echo $x > $out"'
    a, b = [build(daemon, top, check=False) for _ in range(2)]
    # Release 2.8 builds it and then cannot ask where it is.
    texts = {open(daemon.store / f).read() for f in os.listdir(daemon.store) if f.endswith("-top")}
    assert len(texts) == 2, a.stderr + b.stderr
    assert not rows(daemon, "select 1 from Realisations")
    r = build(daemon, f'let i = {impure}; in sh "pure" "echo ${{i}} > $out"', check=False)
    assert r.returncode != 0 and re.search("pure derivation '.*-pure.drv' depends on impure derivation", r.stderr)


def test_impure_env(make_daemon):
    """Only builds that may see the outside get it, and only where the feature is on."""
    import hashlib
    fixed = """shWith { name = "env"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "%s";
               impureEnvVars = [ "FOO" ]; } "echo $FOO > $out\"""" % hashlib.sha256(b"bar\n").hexdigest()
    for features, ok in [("nix-command configurable-impure-env", True), ("nix-command", False)]:
        daemon = make_daemon("single", f"experimental-features = {features}\nimpure-env = FOO=bar\n")
        assert (daemon.nix_build(fixed, check=False).returncode == 0) == ok
    out = daemon.nix_build('shWith { name = "pure"; impureEnvVars = [ "FOO" ]; } "echo x$FOO > $out"').stdout.strip()
    assert open(out).read() == "x\n"


def test_structured_graphs_that_are_no_object(daemon):
    r = build(daemon, 'shWith { name = "s"; __structuredAttrs = true; exportReferencesGraph = [ "a" ]; } '
                      '"echo > ${builtins.placeholder "out"}"')
    assert re.search("warning:.*exportReferencesGraph.*not a JSON object", r.stderr)
