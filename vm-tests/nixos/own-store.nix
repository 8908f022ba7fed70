# A machine whose own /nix/store is a local-overlay store, mounted in the initrd,
# over a squashfs image; its layers are on a disk that stays.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  # What the scenarios expect in the lower store.
  lower = rec {
    text = builtins.path {
      path = ./text;
      name = "text";
    };
    lib = pkgs.runCommand "lower-lib" { } ''
      mkdir $out; echo "said by the lower library" >$out/words
    '';
    app = pkgs.runCommand "lower-app" { } ''
      mkdir -p $out/bin
      printf '#!/bin/sh\nexec cat ${lib}/words\n' >$out/bin/lower-app
      chmod +x $out/bin/lower-app
    '';
    twice = pkgs.runCommand "lower-twice" { } ''
      mkdir $out; echo equal >$out/one; echo equal >$out/two
    '';
  };
  image = pkgs.callPackage ../../nixos/lower-store.nix { } {
    type = "squashfs";
    storeContents = [ config.system.build.toplevel ] ++ lib.attrValues lower;
  };
in
{
  boot.initrd.systemd.enable = true;
  boot.initrd.availableKernelModules = [ "squashfs" ];

  environment.etc."overstore-test/paths".text = lib.concatLines (
    lib.mapAttrsToList (name: path: "lower_${name}=${path}") lower
  );
  environment.variables.OVERSTORE_TEST_PATHS = "/etc/overstore-test/paths";

  virtualisation = {
    mountHostNixStore = false;
    useNixStoreImage = false;
    writableStore = false;
    emptyDiskImages = [
      {
        size = 2048;
        driveConfig.deviceExtraOpts.serial = "data";
      }
    ];
    qemu.drives = [
      {
        name = "lower";
        file = "${image}";
        driveExtraOpts = {
          format = "raw";
          readonly = "on";
        };
        deviceExtraOpts.serial = "lower";
      }
    ];
    fileSystems = {
      "/srv/lower" = {
        device = "/dev/disk/by-id/virtio-lower";
        fsType = "squashfs";
      };
      "/data" = {
        device = "/dev/disk/by-id/virtio-data";
        fsType = "ext4";
        autoFormat = true;
      };
    };
  };
  # Older versions of nixpkgs load the system's registration here. Newer ones have a
  # service for it, which the module turns off.
  boot.postBootCommands = lib.mkForce "";

  services.overstore.stores.system = {
    initrd.enable = true;
    serve = "system";
    settings = {
      lower-store = "/srv/lower";
      lower.read-only = true;
      upper-layer = "/data/upper";
      workdir = "/data/work";
    };
  };
}
