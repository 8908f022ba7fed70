# A virtual machine that runs from its host's store: the guest's side in three lines.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.overstore.guest;
  inherit (lib) mkOption types;
  share = tag: {
    device = tag;
    inherit (cfg) fsType;
    options = [ "ro" ];
  };
in
{
  options.services.overstore.guest = {
    enable = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether the system is a virtual machine that runs from its host's
        {file}`/nix/store`, shared read-only, and builds and installs on top of it. The
        host shares two directories: its {file}`/nix/store`, and this machine's
        {option}`system.build.lowerStoreState`, the metadata of this machine's closure. The
        host's own database would not do: the host writes to it all the time.
      '';
    };
    layers = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/dev/disk/by-label/nix";
      description = ''
        The file system for {file}`/nix`, which takes the layers, and Nix's state, which
        knows what is in them. Without one, they are in memory, and gone when the machine
        is switched off.
      '';
    };
    store = mkOption {
      type = types.str;
      default = "ro-store";
      description = "The tag of the host's share of its {file}`/nix/store`.";
    };
    state = mkOption {
      type = types.str;
      default = "ro-state";
      description = "The tag of the host's share of the metadata.";
    };
    fsType = mkOption {
      type = types.str;
      default = "virtiofs";
      example = "9p";
      description = "The file system of both shares.";
    };
  };

  config = lib.mkIf cfg.enable {
    boot.initrd.systemd.enable = true;
    boot.initrd.availableKernelModules = [
      cfg.fsType
      "virtio_pci"
      "virtio_blk"
    ];

    fileSystems = {
      "/" = lib.mkDefault {
        device = "none";
        fsType = "tmpfs";
        options = [ "mode=0755" ];
      };
      "/nix/.ro-store" = share cfg.store;
      "/nix/.ro-state" = share cfg.state;
      "/nix" = lib.mkDefault (
        if cfg.layers == null then
          {
            device = "none";
            fsType = "tmpfs";
            options = [ "mode=0755" ];
          }
        else
          {
            device = cfg.layers;
            fsType = "ext4";
          }
      );
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
    # Nothing survives a power cut in memory.
    nix.settings.sync-before-registering = lib.mkDefault (cfg.layers != null);

    system.build.lowerStoreState = pkgs.callPackage ./lower-store.nix { } {
      storeContents = [ config.system.build.toplevel ];
    };
  };
}
