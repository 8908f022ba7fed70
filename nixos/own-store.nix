# The running system's own /nix/store as a local-overlay store: what keeps a system
# safe that was booted with it, and one that will be.
#
# What was booted is in /run/booted-system/etc/overstore/booted, whatever is
# described since: the store's description, and the daemon's URL (own.env).
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.services.overstore;
  stores = lib.filterAttrs (_: store: store.initrd.enable) cfg.enabled;
  names = lib.attrNames stores;
  booted = "/run/booted-system/etc/overstore/booted";
  bootedOnly = command: name: store: {
    name = "overstore-${command}@${store.unit}";
    value = {
      overrideStrategy = "asDropin";
      unitConfig.ConditionPathExists = "${booted}/${name}.toml";
    };
  };

  # Where nothing was mounted, `local` is the store that there is: root's Nix uses
  # the daemon from the first `switch` on.
  withoutStore = pkgs.writeText "overstore-not-booted.env" ''
    OVERSTORE_URL=local
  '';

  up =
    name:
    pkgs.writeShellScript "overstore-up-${name}" ''
      booted=${booted}/${name}.toml
      if [ ! -e "$booted" ]; then
          echo "The system was not booted with the store ${name}: nothing is mounted over its /nix/store." >&2
          echo "The store is there after a reboot." >&2
          exit 0
      fi
      exec ${cfg.package}/bin/overstore up "$booted"
    '';

  # nix-collect-garbage's options, as those of `overstore gc`; checks.nix names what it
  # does not have.
  collect =
    words:
    let
      more = count: collect (lib.drop count words);
    in
    if words == [ ] then
      [ ]
    else if lib.elem (lib.head words) deleteOld then
      [ "--delete-generations old" ] ++ more 1
    else if lib.head words == "--delete-older-than" && lib.length words > 1 then
      [ "--delete-generations ${lib.escapeShellArg (lib.elemAt words 1)}" ] ++ more 2
    else
      more 1;
  deleteOld = [
    "-d"
    "--delete-old"
  ];
  collectOptions = lib.filter (word: word != "") (lib.splitString " " config.nix.gc.options);

  # The arguments of a check are the new system and what is done with it.
  checkSwitch = ''
    case "''${2-}" in
        boot | check | dry-activate) exit 0 ;;
    esac
  ''
  + (
    if stores == { } then
      ''
        if [ -e ${booted}/own.env ]; then
            echo "The running system's /nix/store is a local-overlay store, and the new configuration has none."
            echo "Its Nix would take the upper layer for all there is, and a collection would delete the"
            echo "running system. Use 'nixos-rebuild boot' (or 'boot' of switch-to-configuration), and reboot."
            exit 1
        fi
      ''
    else
      lib.concatMapStrings (name: ''
        if [ ! -e ${booted}/${lib.escapeShellArg name}.toml ]; then
            echo "The new configuration has the local-overlay store ${name} at /nix/store, and the running system"
            echo "was not booted with it: it cannot be mounted over the store that the system runs from."
            echo "Use 'nixos-rebuild boot' (or 'boot' of switch-to-configuration), and reboot."
            exit 1
        fi
      '') names
  );
in
{
  config = lib.mkMerge [
    # In every system, to stop a switch to one without the store, too.
    (lib.optionalAttrs (options.system ? preSwitchChecks) {
      system.preSwitchChecks.overstore = checkSwitch;
    })
    # `build-vm` has file systems of its own, and a store that its host shares.
    (lib.optionalAttrs (options ? virtualisation && options.virtualisation ? vmVariant) (
      let
        without = lib.mkIf (stores != { }) {
          services.overstore.stores = lib.mapAttrs (_: _: { enable = lib.mkDefault false; }) stores;
        };
      in
      {
        virtualisation.vmVariant = without;
        virtualisation.vmVariantWithBootLoader = without;
      }
    ))
    (lib.mkIf (stores != { }) {
      # Otherwise root's Nix opens /nix/store as a plain local store, which knows
      # nothing of what is below: its collector would delete the running system.
      # The daemon has `--store`, which wins.
      nix.settings.store = lib.mkDefault "daemon";

      environment.etc = lib.mkMerge (
        lib.mapAttrsToList (name: store: {
          "overstore/booted/${name}.toml".source = store.file;
          "overstore/booted/own.env".source = config.environment.etc."overstore/overstore-${store.unit}.env".source;
        }) stores
      );

      systemd.services = lib.mkMerge [
        # Neither stopped nor restarted, and started with what was booted.
        (lib.mapAttrs' (name: store: {
          name = "overstore-${store.unit}";
          value = {
            restartIfChanged = false;
            unitConfig.X-StopOnRemoval = false;
            serviceConfig = {
              ExecStart = [
                ""
                "${up name}"
              ];
              ExecStop = [ "" ];
            };
          };
        }) stores)
        # Nor is anything collected, or refreshed, of a store that was not booted.
        (lib.mapAttrs' (bootedOnly "gc") (lib.filterAttrs (_: store: store.collected) stores))
        (lib.mapAttrs' (bootedOnly "refresh") (lib.filterAttrs (_: store: store.refreshed) stores))
        {
          # The last file counts: the URL of what is mounted, until the next boot.
          nix-daemon.serviceConfig.EnvironmentFile = [
            "${withoutStore}"
            "-${booted}/own.env"
          ];
          # Nix's own collector usually fails over such a store: docs/gc.md.
          nix-gc = {
            path = [ config.nix.package ];
            script = lib.mkForce (
              lib.concatMapStrings (name: ''
                if [ -e ${booted}/${name}.toml ]; then
                    exec ${cfg.package}/bin/overstore gc ${
                      lib.concatStringsSep " " ([ "${booted}/${name}.toml" ] ++ collect collectOptions)
                    }
                fi
              '') names
              + ''
                exec nix-collect-garbage ${config.nix.gc.options}
              ''
            );
          };
          # Nix's own removes upper copies without comparing anything: docs/gc.md.
          nix-optimise.serviceConfig.ExecStart = lib.mkForce (
            pkgs.writeShellScript "overstore-optimise" (
              lib.concatMapStrings (name: ''
                if [ -e ${booted}/${name}.toml ]; then
                    exec ${cfg.package}/bin/overstore optimise ${booted}/${name}.toml
                fi
              '') names
              + ''
                exec ${config.nix.package.out}/bin/nix-store --optimise
              ''
            )
          );
          # nixpkgs' images load their registration into the system's database at
          # boot. Here it would be a copy of what the lower store's has.
          register-nix-paths.enable = lib.mkForce false;
        }
      ];
    })
  ];
}
