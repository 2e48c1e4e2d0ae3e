# Small software that is at hand: two libraries of Airplant's own, by the host's toolchain. With several outputs, a
# build on top of another, and the same as floating content-addressed derivations (none of which names itself: versions
# from 2.9 to 2.34 hash such outputs differently).
{ src, system ? builtins.currentSystem }:
let
  make = attrs: script: derivation ({
    inherit system src;
    builder = "/bin/sh";
    args = [ "-euc" "export PATH=/usr/bin; ${script}" ];
    outputs = [ "out" "dev" ];
  } // attrs);
  floating = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  compile = lib: ''
    mkdir -p $out/lib $dev/include/${lib}
    for c in $src/${lib}/*.c; do
      gcc -std=gnu17 -O1 -D_GNU_SOURCE -Wall -Wextra -I$src ''${below:+-I$below/include} -c $c -o $(basename $c).o
    done
    ar rcs $out/lib/lib${lib}.a *.o
    cp $src/${lib}/*.h $dev/include/${lib}
    echo "-L$out/lib -l${lib}" > $dev/flags
    ls $out/lib
  '';
  chain = attrs: suffix: rec {
    base = make (attrs // { name = "base${suffix}"; }) (compile "base");
    path = make (attrs // { name = "path${suffix}"; below = base.dev; base_out = base; }) ''
      ${compile "path"}
      printf 'int main(void){return 0;}' > t.c
      gcc t.c $(cat $dev/flags) $(cat $below/flags) -Wl,-rpath,$base_out/lib -o $out/linked
    '';
  };
in [ (chain { } "").path (chain floating "-ca").path ]
