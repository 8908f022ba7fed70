# A mistake in a description stops the build of the system, with the program's own
# message.
{ pkgs, lib }:
let
  system = import (pkgs.path + "/nixos/lib/eval-config.nix") {
    inherit (pkgs.stdenv.hostPlatform) system;
    modules = [
      ../../nixos
      {
        services.overstore.stores.wrong.settings = {
          root = "/srv/merged";
          lower-stroe = "/srv/lower";
          upper-layer = "srv/upper";
          workdir = "/srv/work";
        };
        system.stateVersion = lib.trivial.release;
      }
    ];
  };
  units = lib.findFirst (
    package: lib.getName package == "overstore-units"
  ) (throw "the system has no units of overstore") system.config.systemd.packages;
  failed = pkgs.testers.testBuildFailure units;
in
pkgs.runCommand "overstore-refused" { } ''
  grep 'wrong.toml' ${failed}/testBuildFailure.log
  grep 'lower-stroe' ${failed}/testBuildFailure.log
  grep 'srv/upper' ${failed}/testBuildFailure.log
  touch $out
''
