# The system's own /nix/store is mounted before the switch of root, with the
# description in the initrd, since the system's own /etc does not exist yet.
{
  config,
  lib,
  utils,
  ...
}:
let
  cfg = config.services.overstore;
  stores = lib.filterAttrs (_: store: store.initrd.enable) cfg.enabled;
  # The merged store directory itself is mounted by the unit.
  needed =
    store:
    lib.unique (
      [
        (dirOf store.real)
        store.state
      ]
      ++ lib.filter (path: path != null) [
        store.settings.upper-layer
        store.settings.workdir
      ]
      ++ store.lowerPaths
    );
  paths = lib.concatMap needed (lib.attrValues stores);
  isBelow = directory: path: path == directory || lib.hasPrefix "${lib.removeSuffix "/" directory}/" path;
in
{
  # Every file system decides for itself, because what is mounted where is known
  # only when all of them are.
  options.fileSystems = lib.mkOption {
    type = lib.types.attrsOf (
      lib.types.submodule (
        { config, ... }:
        {
          config.neededForBoot = lib.mkIf (lib.any (isBelow config.mountPoint) paths) (lib.mkDefault true);
        }
      )
    );
  };

  config = lib.mkIf (stores != { }) {
    boot.initrd.kernelModules = [ "overlay" ];
    boot.initrd.systemd = {
      # The hook's path is found beside the program, where it is in the system to boot, too.
      storePaths = [
        "${cfg.package}/bin/overstore"
        "${cfg.package}/bin/overstore-remount"
      ];
      contents = lib.mapAttrs' (name: store: {
        name = "/etc/overstore/${name}.toml";
        value.source = store.file;
      }) stores;
      services = lib.mapAttrs' (name: store: {
        name = "overstore-initrd-${store.unit}";
        value = {
          description = "Local-overlay store ${name} of the system to boot";
          unitConfig = {
            DefaultDependencies = false;
            AssertPathExists = "/etc/initrd-release";
            # What it needs, and not initrd-fs.target: with system.etc.overlay, parts of
            # that come from the store.
            RequiresMountsFor = map (path: "/sysroot${path}") (needed store);
          };
          after = [ "systemd-modules-load.service" ];
          # Those between look for the system in its store.
          before = [
            "initrd-fs.target"
            "initrd-find-etc.service"
            "initrd-find-nixos-closure.service"
            "initrd-nixos-activation.service"
            "initrd.target"
            "shutdown.target"
          ];
          conflicts = [ "shutdown.target" ];
          requiredBy = [
            "initrd-fs.target"
            "initrd.target"
          ];
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            NotifyAccess = "main";
            TimeoutStartSec = "5min";
            ExecStart = utils.escapeSystemdExecArgs [
              "${cfg.package}/bin/overstore"
              "up"
              "--unit"
              "--root"
              "/sysroot"
              "--description-here"
              name
            ];
          };
        };
      }) stores;
    };
  };
}
