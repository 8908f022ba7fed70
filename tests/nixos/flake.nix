# What the flake offers, with a nixpkgs of which nothing is looked at.
let
  flake = import ../../flake.nix;
  nixpkgs = {
    lib.genAttrs =
      names: make:
      builtins.listToAttrs (
        map (name: {
          inherit name;
          value = make name;
        }) names
      );
    legacyPackages = { };
  };
  outputs = flake.outputs {
    self = { };
    inherit nixpkgs;
  };
in
{
  nixpkgs = flake.inputs.nixpkgs.url;
  withoutFlakes = builtins.attrNames (import ../../default.nix { pkgs = { }; });
  machineTests = builtins.attrNames (import ../../vm-tests/nixos { pkgs.lib = { }; });
  outputs = builtins.mapAttrs (
    _: output: if builtins.isAttrs output then builtins.attrNames output else null
  ) outputs;
}
