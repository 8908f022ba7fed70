# The system's own /nix/store as a local-overlay store: it is mounted before the
# switch of root, with the description in the initrd, since the system's own /etc
# does not exist yet.
{
  config,
  lib,
  utils,
  ...
}:
let
  cfg = config.services.overstore;
  stores = lib.filterAttrs (_: store: store.initrd.enable) cfg.enabled;
  served = lib.filterAttrs (_: store: store.servedBy == "system") stores;
in
{
  config = lib.mkIf (stores != { }) {
    boot.initrd.kernelModules = [ "overlay" ];
    boot.initrd.systemd = {
      storePaths = [ "${cfg.package}/bin/overstore" ];
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
          };
          # Everything that is needed for boot is mounted then.
          requires = [ "initrd-fs.target" ];
          after = [ "initrd-fs.target" ];
          # These look for the system in its store.
          before = [
            "initrd-find-nixos-closure.service"
            "initrd-nixos-activation.service"
            "initrd.target"
            "shutdown.target"
          ];
          conflicts = [ "shutdown.target" ];
          requiredBy = [ "initrd.target" ];
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            NotifyAccess = "main";
            TimeoutStartSec = "5min";
            ExecStart = utils.escapeSystemdExecArgs [
              "${cfg.package}/bin/overstore"
              "up"
              "--root"
              "/sysroot"
              "--description-here"
              name
            ];
          };
        };
      }) stores;
    };

    systemd.services = lib.mkMerge [
      # The running system is in it: it is neither stopped nor restarted.
      (lib.mapAttrs' (_: store: {
        name = "overstore-${store.unit}";
        value = {
          restartIfChanged = false;
          unitConfig.X-StopOnRemoval = false;
          serviceConfig.ExecStop = [ "" ];
        };
      }) stores)
      # So its daemon has to have the URL of what is mounted until the next boot, whatever
      # is described meanwhile.
      (lib.mkIf (served != { }) {
        nix-daemon.serviceConfig.EnvironmentFile = [
          ""
        ]
        ++ lib.mapAttrsToList (
          _: store: "/run/booted-system/etc/overstore/overstore-${store.unit}.env"
        ) served;
      })
    ];
  };
}
