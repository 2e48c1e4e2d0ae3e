"""Keys that a client brings."""
from conftest import ALICE

NIX = ["nix", "--extra-experimental-features", "nix-command"]


def test_a_trusted_client_says_whom_it_believes(make_daemon):
    daemon = make_daemon("single", "trusted-users = root\n")
    secret, public = daemon.base / "home-root/sk", daemon.base / "home-root/pk"
    daemon.run("nix-store", "--generate-binary-cache-key", "k-1", secret, public, user="root")
    out = daemon.nix_build('sh "signed" "echo signed > $out"', user="root").stdout.strip()
    daemon.run(*NIX, "store", "sign", "--key-file", secret, out, user="root")
    cache = f"file://{daemon.base}/cache"
    daemon.run(*NIX, "copy", "--to", cache, out, user="root")
    daemon.run("chmod", "-R", "a+rX", daemon.base / "cache", user="root")
    daemon.run("nix-store", "--delete", out, user="root")

    def copy(user, *options):
        return daemon.run(*NIX, "copy", "--from", cache, out, *options, user=user, check=False)
    key = ["--option", "trusted-public-keys", public.read_text()]
    for user, options in [("root", []), (ALICE, key)]:
        r = copy(user, *options)
        assert r.returncode != 0 and "lacks a signature by a trusted key" in r.stderr
    assert copy("root", *key).returncode == 0
    assert open(out).read() == "signed\n"


def test_discarded_references_of_content_addressed_outputs(make_daemon):
    daemon = make_daemon("single", "experimental-features = nix-command ca-derivations\n")
    out = daemon.nix_build('''
      derivation { name = "free"; system = builtins.currentSystem; builder = "/bin/sh"; __structuredAttrs = true;
        __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
        unsafeDiscardReferences.out = true; src = builtins.toFile "src" "x";
        args = [ "-c" "echo ${builtins.toFile "src" "x"} ${builtins.placeholder "out"} > ${builtins.placeholder "out"}" ]; }''',
        args=["--option", "experimental-features", "nix-command ca-derivations"]).stdout.strip()
    assert daemon.run("nix-store", "-q", "--references", out).stdout == ""
    assert open(out).read().split()[1] == out


def test_a_trusted_client_brings_secret_keys(make_daemon):
    """What is built for it carries their signatures, as far as the daemon may read the files; nobody else's does."""
    daemon = make_daemon("single", "trusted-users = root\n")
    secret, public = daemon.base / "sk", daemon.base / "pk"
    daemon.run("nix-store", "--generate-binary-cache-key", "own-1", secret, public, user="root")
    secret.chmod(0o644)

    def build(name, user):
        r = daemon.nix_build(f'sh "{name}" "echo {name} > $out"', user=user, args=["--option", "secret-key-files", str(secret)], check=False)
        return r, r.returncode == 0 and daemon.run(*NIX, "path-info", "--sigs", r.stdout.strip()).stdout
    r, sigs = build("mine", "root")
    assert sigs.split()[-1].startswith("own-1:"), r.stderr
    out = r.stdout.strip()
    assert daemon.run(*NIX, "store", "verify", "--no-contents", "--sigs-needed", "1", "--trusted-public-keys",
                      public.read_text(), out).returncode == 0
    r, sigs = build("hers", ALICE)
    assert "own-1" not in sigs and "restricted setting" in r.stderr
    secret.chmod(0o600)
    r, _ = build("unreadable", "root")
    assert r.returncode != 0 and str(secret) in r.stderr


def test_secret_keys_of_a_client_take_the_place_of_the_daemons(make_daemon):
    daemon = make_daemon("single", start=False)
    for name in ("daemons", "clients"):
        daemon.run("nix-store", "--generate-binary-cache-key", f"{name}-1", daemon.base / name, daemon.base / f"{name}.pub", user="root")
        (daemon.base / name).chmod(0o644)
    daemon.write_conf(f"trusted-users = root\nsecret-key-files = {daemon.base}/daemons\n")
    daemon.start()
    for i, (user, keys, signed) in enumerate([("root", None, "daemons-1"), ("root", f"{daemon.base}/clients", "clients-1"), ("root", "", ""),
                                              (ALICE, f"{daemon.base}/clients", "daemons-1")]):
        out = daemon.nix_build(f'sh "signed-{i}" "echo > $out"', user=user,
                               args=[] if keys is None else ["--option", "secret-key-files", keys]).stdout.strip()
        said = daemon.run(*NIX, "path-info", "--sigs", out).stdout.split()[1:]
        assert [s.split(":")[0] for s in said if s != "ultimate"] == [signed] * bool(signed), (user, keys, said)
