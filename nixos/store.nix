# The options of one store.
{ pkgs }:
{
  name,
  config,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  format = pkgs.formats.toml { };
  anybody = [ "*" ];
in
{
  options = {
    enable = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the system has this store.";
    };

    settings = mkOption {
      type = types.submodule {
        freeformType = format.type;
        options = import ./settings.nix { inherit lib; };
      };
      default = { };
      example = {
        root = "/mnt/example/merged-store";
        lower-store = "/mnt/example/store-a";
        upper-layer = "/mnt/example/store-b";
        workdir = "/mnt/example/workdir";
      };
      description = ''
        The store's description, which becomes {file}`/etc/overstore/NAME.toml`.
        The program checks it when the system is built: a mistake stops the build.
      '';
    };

    serve = mkOption {
      type = types.nullOr (
        types.enum [
          "system"
          "own"
        ]
      );
      default = null;
      example = "own";
      description = ''
        Which nix-daemon serves the store: the system's (`"system"`), or one of the
        store's own (`"own"`), which listens at {file}`/run/overstore/NAME/socket`
        unless `settings.daemon.socket` says where. {command}`overstore url --client NAME`
        prints what its users set as their store.
      '';
    };

    allowedUsers = mkOption {
      type = types.listOf types.str;
      default = anybody;
      example = [ "alice" ];
      description = ''
        The users who may use the store through its daemon; `"*"` for everybody.
        With a daemon of the store's own, the directory of its socket admits
        nobody else; with the system's daemon it is
        {option}`nix.settings.allowed-users`.
      '';
    };

    allowedGroups = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "developers" ];
      description = "The groups whose members may use the store through its daemon.";
    };

    warm = {
      paths = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "/run/current-system" ];
        description = ''
          Paths of the lower store, or links to them. The metadata of their closures
          is copied at boot, all at once, where Nix would do it path by path
          whenever it first meets one.
        '';
      };
      roots = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "/nix/.ro-store/nix/var/nix/gcroots" ];
        description = "Directories of roots or profiles, of which the same is done.";
      };
      all = mkOption {
        type = types.bool;
        default = false;
        description = "Whether it is done with everything that is valid in the lower store.";
      };
      keep = mkOption {
        type = types.bool;
        default = true;
        description = "Whether Nix's collector is kept from undoing it.";
      };
    };

    initrd.enable = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether the store is the system's own {file}`/nix/store`, which is mounted in
        the initrd, before the system is there. Needs
        {option}`boot.initrd.systemd.enable`, and a lower store that holds the system.
        A change takes effect at the next boot: {command}`nixos-rebuild boot`.
      '';
    };

    daemon = {
      environment = mkOption {
        type = types.attrsOf types.str;
        default = { };
        example = {
          TMPDIR = "/var/tmp";
        };
        description = ''
          Environment variables of the daemon of the store's own, beside those of the
          system's daemon.
        '';
      };
      serviceConfig = mkOption {
        type = types.attrsOf types.unspecified;
        default = { };
        example = {
          CPUSchedulingPolicy = "idle";
          MemoryMax = "8G";
        };
        description = ''
          Further settings of the daemon of the store's own, such as its scheduling
          and its limits (see {manpage}`systemd.exec(5)` and
          {manpage}`systemd.resource-control(5)`). Its scheduling is that of the
          system's daemon unless it is set here.
        '';
      };
    };

    client.enable = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether the shells of the users who may use the store through its daemon have
        all of their Nix use it: {env}`NIX_REMOTE` is set when they log in, unless it
        is set already. With {option}`allowedUsers` of `"*"` that is everybody but root.
      '';
    };

    user = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "alice";
      description = ''
        The one user whose store it is. The directories that hold the merged store and
        the layers are made root's; the first is entered by this user alone, the
        second by nobody but root, and `allowedUsers` names this user. Needs a `root`,
        and directories that are named as the store is.
      '';
    };

    file = mkOption {
      type = types.path;
      internal = true;
      description = "The configuration file.";
    };
    unit = mkOption {
      type = types.str;
      internal = true;
      description = "The store's name as part of a unit's.";
    };
    servedBy = mkOption {
      type = types.nullOr types.str;
      internal = true;
      description = "As `serve`, also where `settings.daemon` says it.";
    };
    collected = mkOption {
      type = types.bool;
      internal = true;
      description = "Whether its garbage is collected on schedule: whether overstore makes units for that.";
    };
    refreshed = mkOption {
      type = types.bool;
      internal = true;
      description = "Whether it is refreshed on schedule: whether overstore makes units for that.";
    };
    real = mkOption {
      type = types.str;
      internal = true;
      description = "The merged store directory.";
    };
    state = mkOption {
      type = types.str;
      internal = true;
      description = "The state directory.";
    };
    lowerPaths = mkOption {
      type = types.listOf types.str;
      internal = true;
      description = "Where the lower store is, as far as the description says it as plain paths.";
    };
  };

  config = {
    settings.daemon = {
      serve = lib.mkIf (config.serve == "system") true;
      socket = lib.mkIf (config.serve == "own") (lib.mkDefault "/run/overstore/${name}/socket");
    };
    file = import ./description.nix { inherit lib pkgs; } name config.settings;
    # As systemd-escape(1) has it; the names there can be are in checks.nix.
    unit = lib.replaceStrings [ "-" ] [ "\\x2d" ] name;
    servedBy =
      if config.settings.daemon.serve == true then
        "system"
      else if config.settings.daemon.socket != null then
        "own"
      else
        null;
    collected =
      let
        inherit (config.settings) gc;
      in
      lib.any (value: value != null) [
        gc.schedule
        gc.older-than
        gc.min-free
        gc.max-free
      ];
    refreshed = config.settings.refresh.schedule != null;
    real =
      if config.settings.real != null then
        config.settings.real
      else if config.settings.root != null then
        "${config.settings.root}/nix/store"
      else if config.settings.store != null then
        config.settings.store
      else
        "/nix/store";
    state =
      if config.settings.state != null then
        config.settings.state
      else if config.settings.root != null then
        "${config.settings.root}/nix/var/nix"
      else
        "/nix/var/nix";
    # A path is a store with that root.
    lowerPaths =
      let
        url = config.settings.lower-store;
        inherit (config.settings.lower) real state publication;
        root = lib.head (lib.splitString "?" (if url == null then "" else url));
        below = directory: lib.optional (lib.hasPrefix "/" root) "${lib.removeSuffix "/" root}${directory}";
      in
      (if real != null then [ real ] else below "/nix/store")
      ++ (if state != null then [ state ] else below "/nix/var/nix")
      ++ lib.optional (publication != null) publication;
    allowedUsers = lib.mkIf (config.user != null) (lib.mkDefault [ config.user ]);
  };
}
