# The configurations that are rendered, by their names: the examples, and those that show what no
# example does.
{ lib }:
let
  here =
    directory:
    lib.mapAttrs' (file: _: {
      name = lib.removeSuffix ".nix" file;
      value = directory + "/${file}";
    }) (builtins.readDir directory);
in
here ../../nixos/examples // here ./configurations
