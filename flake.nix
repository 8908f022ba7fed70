{
  description = "Sets up, verifies and maintains Nix's local-overlay stores";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      parts = pkgs: import ./default.nix { inherit pkgs; };
    in
    {
      packages = forEach (pkgs: rec {
        default = overstore;
        inherit (parts pkgs) overstore;
      });

      nixosModules = rec {
        default = overstore;
        overstore = ./nixos;
      };

      overlays.default = final: _: { inherit (parts final) overstore; };

      devShells = forEach (pkgs: {
        default = (parts pkgs).shell;
      });

      checks = forEach (pkgs: (parts pkgs).checks);

      formatter = forEach (pkgs: pkgs.nixfmt-tree);
    };
}
