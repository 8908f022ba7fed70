# Evaluates configurations with the module, and makes of them the files that NixOS
# would put into /etc and the initrd, as one derivation.
{
  lib ? import (builtins.getEnv "OVERSTORE_NIXPKGS" + "/lib"),
  # Another configuration.
  file ? { },
}:
let
  pkgs = import ./pkgs.nix { inherit lib; };
  evaluate =
    module:
    (lib.evalModules {
      specialArgs.utils = import ./utils.nix { inherit lib; };
      modules = [
        ../../nixos
        ./stubs.nix
        module
      ];
    }).config;

  # What is said about a configuration.
  said = config: {
    assertions = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
    inherit (config) warnings;
  };

  words =
    name: values:
    lib.optionalString (values != [ ]) "${name}=${lib.concatStringsSep " " (map toString values)}\n";
  pairs =
    values:
    lib.concatStrings (
      lib.mapAttrsToList (
        name: value: lib.concatMapStrings (one: "${name}=${toText one}\n") (lib.toList value)
      ) values
    );
  toText = value: if lib.isBool value then lib.boolToString value else toString value;
  # As nixos/lib/systemd-lib.nix renders them, in the order that is used here.
  unitText =
    unit:
    "[Unit]\n"
    + lib.optionalString (unit.description != "") "Description=${unit.description}\n"
    + words "Documentation" unit.documentation
    + words "Requires" unit.requires
    + words "After" unit.after
    + words "Before" unit.before
    + words "Conflicts" unit.conflicts
    + words "X-Restart-Triggers" (unit.restartTriggers or [ ])
    + pairs unit.unitConfig
    + lib.optionalString (unit ? serviceConfig) (
      "\n[Service]\n"
      + pairs (lib.optionalAttrs (unit.path != [ ]) { Environment = "PATH=${lib.makeBinPath unit.path}"; })
      + pairs { Environment = lib.mapAttrsToList (name: value: "${name}=${value}") unit.environment; }
      + lib.optionalString (!(unit.restartIfChanged or true)) "X-RestartIfChanged=false\n"
      + lib.optionalString (!(unit.stopIfChanged or true)) "X-StopIfChanged=false\n"
      + pairs unit.serviceConfig
    );

  # Shell commands that put units into a directory.
  put =
    directory: suffix: units:
    lib.concatStrings (
      lib.mapAttrsToList (
        name: unit:
        let
          file =
            "${directory}/${name}.${suffix}"
            + lib.optionalString (unit.overrideStrategy == "asDropin" || name == "nix-daemon") ".d/overrides.conf";
          link = kind: target: ''
            mkdir -p "${directory}/${target}.${kind}"
            ln -s '../${name}.${suffix}' "${directory}/${target}.${kind}/"'${name}.${suffix}'
          '';
          quoted = lib.escapeShellArg file;
        in
        ''
          mkdir -p "$(dirname ${quoted})"
        ''
        + (
          if unit.enable then
            "cp ${pkgs.writeText "unit" (unitText unit)} ${quoted}\n"
          else
            "ln -s /dev/null ${quoted}\n"
        )
        + lib.concatMapStrings (link "wants") unit.wantedBy
        + lib.concatMapStrings (link "requires") unit.requiredBy
      ) units
    );

  tree =
    config:
    pkgs.runCommand "tree" { } (
      ''
        mkdir -p $out; cd $out
        mkdir -p etc/systemd/system etc/overstore
        for package in ${toString config.systemd.packages}; do
            cp -R --no-preserve=mode "$package"/lib/systemd/system/. etc/systemd/system/
        done
        # NixOS takes no such links from packages.
        rm -rf etc/systemd/system/*.wants
      ''
      # Of NixOS's own units only what they run is ours.
      + put "etc/systemd/system" "service" (
        removeAttrs config.systemd.services [
          "nix-gc"
          "nix-optimise"
        ]
      )
      + lib.optionalString (config.systemd.services ? nix-optimise) ''
        cp ${config.systemd.services.nix-optimise.serviceConfig.ExecStart} nix-optimise
      ''
      + lib.optionalString (config.systemd.services ? nix-gc) ''
        cp ${pkgs.writeText "script" config.systemd.services.nix-gc.script} nix-gc
      ''
      + put "etc/systemd/system" "socket" config.systemd.sockets
      + put "etc/systemd/system" "timer" config.systemd.timers
      + lib.concatStrings (
        lib.mapAttrsToList (
          name: entry: ''
            mkdir -p ${lib.escapeShellArg "etc/${dirOf name}"}
            cp ${entry.source} ${lib.escapeShellArg "etc/${name}"}
          ''
        ) (lib.filterAttrs (name: _: lib.hasPrefix "overstore/" name) config.environment.etc)
      )
      + lib.optionalString (config.systemd.tmpfiles.rules != [ ]) ''
        mkdir -p etc/tmpfiles.d
        cp ${
          pkgs.writeText "rules" (lib.concatMapStrings (rule: rule + "\n") config.systemd.tmpfiles.rules)
        } etc/tmpfiles.d/00-nixos.conf
      ''
      + ''
        mkdir -p etc/nix
        cp ${
          pkgs.writeText "nix.conf" (
            lib.optionalString (config.nix.settings.allowed-users != [ "*" ]) ''
              allowed-users = ${toString config.nix.settings.allowed-users}
            ''
            + lib.optionalString (config.nix.settings ? store) ''
              store = ${config.nix.settings.store}
            ''
          )
        } etc/nix/nix.conf
        cp ${pkgs.writeText "check" config.system.preSwitchChecks.overstore} pre-switch-check
      ''
      + lib.optionalString (config.environment.extraInit != "") ''
        cp ${pkgs.writeText "init" config.environment.extraInit} etc/set-environment
      ''
      + put "initrd/etc/systemd/system" "service" config.boot.initrd.systemd.services
      + lib.concatStrings (
        lib.mapAttrsToList (name: entry: ''
          mkdir -p initrd${dirOf name}
          cp ${entry.source} initrd${name}
        '') config.boot.initrd.systemd.contents
      )
      # What these name in the store and is made by the module: scripts, variables.
      + ''
        for path in $(grep -rhoE '/nix/store/[a-z0-9]{32}-overstore-(up-|not-booted|client-)[^ <;]*' etc | sort -u); do
            mkdir -p store
            cp --preserve=mode "$path" "store/$(basename "$path" | cut -c 34-)"
        done
      ''
    );

  # One of them has a whole NixOS in it: whole.nix.
  examples = lib.mapAttrs (_: evaluate) (
    removeAttrs (import ./configurations.nix { inherit lib; }) [ "micro-vm-host" ]
  );

  mistakes = import ./mistakes.nix;
in
{
  examples = {
    said = lib.mapAttrs (_: said) examples;
    trees = lib.mapAttrs (_: tree) examples;
    neededForBoot = lib.mapAttrs (
      _: config: lib.attrNames (lib.filterAttrs (_: one: one.neededForBoot) config.fileSystems)
    ) examples;
  };
  mistakes = lib.mapAttrs (_: mistake: {
    inherit (mistake) says;
    said = said (evaluate mistake.configuration);
  }) mistakes;
  # For a description that only the program finds wrong.
  other = tree (evaluate file);
  options =
    let
      inherit
        (lib.evalModules {
          specialArgs.utils = import ./utils.nix { inherit lib; };
          modules = [
            ../../nixos
            ./stubs.nix
          ];
        })
        options
        ;
    in
    lib.filter (option: option.visible && !option.internal) (
      lib.optionAttrSetToDocList options.services.overstore
    );
}
