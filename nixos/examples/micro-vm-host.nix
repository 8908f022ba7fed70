# The host's side of micro-vm.nix: two directories for QEMU's virtiofs, read-only. With
# microvm.nix, `microvm.shares` does the same in the guest's configuration.
#
#     -chardev socket,id=store,path=/run/guest-store.socket -device vhost-user-fs-pci,chardev=store,tag=ro-store
#     -chardev socket,id=state,path=/run/guest-state.socket -device vhost-user-fs-pci,chardev=state,tag=ro-state
{
  config,
  lib,
  pkgs,
  ...
}:
let
  # The guest: nixpkgs.lib.nixosSystem { modules = [ overstore.nixosModules.default ./micro-vm.nix ]; }
  guest = import (pkgs.path + "/nixos/lib/eval-config.nix") {
    system = null;
    modules = [
      ../.
      ./micro-vm.nix
      {
        nixpkgs.pkgs = pkgs;
        boot.loader.grub.enable = false;
        system = { inherit (config.system) stateVersion; };
      }
    ];
  };
  shared = {
    store = "/nix/store";
    # It refers to all that the guest runs from, and so keeps that in the host's store.
    state = guest.config.system.build.lowerStoreState;
  };
in
{
  systemd.services = lib.mapAttrs' (name: directory: {
    name = "guest-${name}";
    value = {
      description = "Share of the guest: ${name}";
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart =
        "${lib.getExe pkgs.virtiofsd} --socket-path /run/guest-${name}.socket "
        + "--shared-dir ${directory} --readonly";
    };
  }) shared;
}
