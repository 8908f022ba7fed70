# What the module meets in NixOS, as far as it does: the declarations of the
# options that it sets and reads, what NixOS sets there itself, and a `pkgs` whose
# few functions make real derivations with nothing but a shell.
{ lib, config, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  flag = option types.bool;
  names = option (types.listOf types.str) [ ];
  lines = option (types.listOf types.str) [ ];
  # A setting of a unit: lists of several definitions are one, and else they agree.
  setting = types.raw // {
    merge =
      location: definitions:
      if lib.any (one: lib.isList one.value) definitions then
        lib.concatMap (one: lib.toList one.value) definitions
      else
        lib.mergeEqualOption location definitions;
  };
  section = option (types.attrsOf setting) { };

  unit = {
    options = {
      enable = flag true;
      description = option types.str "";
      documentation = names;
      overrideStrategy = option (types.enum [
        "asDropin"
        "asDropinIfExists"
      ]) "asDropinIfExists";
      wantedBy = names;
      requiredBy = names;
      requires = names;
      after = names;
      before = names;
      conflicts = names;
      unitConfig = section;
    };
  };
  # What only the units of a system have that is switched to, and not those of an initrd.
  restarted.options.restartTriggers = option (types.listOf (types.either types.path types.str)) [ ];
  service = {
    options = {
      serviceConfig = section;
      environment = option (types.attrsOf types.str) { };
      path = option (types.listOf (types.either types.package types.str)) [ ];
      script = option types.lines "";
    };
  };
  restartedService.options = {
    restartIfChanged = flag true;
    stopIfChanged = flag true;
  };
  units = parts: option (types.attrsOf (types.submodule parts)) { };
  # A list of modules, which becomes what each of them is to be.
  modules = option (types.coercedTo (types.listOf types.str) (lib.flip lib.genAttrs (_: true)) (
    types.attrsOf types.bool
  )) { };
  pkgs = import ./pkgs.nix { inherit lib; };
  inherit (pkgs) package;
in
{
  options = {
    assertions = mkOption { type = types.listOf types.raw; };
    warnings = option (types.listOf types.str) [ ];
    environment.systemPackages = option (types.listOf types.package) [ ];
    environment.extraInit = option types.lines "";
    environment.etc = option (types.attrsOf (
      types.submodule {
        options.source = mkOption { type = types.path; };
      }
    )) { };
    systemd = {
      packages = option (types.listOf types.package) [ ];
      services = units [
        unit
        restarted
        service
        restartedService
      ];
      sockets = units [
        unit
        restarted
      ];
      timers = units [
        unit
        restarted
      ];
      tmpfiles.rules = lines;
    };
    nix = {
      enable = flag true;
      daemonCPUSchedPolicy = option types.str "other";
      daemonIOSchedClass = option types.str "best-effort";
      daemonIOSchedPriority = option types.int 4;
      package = option types.package (package "nix" "2.31.2" "/nix-package");
      extraOptions = option types.lines "";
      gc.automatic = flag false;
      gc.options = option types.singleLineStr "";
      settings = mkOption {
        type = types.submodule {
          freeformType = types.attrsOf types.raw;
          options.allowed-users = option (types.listOf types.str) [ "*" ];
        };
        default = { };
      };
    };
    fileSystems = option (types.attrsOf (
      types.submodule (
        { name, ... }:
        {
          options = {
            mountPoint = option types.str name;
            device = option (types.nullOr types.str) null;
            fsType = mkOption { type = types.str; };
            options = option (types.listOf types.str) [ "defaults" ];
            neededForBoot = flag false;
          };
        }
      )
    )) { };
    boot = {
      postBootCommands = option types.lines "";
      initrd = {
        kernelModules = modules;
        availableKernelModules = modules;
        systemd = {
          enable = flag true;
          storePaths = lines;
          contents = option (types.attrsOf types.raw) { };
          services = units [
            unit
            service
          ];
        };
      };
      kernelParams = names;
      loader.grub.enable = flag true;
    };
    users.users = option (types.attrsOf types.raw) { };
    system.build = option (types.attrsOf types.raw) { };
    system.preSwitchChecks = option (types.attrsOf types.str) { };
    virtualisation.vmVariant = option types.raw { };
    virtualisation.vmVariantWithBootLoader = option types.raw { };
    networking.hostName = option types.str "nixos";
  };

  config = {
    environment.etc."nix/nix.conf".source = builtins.toFile "nix.conf" "";
    systemd.services.nix-daemon = {
      path = [ config.nix.package ];
      environment.CURL_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt";
      serviceConfig = {
        CPUSchedulingPolicy = config.nix.daemonCPUSchedPolicy;
        IOSchedulingClass = config.nix.daemonIOSchedClass;
        IOSchedulingPriority = config.nix.daemonIOSchedPriority;
      };
      stopIfChanged = false;
    };
    services.overstore.package = package "overstore" "0.1.0" "/usr";
    system.build.toplevel = package "nixos-system" "test" "/system";

    _module.args = { inherit pkgs; };
  };
}
