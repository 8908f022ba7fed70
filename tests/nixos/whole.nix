# What the whole of nixpkgs makes of the project: OVERSTORE_NIXPKGS names one. Nothing
# of it is built.
{
  nixpkgs ? /. + builtins.getEnv "OVERSTORE_NIXPKGS",
}:
let
  pkgs = import nixpkgs {
    system = builtins.currentSystem;
    config = { };
    overlays = [ ];
  };
  inherit (pkgs) lib;
  package = ../../pkgs/by-name/ov/overstore/package.nix;

  evaluate =
    module:
    (import (nixpkgs + "/nixos/lib/eval-config.nix") {
      system = null;
      modules = [
        ../../nixos
        module
        {
          nixpkgs.pkgs = pkgs;
          # Half of what a whole system takes, and done with `flake`.
          documentation.nixos.enable = lib.mkForce false;
          boot.loader.grub.enable = lib.mkForce false;
          fileSystems."/" = lib.mkOverride 1400 {
            device = "/dev/disk/by-label/root";
            fsType = "ext4";
          };
          system.stateVersion = lib.trivial.release;
        }
      ];
    }).config;

  examples = import ./configurations.nix { inherit lib; };

  said = config: {
    assertions = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
    inherit (config) warnings;
  };
  # What this project has to do with, of all units.
  isOurs =
    name: _: lib.hasInfix "overstore" name || lib.hasPrefix "nix-daemon@" name || name == "nix-daemon.service";
  rendered =
    units:
    lib.mapAttrs (_: unit: {
      inherit (unit)
        text
        overrideStrategy
        requiredBy
        wantedBy
        ;
    }) (lib.filterAttrs (_: unit: unit.enable) units);
  initrd = config: {
    # With the mounts that are made of it by systemd's own generator.
    units = rendered config.boot.initrd.systemd.units;
    fstab = lib.concatMapStrings (
      one:
      "${if one.device == null then "none" else one.device} ${one.mountPoint} ${one.fsType} "
      + "${lib.concatStringsSep "," one.options} 0 0\n"
    ) (lib.filter (one: one.neededForBoot || one.mountPoint == "/") (lib.attrValues config.fileSystems));
  };
