# A system as the stand-ins know one: an etc, and the programs that NixOS's have.
{ name, etc }:
let
  path =
    path: name:
    builtins.path {
      inherit path name;
    };
in
derivation {
  inherit name;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  etc = path etc "etc";
  programs = path ./programs "programs";
  args = [
    "-euc"
    ''
      PATH=/usr/bin:/bin
      mkdir -p $out/bin
      ln -s $etc $out/etc
      cd $programs
      for program in prepare-root activate bin/switch-to-configuration; do
          sed "s|@system@|$out|g" $program >$out/$program
          chmod 755 $out/$program
      done
    ''
  ];
}
