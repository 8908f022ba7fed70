# What scenarios build: with the guest's own /bin/sh, so without a sandbox.
{ lowerApp ? "", stop ? "" }:
let
  build = name: attributes: script: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-euc" "PATH=/usr/bin:/bin; ${script}" ];
  } // attributes);
in rec {
  # Refers to nothing.
  plain = build "upper-plain" { } ''
    mkdir $out; echo "made above" >$out/file
  '';
  # Refers to an object of the lower store, and runs its program to be made.
  onTop = build "upper-on-top" { app = builtins.storePath lowerApp; } ''
    mkdir $out; $app/bin/lower-app >$out/words; echo $app >$out/app
  '';
  # Two equal files.
  twice = build "upper-twice" { } ''
    mkdir $out; echo equal >$out/one; echo equal >$out/two
  '';
  # Writes fifteen files. After the one that `stop` names it waits for ever.
  slow = build "upper-slow" { inherit stop; } ''
    mkdir $out
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
      head -c 1000000 /dev/zero | tr '\0' "$i" >$out/$i
      if [ "$i" = "$stop" ]; then sleep infinity; fi
    done
  '';
}