in
{
  # The whole system, and what of it is compared with tests/nixos/evaluate.nix.
  examples = lib.mapAttrs (
    _: file:
    let
      config = evaluate file;
    in
    {
      said = said config;
      system = config.system.build.toplevel.drvPath;
      units = rendered (lib.filterAttrs isOurs config.systemd.units);
      initrdUnits = rendered (lib.filterAttrs isOurs config.boot.initrd.systemd.units);
      etc = lib.filter (lib.hasPrefix "overstore/") (lib.attrNames config.environment.etc);
      tmpfiles = config.systemd.tmpfiles.rules;
      store = config.nix.settings.store or null;
      collects = config.systemd.services.nix-gc.script;
      optimises = baseNameOf (lib.head (lib.toList config.systemd.services.nix-optimise.serviceConfig.ExecStart));
      registers = config.systemd.units."register-nix-paths.service".enable or null;
    }
  ) examples;

  # What the module does to a system beside units and files: to an example that is a specialisation of
  # another system, too, and to the virtual machine that `build-vm` makes of it.
  decided =
    let
      config = evaluate {
        imports = [ examples.netboot ];
        specialisation.other.configuration.environment.variables.OTHER = "1";
      };
      other = config.specialisation.other.configuration;
      inherit (config.virtualisation) vmVariant;
    in
    {
      neededForBoot = lib.attrNames (lib.filterAttrs (_: one: one.neededForBoot) config.fileSystems);
      checks = map (one: one.system.preSwitchChecks ? overstore) [
        config
        other
      ];
      storesOfMachine = lib.attrNames vmVariant.services.overstore.enabled;
      objectionsOfMachine = said vmVariant;
      machine = config.system.build.vm.drvPath;
      # Who upgrades by itself does it by the same programs.
      upgrade =
        (evaluate {
          imports = [ examples.netboot ];
          system.autoUpgrade = {
            enable = true;
            operation = "switch";
          };
        }).systemd.services.nixos-upgrade.script;
    };

  # The initrd of one of them, as it is and with /etc as an overlay, with and without
  # shell scripts that find the system.
  initrds =
    lib.mapAttrs
      (
        _: more:
        initrd (evaluate {
          imports = [
            examples.netboot
            more
          ];
        })
      )
      {
        plain = { };
        etc-overlay = {
          system.etc.overlay.enable = true;
          systemd.sysusers.enable = true;
        };
        nixos-init = {
          system.etc.overlay.enable = true;
          systemd.sysusers.enable = true;
          system.nixos-init.enable = true;
        };
        perlless.imports = [ (nixpkgs + "/nixos/modules/profiles/perlless.nix") ];
      };

  # The objections of nixos/checks.nix, made to the same configurations.
  mistakes = lib.mapAttrs (
    _: mistake:
    let
      isOurs = lib.hasPrefix "services.overstore";
      it = said (evaluate mistake.configuration);
    in
    {
      assertions = lib.filter isOurs it.assertions;
      warnings = lib.filter isOurs it.warnings;
    }
  ) (import ./mistakes.nix);

  # The test scripts of the virtual machines, each with the types that NixOS's driver
  # has for them.
  scripts =
    let
      types = builtins.readFile (nixpkgs + "/nixos/lib/test-script-prepend.py");
      # As the driver has it in this version, or had it before.
      typed =
        name:
        if lib.hasInfix "create_fake_qemu_machine" types then
          "${name} = create_fake_qemu_machine()\n"
        else
          "${name}: Machine\n";
    in
    lib.mapAttrs (
      _: test:
      types
      + lib.concatMapStrings typed (lib.attrNames test.nodes)
      + test.config.testScriptString
    ) (lib.filterAttrs (_: test: test ? nodes) (import ../../vm-tests/nixos { inherit pkgs; }));

  # The options that tests/nixos/stubs.nix stands for, there and here: what each takes, what two
  # definitions of it become, and what it is without one.
  stubs =
    let
      options =
        (import (nixpkgs + "/nixos/lib/eval-config.nix") {
          system = null;
          modules = [ { nixpkgs.pkgs = pkgs; } ];
        }).options;
      stubbed =
        (lib.evalModules {
          specialArgs.utils = import ./utils.nix { inherit lib; };
          modules = [
            ../../nixos
            ./stubs.nix
          ];
        }).options;
    in
    import ./declarations.nix { inherit lib; } {
      stubs = removeAttrs stubbed [
        "_module"
        "services"
      ];
      real = options;
    };

  # What package.nix says of itself, as nixpkgs' own checks see it.
  packaged =
    let
      it = pkgs.callPackage package { };
    in
    {
      inherit (it) version;
      meta = {
        inherit (it.meta)
          available
          description
          mainProgram
          platforms
          ;
        licenses = map (one: one.spdxId) it.meta.license;
      };
      update = lib.isList it.updateScript || it.updateScript ? command;
      tests = lib.attrNames (import ../../default.nix { inherit pkgs; }).overstore.tests;
      checksVersion = lib.elem "version-check-hook" (
        map lib.getName (lib.filter lib.isDerivation it.nativeBuildInputs)
      );
    };

  # What `nix flake check` evaluates.
  flake =
    let
      outputs = (import ../../flake.nix).outputs {
        self = { };
        nixpkgs = {
          inherit lib;
          legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
            system: if system == builtins.currentSystem then pkgs else import nixpkgs { inherit system; }
          );
        };
      };
      paths = lib.mapAttrs (_: package: package.drvPath);
      here = builtins.currentSystem;
    in
    {
      packages = lib.mapAttrs (_: paths) outputs.packages;
      checks = paths outputs.checks.${here};
      devShells = paths outputs.devShells.${here};
      formatter = outputs.formatter.${here}.drvPath;
      overlay = (pkgs.extend outputs.overlays.default).overstore.drvPath;
      modules = lib.mapAttrs (_: toString) outputs.nixosModules;
      cross = (pkgs.pkgsCross.aarch64-multiplatform.callPackage package { }).drvPath;
    };
}
