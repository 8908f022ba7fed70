# A machine without a disk: its store is an image that comes with the initrd, and
# what it builds and installs is in memory until it is switched off.
{ config, pkgs, ... }:
{
  boot.loader.grub.enable = false;
  boot.initrd.systemd.enable = true;
  boot.initrd.availableKernelModules = [ "squashfs" ];
  boot.initrd.kernelModules = [ "loop" ];

  fileSystems = {
    "/" = {
      device = "none";
      fsType = "tmpfs";
      options = [ "mode=0755" ];
    };
    "/nix/.ro-store" = {
      # In the initrd, at its top.
      device = "/nix-store.squashfs";
      fsType = "squashfs";
      options = [ "loop" ];
    };
    "/nix/.rw-store" = {
      device = "none";
      fsType = "tmpfs";
      options = [ "mode=0755" ];
    };
  };

  services.overstore.stores.system = {
    initrd.enable = true;
    serve = "system";
    settings = {
      # The image is a store with a root: /nix/.ro-store/nix/store has the objects,
      # /nix/.ro-store/nix/var/nix their database.
      lower-store = "/nix/.ro-store";
      lower.read-only = true;
      upper-layer = "/nix/.rw-store/upper";
      workdir = "/nix/.rw-store/work";
    };
  };
  # Nothing survives a power cut here.
  nix.settings.sync-before-registering = false;

  system.build = {
    squashfsStore = pkgs.callPackage ../lower-store.nix { } {
      type = "squashfs";
      storeContents = [ config.system.build.toplevel ];
    };
    netbootRamdisk = pkgs.makeInitrdNG {
      prepend = [ "${config.system.build.initialRamdisk}/initrd" ];
      contents = [
        {
          source = config.system.build.squashfsStore;
          target = "/nix-store.squashfs";
        }
      ];
    };
  };
}
