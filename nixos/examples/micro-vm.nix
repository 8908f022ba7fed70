# A virtual machine that runs from its host's /nix/store, shared read-only, and
# can build and install on top of it.
#
# The host shares two directories with virtiofs:
#
#     ro-store   its /nix/store
#     ro-state   config.system.build.lowerStoreState of this machine, the
#                metadata of this machine's closure
#
# Its own database would not do: the host writes to it all the time.
{ config, pkgs, ... }:
let
  share = tag: {
    device = tag;
    fsType = "virtiofs";
    options = [ "ro" ];
    neededForBoot = true;
  };
in
{
  boot.initrd.systemd.enable = true;
  boot.initrd.availableKernelModules = [ "virtiofs" ];

  fileSystems = {
    "/" = {
      device = "none";
      fsType = "tmpfs";
      options = [ "mode=0755" ];
    };
    "/nix/.ro-store" = share "ro-store";
    "/nix/.ro-state" = share "ro-state";
    # The layers, and Nix's state, which knows what is in them.
    "/nix" = {
      device = "/dev/disk/by-label/nix";
      fsType = "ext4";
    };
  };

  services.overstore.stores.system = {
    initrd.enable = true;
    serve = "system";
    settings = {
      lower-store = "local";
      lower = {
        real = "/nix/.ro-store";
        state = "/nix/.ro-state/nix/var/nix";
        read-only = true;
      };
      upper-layer = "/nix/.layers/upper";
      workdir = "/nix/.layers/work";
    };
  };
  nix.settings.sync-before-registering = true;

  system.build.lowerStoreState = pkgs.callPackage ../lower-store.nix { } {
    storeContents = [ config.system.build.toplevel ];
  };
}
