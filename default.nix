# What the flake has, for those who do not use flakes: `nix-build -A overstore`,
# `imports = [ (import ./. { }).module ];`, `nix-shell -A shell`.
{
  # The nixpkgs that flake.lock pins.
  pkgs ?
    let
      inherit ((builtins.fromJSON (builtins.readFile ./flake.lock)).nodes.nixpkgs) locked;
    in
    import (builtins.fetchTarball {
      url = "https://github.com/${locked.owner}/${locked.repo}/archive/${locked.rev}.tar.gz";
      sha256 = locked.narHash;
    }) { },
}:
let
  inherit (pkgs) lib;
  machineTests = import ./vm-tests/nixos { inherit pkgs; };
  overstore = pkgs.callPackage ./pkgs/by-name/ov/overstore/package.nix { inherit machineTests; };
  nixFiles = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions (
      map (lib.fileset.fileFilter (file: file.hasExt "nix")) [
        ./default.nix
        ./flake.nix
        ./nixos
        ./pkgs
        ./tests/nixos
        ./vm-tests
      ]
    );
  };

  # Each example as a whole system, with the real NixOS around it; nothing of it is
  # built.
  evaluated =
    name:
    (import (pkgs.path + "/nixos/lib/eval-config.nix") {
      system = null;
      modules = [
        ./nixos
        (./nixos/examples + "/${name}")
        {
          nixpkgs.pkgs = pkgs;
          # All options have to be fit for NixOS's manual, which is the same for each.
          documentation.nixos.enable = lib.mkForce (name == "netboot.nix");
          boot.loader.grub.enable = lib.mkForce false;
          fileSystems."/" = lib.mkOverride 1400 {
            device = "/dev/disk/by-label/root";
            fsType = "ext4";
          };
          system.stateVersion = lib.trivial.release;
        }
      ];
    }).config.system.build.toplevel.drvPath;
  examples = lib.mapAttrs (name: _: evaluated name) (builtins.readDir ./nixos/examples);
in
{
  inherit overstore;

  module = ./nixos;

  shell = pkgs.mkShell {
    inputsFrom = [ overstore ];
    packages = with pkgs; [
      clippy
      nixfmt
      qemu
      rust-analyzer
      rustfmt
    ];
  };

  checks = {
    # With the tests of the library.
    inherit overstore;

    rust-format = pkgs.runCommand "rust-format" { nativeBuildInputs = [ pkgs.rustfmt ]; } ''
      find ${overstore.src} -name '*.rs' -exec rustfmt --check --edition 2024 {} +
      touch $out
    '';
    nix-format = pkgs.runCommand "nix-format" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
      find ${nixFiles} -name '*.nix' -exec nixfmt --check {} +
      touch $out
    '';

    module = pkgs.writeText "module" (
      builtins.unsafeDiscardStringContext (builtins.toJSON examples)
    );
  }
  // machineTests;
}
