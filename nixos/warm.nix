# Copying metadata at boot.
{
  config,
  lib,
  utils,
  ...
}:
let
  cfg = config.services.overstore;
  stores = lib.filterAttrs (
    _: store: store.warm.all || store.warm.paths != [ ] || store.warm.roots != [ ]
  ) cfg.enabled;
  # A system's own store is what was booted: own-store.nix.
  booted = name: "/run/booted-system/etc/overstore/booted/${name}.toml";
  arguments =
    name:
    { file, warm, ... }@store:
    [
      "warm"
      (if store.initrd.enable then booted name else file)
    ]
    ++ lib.optional warm.keep "--keep"
    ++ lib.optional warm.all "--all"
    ++ lib.concatMap (directory: [
      "--roots"
      directory
    ]) warm.roots
    ++ warm.paths;
in
{
  systemd.services = lib.mapAttrs' (name: store: {
    name = "overstore-warm-${store.unit}";
    value = {
      description = "Metadata of the local-overlay store ${name}, copied";
      documentation = [ "man:overstore-warm(1)" ];
      requires = [ "overstore-${store.unit}.service" ];
      after = [ "overstore-${store.unit}.service" ];
      wantedBy = [ "multi-user.target" ];
      unitConfig = lib.optionalAttrs store.initrd.enable { ConditionPathExists = booted name; };
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = utils.escapeSystemdExecArgs (
          [ "${cfg.package}/bin/overstore" ] ++ arguments name store
        );
      };
    };
  }) stores;
}
