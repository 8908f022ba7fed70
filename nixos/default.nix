# Nix's local-overlay stores on NixOS. The module turns options into overstore's
# configuration files and calls the program; what these files mean, only the
# program knows.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
in
{
  imports = [
    ./units.nix
    ./warm.nix
    ./guest.nix
    ./initrd.nix
    ./own-store.nix
    ./publications.nix
    ./users.nix
    ./checks.nix
  ];

  options.services.overstore = {
    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ../pkgs/by-name/ov/overstore/package.nix { };
      defaultText = lib.literalMD "overstore, built from the source that this module is part of";
      description = "The overstore to use.";
    };

    stores = mkOption {
      type = types.attrsOf (types.submodule (import ./store.nix { inherit pkgs; }));
      default = { };
      description = ''
        Local-overlay stores of Nix: each layers a private, writable store over
        a shared one. See the manual of overstore for what the settings mean.
      '';
    };

    # A program of the target system cannot be run where that is only built.
    buildProgram = mkOption {
      type = types.str;
      internal = true;
      default =
        if pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
          "${config.services.overstore.package}/bin/overstore"
        else
          "${pkgs.buildPackages.callPackage ../pkgs/by-name/ov/overstore/package.nix { }}/bin/overstore";
      description = "The overstore that is run when the system is built.";
    };

    enabled = mkOption {
      type = types.raw;
      internal = true;
      readOnly = true;
      default = lib.filterAttrs (_: store: store.enable) config.services.overstore.stores;
      description = "The stores that the system has.";
    };
  };
}
