# Generations of live stores, made by their owner for those that have them below theirs. As with
# stores, overstore makes the units when the system is built.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.overstore;
  publications = lib.filterAttrs (_: publication: publication.enable) cfg.publications;
  scheduled = lib.filterAttrs (_: publication: publication.settings.schedule != null) publications;
  inherit (lib) mkOption types;

  publication =
    { name, config, ... }:
    {
      options = {
        enable = mkOption {
          type = types.bool;
          default = true;
          description = "Whether the system makes this publication.";
        };
        settings = mkOption {
          type = types.submodule {
            freeformType = (pkgs.formats.toml { }).type;
            options = import ./publication-settings.nix { inherit lib; };
          };
          default = { };
          example = {
            root = "/srv/store";
            publication = "/srv/publications/main";
            schedule = "daily";
          };
          description = ''
            The publication's description, which becomes
            {file}`/etc/overstore/publications/NAME.toml`. The program checks it when the
            system is built: a mistake stops the build.
          '';
        };
        file = mkOption {
          type = types.path;
          internal = true;
          description = "The description's file.";
        };
      };
      config.file = import ./description.nix { inherit lib pkgs; } name config.settings;
    };

  units = pkgs.runCommand "overstore-publications" { preferLocalBuild = true; } ''
    ${cfg.buildProgram} units \
      --program ${cfg.package}/bin/overstore \
      --output $out/lib/systemd/system \
      ${lib.concatMapStringsSep " " (it: "--publication ${it.file}") (lib.attrValues publications)}
  '';
in
{
  options.services.overstore.publications = mkOption {
    type = types.attrsOf (types.submodule publication);
    default = { };
    description = ''
      Lower stores of others that are live stores of this system: of each, generations are
      made, complete and without change, while Nix goes on using it.
      {command}`systemctl start overstore-publish@NAME` makes one, and so does the schedule.
    '';
  };

  config = lib.mkIf (publications != { }) {
    environment.systemPackages = [ cfg.package ];
    environment.etc = lib.mapAttrs' (name: publication: {
      name = "overstore/publications/${name}.toml";
      value.source = publication.file;
    }) publications;
    systemd.packages = [ units ];
    # systemd.packages brings the timers, and not what wants them.
    systemd.timers = lib.mapAttrs' (name: _: {
      name = "overstore-publish@${lib.replaceStrings [ "-" ] [ "\\x2d" ] name}";
      value = {
        overrideStrategy = "asDropin";
        wantedBy = [ "timers.target" ];
      };
    }) scheduled;
    assertions = lib.mapAttrsToList (name: _: {
      assertion = builtins.match "[A-Za-z0-9_][A-Za-z0-9_.-]*" name != null;
      message = "services.overstore.publications.\"${name}\": use letters, digits, `_`, `-` and `.` in its name.";
    }) publications;
  };
}
