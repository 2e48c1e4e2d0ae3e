# Packages of Debian 12 as their authors released them, fetched from its mirror by builtin:fetchurl and built with the
# host's toolchain: one plain, one with three outputs, one content-addressed, and one that is content-addressed and uses
# another. (Files of a stable release stay in the pool until it is archived.)
{ src ? null, system ? builtins.currentSystem, mirror ? "http://deb.debian.org/debian/pool/main" }:
let
  fetch = path: sha256: import <nix/fetchurl.nix> { url = "${mirror}/${path}"; inherit sha256; };
  make = attrs: script: derivation ({
    inherit system;
    builder = "/bin/sh";
    args = [ "-euc" "export PATH=/usr/bin HOME=/build; tar xf $src --strip-components=1; ${script}" ];
  } // attrs);
  floating = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
in rec {
  hello = make {
    name = "hello-2.10";
    src = fetch "h/hello/hello_2.10.orig.tar.gz"
      "31e066137a962676e89f69d1b65382de95a7ef7d914b8cb956f41ea72e0f516b";
  } "./configure --prefix=$out; make; make install; $out/bin/hello";
  zlib = make {
    name = "zlib-1.2.13";
    outputs = [ "out" "dev" "static" ];
    src = fetch "z/zlib/zlib_1.2.13.dfsg.orig.tar.bz2"
      "71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1";
  } ''
    ./configure --prefix=$dev --libdir=$out/lib --sharedlibdir=$out/lib
    make; make test; make install
    mkdir -p $static/lib; mv $out/lib/*.a $static/lib
  '';
  lua = make (floating // {
    name = "lua-5.4.4";
    outputs = [ "out" "man" ];
    src = fetch "l/lua5.4/lua5.4_5.4.4.orig.tar.gz"
      "164c7849653b80ae67bec4b7473b884bf5cc8d2dca05653475ec2ed27b9ebf61";
  }) ''
    make posix
    make install INSTALL_TOP=$out INSTALL_MAN=$man/share/man/man1
    $out/bin/lua -e 'print(_VERSION)'
    ln -s $out/bin/lua $man/program
  '';
  libpng = make (floating // {
    name = "libpng-1.6.39";
    outputs = [ "out" "tools" ];
    src = fetch "libp/libpng1.6/libpng1.6_1.6.39.orig.tar.gz"
      "a00e9d2f2f664186e4202db9299397f851aea71b36a35e74910b8820e380d441";
    inherit zlib lua;
    inherit (zlib) dev;
  }) ''
    ./configure --prefix=$out --bindir=$tools/bin --disable-static CPPFLAGS=-I$dev/include \
      LDFLAGS="-L$zlib/lib -Wl,-rpath,$zlib/lib"
    make; make install
    $tools/bin/pngfix pngtest.png > $tools/checked || true
    $lua/bin/lua -e 'print(#io.read("a"))' < $tools/checked
  '';
}
