# What ./quickstart builds: three derivations in a row, a source directory from disk, and one that
# fails on purpose. The only builder is the shell that nix.conf binds to /bin/sh in the sandbox.
let
  build = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" script ];
  };
in rec {
  words = build "words" ''
    echo "reading the source directory"
    while read line; do for word in $line; do echo $word; done; done < ${./src}/text > $out
  '';
  count = build "count" ''
    n=0; while read word; do n=$((n+1)); done < ${words}
    echo "there are $n words"; echo $n > $out
  '';
  report = build "report" ''
    read n < ${count}
    echo "The text in ${words} has $n words." > $out
  '';
  broken = build "broken" ''
    echo "this one fails on purpose"
    echo "its log reaches you like this" >&2
    exit 7
  '';
}
