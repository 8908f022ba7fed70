# The units of the stores. overstore makes them, when the system is built: NixOS
# compares a new system's units with the old one's and stops, starts and restarts
# accordingly, which it cannot do with units that a generator makes later. A
# mistake in a description stops the build with overstore's own message.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.overstore;
  stores = cfg.enabled;
  served = lib.filterAttrs (_: store: store.servedBy != null) stores;
  own = lib.filterAttrs (_: store: store.servedBy == "own") stores;
  system = lib.filterAttrs (_: store: store.servedBy == "system") stores;
  collected = lib.filterAttrs (_: store: store.collected) stores;
  refreshed = lib.filterAttrs (_: store: store.refreshed) stores;
  # The others' daemon goes on with what was mounted at boot: own-store.nix.
  changeable = lib.filterAttrs (_: store: !store.initrd.enable) system;

  units = pkgs.runCommand "overstore-units" { preferLocalBuild = true; } ''
    ${cfg.buildProgram} units \
      --program ${cfg.package}/bin/overstore \
      --nix-daemon ${config.nix.package}/bin/nix-daemon \
      --variables /etc/overstore \
      --output $out/lib/systemd/system \
      ${lib.escapeShellArgs (lib.mapAttrsToList (_: store: store.file) stores)}
  '';
  daemon = config.systemd.services.nix-daemon or { };
  variables = store: "overstore-${store.unit}.env";

  forEach = stores: render: lib.listToAttrs (lib.mapAttrsToList render stores);
  # systemd.packages brings the unit; this adds to it.
  addTo = name: value: {
    inherit name;
    value = value // {
      overrideStrategy = "asDropin";
    };
  };
in
{
  config = lib.mkIf (stores != { }) {
    environment.systemPackages = [ cfg.package ];
    environment.etc = lib.mkMerge [
      (forEach stores (
        name: store: {
          name = "overstore/${name}.toml";
          value.source = store.file;
        }
      ))
      # Not from where the units are: a change of one store would be one of all.
      (forEach served (
        _: store: {
          name = "overstore/${variables store}";
          value.source = "${units}/lib/systemd/system/${variables store}";
        }
      ))
    ];

    systemd.packages = [ units ];

    systemd.services = lib.mkMerge [
      (forEach stores (
        _: store:
        addTo "overstore-${store.unit}" {
          wantedBy = [ "multi-user.target" ];
          # NixOS stops it with the old description and starts it with the new one.
          restartTriggers = [ store.file ];
        }
      ))
      (forEach own (
        _: store:
        addTo "nix-daemon@${store.unit}" {
          # As the system's daemon has it.
          path = daemon.path or [ ];
          environment = removeAttrs (daemon.environment or { }) [ "PATH" ] // store.daemon.environment;
          serviceConfig = lib.mkMerge [
            (lib.mapAttrs (_: lib.mkDefault) (
              lib.filterAttrs (_: value: value != null) {
                CPUSchedulingPolicy = config.nix.daemonCPUSchedPolicy or null;
                IOSchedulingClass = config.nix.daemonIOSchedClass or null;
                IOSchedulingPriority = config.nix.daemonIOSchedPriority or null;
              }
            ))
            store.daemon.serviceConfig
          ];
          restartTriggers = [
            store.file
            config.environment.etc."nix/nix.conf".source
          ];
        }
      ))
      (lib.mkIf (changeable != { }) {
        nix-daemon.restartTriggers = lib.mapAttrsToList (_: store: store.file) changeable;
      })
    ];

    systemd.sockets = forEach own (
      _: store:
      addTo "nix-daemon@${store.unit}" {
        wantedBy = [ "sockets.target" ];
      }
    );

    systemd.timers =
      forEach collected (
        _: store:
        addTo "overstore-gc@${store.unit}" {
          wantedBy = [ "timers.target" ];
        }
      )
      // forEach refreshed (
        _: store:
        addTo "overstore-refresh@${store.unit}" {
          wantedBy = [ "timers.target" ];
        }
      );
  };
}
